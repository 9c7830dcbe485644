"""External keys: what may be created, changed, deleted, and how they are listed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.admin import KEY_RING, Admin, error_code, running_admin

KEY_NAME = f"{KEY_RING}/cryptoKeys/claude-prod"
GCP = {"type": "gcp", "key_name": KEY_NAME}
OTHER = {"provider_config": {"type": "gcp", "key_name": f"{KEY_NAME}-2"}}


@pytest.fixture(scope="module")
def shelf() -> Iterator[Admin]:
    """A sandbox with 23 external keys, which the paging tests count and no test changes."""
    with running_admin(minimal=True) as one:
        for number in range(23):
            one.register(f"{KEY_RING}/cryptoKeys/key-{number}")
        yield one


def test_creating_a_key_does_not_touch_it(admin: Admin) -> None:
    key = admin.register(KEY_NAME)
    result = admin.ok("POST", f"external_keys/{key}/validate")
    assert result["status"] == "failure"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "provider_config: field required"),
        ({"provider_config": {"type": "gcp"}}, "provider_config.key_name: field required"),
        ({"provider_config": {"type": "oci"}}, "provider_config"),
        ({"provider_config": GCP, "geo": "eu"}, "geo"),
        ({"provider_config": GCP, "display_name": ""}, "display_name"),
        ({"provider_config": GCP, "display_name": "x" * 256}, "display_name"),
        ({"provider_config": GCP, "colour": "red"}, "colour"),
        (
            {"provider_config": GCP | {"key_name": f"{KEY_NAME}/cryptoKeyVersions/1"}},
            "provider_config.key_name",
        ),
    ],
)
def test_a_malformed_key_is_refused_naming_the_field(
    admin: Admin, body: dict[str, object], message: str
) -> None:
    response = admin.call("POST", "external_keys", body)
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith(message)
    assert admin.ok("GET", "external_keys")["data"] == []


def test_a_version_name_passes_where_create_does_not_look(admin: Admin) -> None:
    """With this switch the service checks key names only at validation."""
    admin.control.switches(create_checks_key_name=False)
    assert admin.register(f"{KEY_NAME}/cryptoKeyVersions/1").startswith("ekey_01")


def test_the_same_key_name_twice_makes_two_keys_unless_the_switch_says_conflict(
    admin: Admin,
) -> None:
    assert admin.register(KEY_NAME) != admin.register(KEY_NAME)
    admin.control.switches(duplicate_external_key="conflict")
    response = admin.call("POST", "external_keys", {"provider_config": GCP})
    assert response.status_code == 409
    assert response.json()["error"]["type"] == "conflict_error"


@pytest.mark.parametrize("status", [400, 403])
def test_without_cmek_nothing_is_registered(admin: Admin, status: int) -> None:
    admin.control.switches(cmek_enabled=False, create_cmek_disabled_status=status)
    assert admin.call("POST", "external_keys", {"provider_config": GCP}).status_code == status
    assert admin.ok("GET", "external_keys")["data"] == []


def test_a_user_profile_must_exist(admin: Admin) -> None:
    body = {"provider_config": GCP, "user_profile_id": "uprof_01Nobody"}
    response = admin.call("POST", "external_keys", body)
    assert (response.status_code, error_code(response)) == (400, "user_profile_not_found")


def test_an_omitted_field_stays_and_the_display_name_can_always_change(admin: Admin) -> None:
    key = admin.working_key(display_name="before")
    assert admin.attach(admin.fresh(), key).status_code == 200
    admin.control.advance(60)
    changed = admin.ok("POST", f"external_keys/{key}", {"display_name": "after"})
    assert changed["display_name"] == "after"
    assert changed["provider_config"]["key_name"] == KEY_NAME
    assert changed["updated_at"] > changed["created_at"]
    assert admin.ok("POST", f"external_keys/{key}", {}) == changed


def test_the_key_name_of_a_google_key_never_changes(admin: Admin) -> None:
    """This holds for an unattached key too; the same configuration again is not a change."""
    key = admin.register(KEY_NAME)
    assert admin.call("POST", f"external_keys/{key}", {"provider_config": GCP}).status_code == 200
    assert admin.call("POST", f"external_keys/{key}", OTHER).status_code == 400
    assert admin.ok("GET", f"external_keys/{key}")["provider_config"]["key_name"] == KEY_NAME


@pytest.mark.parametrize("status", [400, 409])
def test_a_referenced_key_cannot_be_deleted_even_by_an_archived_workspace(
    admin: Admin, status: int
) -> None:
    """`attachment` covers live and archived workspaces, and so does the rule for deletion."""
    admin.control.switches(delete_attached_status=status)
    key, workspace = admin.working_key(), admin.fresh()
    assert admin.ok("GET", f"external_keys/{key}")["attachment"] == {"type": "unattached"}
    assert admin.attach(workspace, key).status_code == 200
    assert admin.ok("GET", f"external_keys/{key}")["attachment"] == {"type": "attached"}
    admin.ok("POST", f"workspaces/{workspace}/archive")
    assert admin.ok("GET", f"external_keys/{key}")["attachment"] == {"type": "attached"}
    assert admin.call("DELETE", f"external_keys/{key}").status_code == status


def test_a_deleted_key_is_gone(admin: Admin) -> None:
    key = admin.register(KEY_NAME)
    assert admin.ok("DELETE", f"external_keys/{key}") == {"id": key, "type": "external_key_deleted"}
    for method, path in (("GET", key), ("POST", key), ("DELETE", key), ("POST", f"{key}/validate")):
        assert admin.call(method, f"external_keys/{path}", {}).status_code == 404


def test_the_workspace_policy_protects_its_keys(admin: Admin) -> None:
    key = admin.register(KEY_NAME)
    admin.control.switches(workspace_policy_keys=[key])
    for response in (
        admin.call("POST", f"external_keys/{key}", OTHER),
        admin.call("DELETE", f"external_keys/{key}"),
    ):
        assert error_code(response) == "external_key_in_workspace_policy"
    assert admin.call("POST", f"external_keys/{key}", {"display_name": "x"}).status_code == 200


@given(limit=st.integers(1, 100))
@settings(max_examples=15, deadline=None)
def test_pages_of_any_size_show_every_key_once_and_newest_first(shelf: Admin, limit: int) -> None:
    seen: list[str] = []
    query: dict[str, object] = {"limit": limit}
    while len(seen) <= 23:
        page = shelf.ok("GET", "external_keys", None, **query)
        assert 0 < len(page["data"]) <= limit
        seen += [one["provider_config"]["key_name"].rpartition("-")[2] for one in page["data"]]
        if page["next_page"] is None:
            break
        query["page"] = page["next_page"]
    assert seen == [str(number) for number in reversed(range(23))]


def test_the_default_page_has_twenty(shelf: Admin) -> None:
    assert len(shelf.ok("GET", "external_keys")["data"]) == 20


def test_a_key_made_or_deleted_between_two_pages_disturbs_no_other(admin: Admin) -> None:
    """A cursor is a position in the order of creation, not an offset."""
    keys = [admin.register(f"{KEY_NAME}-{number}") for number in range(5)]
    first = admin.ok("GET", "external_keys", limit=2)
    admin.register(f"{KEY_NAME}-new")
    admin.ok("DELETE", f"external_keys/{first['data'][1]['id']}")
    rest = admin.ok("GET", "external_keys", page=first["next_page"])
    assert [one["id"] for one in rest["data"]] == [keys[2], keys[1], keys[0]]


@pytest.mark.parametrize("query", [{"limit": "0"}, {"limit": "101"}, {"limit": "x"}, {"page": "?"}])
def test_a_bad_page_or_limit_is_refused(shelf: Admin, query: dict[str, str]) -> None:
    assert shelf.call("GET", "external_keys", None, **query).status_code == 400


@given(text=st.text(min_size=1, max_size=30))
@settings(max_examples=40, deadline=None)
def test_only_our_own_cursors_are_taken(shelf: Admin, text: str) -> None:
    assert shelf.call("GET", "external_keys", None, page=text).status_code == 400
