"""The activity feed: what is recorded, and how it is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.admin import Admin, running_admin


@pytest.fixture(scope="module")
def admin() -> Iterator[Admin]:
    """A sandbox in which one onboarding, and the end of another workspace, were recorded."""
    with running_admin(minimal=True) as one:
        one.ok("POST", "workspaces", {"name": "unrecorded"})
        one.control.switches(compliance_api_enabled=True)
        key = one.working_key()
        one.ok("POST", f"external_keys/{key}/validate")
        one.ok("POST", f"external_keys/{key}", {"display_name": "renamed"})
        one.control.advance(3600)
        made = one.ok("POST", "workspaces", {"name": "new"})["id"]
        one.attach(made, key)
        one.attach(made, key)
        one.ok("POST", f"workspaces/{made}/archive")
        one.ok("DELETE", f"external_keys/{one.register()}")
        yield one


def _feed(admin: Admin, **query: Any) -> dict[str, Any]:
    response = admin.http.get("/v1/compliance/activities", params=query)
    assert response.status_code == 200, response.text
    return response.json()


def test_what_happened_is_told_newest_first_and_only_from_when_it_was_switched_on(
    admin: Admin,
) -> None:
    """An attach is an update of `external_key_config_id`; a repeated one is no update."""
    kinds = [one["type"] for one in _feed(admin)["data"]]
    assert kinds == [
        "org_external_key_deleted",
        "org_external_key_created",
        "platform_workspace_archived",
        "platform_workspace_updated",
        "platform_workspace_created",
        "org_external_key_updated",
        "org_external_key_validated",
        "org_external_key_created",
    ]
    attach = _feed(admin)["data"][3]
    assert [one["type"] for one in attach["updates"]] == ["external_key_config_id"]
    assert attach["updates"][0]["previous_value"] == ""


def test_filters_narrow_the_feed(admin: Admin) -> None:
    """By type, by its opposite, by time; both types at once are refused."""
    wanted = {"activity_types[]": ["org_external_key_created", "platform_workspace_created"]}
    assert len(_feed(admin, **wanted)["data"]) == 3
    without = {"exclude_activity_types[]": ["org_external_key_created"]}
    assert len(_feed(admin, **without)["data"]) == 6
    border = _feed(admin)["data"][4]["created_at"]
    assert len(_feed(admin, **{"created_at.gte": border})["data"]) == 5
    assert len(_feed(admin, **{"created_at.gt": border})["data"]) == 4
    assert len(_feed(admin, **{"created_at.lt": border})["data"]) == 3
    both = admin.http.get("/v1/compliance/activities", params=wanted | without)
    assert both.status_code == 400


@pytest.mark.parametrize("limit", [1, 3, 8, 5000])
def test_after_id_walks_into_the_past_and_before_id_back(admin: Admin, limit: int) -> None:
    """Each activity once, whatever the page size."""
    whole = [one["id"] for one in _feed(admin)["data"]]
    seen: list[str] = []
    page = _feed(admin, limit=limit)
    seen += [one["id"] for one in page["data"]]
    while page["has_more"] and len(seen) <= len(whole):
        page = _feed(admin, limit=limit, after_id=page["last_id"])
        seen += [one["id"] for one in page["data"]]
    assert seen == whole
    newer = _feed(admin, limit=limit, before_id=whole[-1])
    assert [one["id"] for one in newer["data"]] == whole[:-1][-limit:]


@pytest.mark.parametrize(
    "query",
    [{"limit": "5001"}, {"created_at.gte": "yesterday"}, {"created_at.lt": "2026-01-01"}],
)
def test_a_bad_query_is_refused(admin: Admin, query: dict[str, str]) -> None:
    """400; a time without a zone is not guessed at."""
    assert admin.http.get("/v1/compliance/activities", params=query).status_code == 400
