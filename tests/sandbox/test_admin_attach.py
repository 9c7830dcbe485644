"""Attaching: the write-once key, its refusals and their codes."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.admin import Admin, error_code, running_admin
from tests.support.waiting import wait_until


def test_an_archived_workspace_takes_no_key_unless_the_switch_allows_it(full: Admin) -> None:
    archived, key = full.in_state("archived"), full.working_key()
    assert full.attach(archived, key).status_code == 400
    full.control.switches(attach_archived="allowed")
    assert full.attach(archived, key).json()["external_key_id"] == key


def test_a_key_is_written_once(admin: Admin) -> None:
    """Neither another key nor null nor an empty string ever replaces it."""
    workspace = admin.fresh()
    first, second = admin.working_key("one"), admin.working_key("two")
    assert admin.attach(workspace, first).json()["external_key_id"] == first
    for value in (second, None, "", "ekey_01Nobody"):
        response = admin.call("POST", f"workspaces/{workspace}", {"external_key_id": value})
        assert response.status_code == 400, value
    assert admin.ok("GET", f"workspaces/{workspace}")["external_key_id"] == first


@given(changes=st.lists(st.sampled_from(["one", "two", None, "nobody"]), max_size=6))
@settings(max_examples=15, deadline=None)
def test_no_sequence_of_updates_changes_a_key_once_set(
    write_once: tuple[Admin, dict[str, str]], changes: list[str | None]
) -> None:
    admin, keys = write_once
    workspace = admin.ok("POST", "workspaces", {"name": "w"})["id"]
    first: str | None = None
    for change in changes:
        response = admin.attach(workspace, keys.get(change or "", change))  # type: ignore[arg-type]
        if first is None and response.status_code == 200:
            first = response.json()["external_key_id"]
        assert admin.ok("GET", f"workspaces/{workspace}")["external_key_id"] == first


def _refusal(response: httpx.Response) -> tuple[int, str | None]:
    return response.status_code, error_code(response)


@pytest.fixture(scope="module")
def write_once() -> Iterator[tuple[Admin, dict[str, str]]]:
    """A sandbox with two working keys."""
    with running_admin(minimal=True) as one:
        yield one, {"one": one.working_key("one"), "two": one.working_key("two")}


@pytest.mark.parametrize("status", [400, 409])
def test_replacing_has_the_status_of_the_switch(admin: Admin, status: int) -> None:
    """No public page says which status it is."""
    admin.control.switches(replace_key_status=status)
    assert admin.attach(admin.fresh(), admin.working_key("one")).status_code == 200
    assert admin.attach(admin.fresh(), admin.working_key("two")).status_code == status


def test_the_same_key_again_is_ok_unless_the_switch_refuses(admin: Admin) -> None:
    workspace, key = admin.fresh(), admin.working_key()
    assert admin.attach(workspace, key).status_code == 200
    assert admin.attach(workspace, key).status_code == 200
    admin.control.switches(same_key_again="refused")
    assert admin.attach(workspace, key).status_code == 400


def test_attaching_validates_and_a_refusal_changes_nothing_at_all(admin: Admin) -> None:
    workspace, key = admin.fresh(), admin.register()
    response = admin.attach(workspace, key, tags={"cmek": "yes"}, name="new name")
    assert _refusal(response) == (400, "external_key_validation_failed")
    before = admin.ok("GET", f"workspaces/{workspace}")
    unchanged: dict[str, object] = {"external_key_id": None, "tags": {}, "name": "payments-prod"}
    assert before | unchanged == before
    admin.control.switches(attach_validates=False)
    assert admin.attach(workspace, key).status_code == 200


def test_attaching_may_time_out(admin: Admin) -> None:
    key = admin.working_key()
    admin.control.switches(validation_times_out=True)
    assert _refusal(admin.attach(admin.fresh(), key)) == (400, "external_key_validation_timed_out")


def test_a_key_that_is_edited_during_the_attach_is_a_conflict(admin: Admin) -> None:
    """The key that was validated must be the key that is attached."""
    key, workspace = admin.working_key(), admin.fresh()
    admin.control.switches(validate_seconds=0.5)
    answers: list[httpx.Response] = []
    attaching = threading.Thread(target=lambda: answers.append(admin.attach(workspace, key)))
    attaching.start()
    wait_until(lambda: "workspaces.update" in admin.control.calls(), "arrived", 5)
    admin.ok("POST", f"external_keys/{key}", {"display_name": "edited"})
    attaching.join()
    assert _refusal(answers[0]) == (409, "external_key_changed")
    assert admin.ok("GET", f"workspaces/{workspace}")["external_key_id"] is None


@pytest.mark.parametrize("status", [400, 403])
def test_nothing_is_attached_while_cmek_is_not_enabled(admin: Admin, status: int) -> None:
    key = admin.working_key()
    admin.control.switches(cmek_enabled=False, attach_cmek_disabled_status=status)
    assert admin.attach(admin.fresh(), key).status_code == status


def test_key_and_workspace_must_have_the_same_user_profile(admin: Admin) -> None:
    profile = admin.world.admin.user_profiles[0]
    key = admin.working_key(user_profile_id=profile)
    assert _refusal(admin.attach(admin.fresh(), key)) == (400, "key_profile_mismatch")
    body = {"name": "theirs", "user_profile_id": profile, "external_key_id": key}
    assert admin.ok("POST", "workspaces", body)["external_key_id"] == key


def test_the_workspace_policy_limits_the_keys(admin: Admin) -> None:
    key = admin.working_key()
    admin.control.switches(workspace_policy_keys=["ekey_01Another"])
    response = admin.attach(admin.fresh(), key)
    expected = {"error_code": "workspace_policy_violation", "field": "external_key_id"}
    assert response.json()["error"]["details"] == expected
    admin.control.switches(workspace_policy_keys=[key])
    assert admin.attach(admin.fresh(), key).status_code == 200


def test_a_workspace_can_be_created_with_its_key(admin: Admin) -> None:
    body = {"name": "sealed", "external_key_id": admin.register(), "tags": {"env": "prod"}}
    refused = admin.call("POST", "workspaces", body)
    assert error_code(refused) == "external_key_validation_failed"
    assert "sealed" not in {one["name"] for one in admin.ok("GET", "workspaces")["data"]}
    body["external_key_id"] = admin.working_key()
    made = admin.ok("POST", "workspaces", body)
    assert (made["external_key_id"], made["tags"]) == (body["external_key_id"], {"env": "prod"})
    geos = {"allowed_inference_geos": "unrestricted", "default_inference_geo": "global"}
    assert made["data_residency"] == {"workspace_geo": "us"} | geos


def test_one_key_may_serve_several_workspaces(admin: Admin) -> None:
    """Claude Platform allows it."""
    key = admin.working_key()
    for workspace in (admin.fresh(), admin.in_state("default")):
        assert admin.attach(workspace, key).status_code == 200
