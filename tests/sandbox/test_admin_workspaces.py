"""Workspaces: listing, changing, archiving."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.admin import Admin, running_admin


@pytest.fixture(scope="module")
def many() -> Iterator[Admin]:
    """A sandbox with 17 workspaces, the default one and two archived ones included."""
    with running_admin(minimal=True) as one:
        for number in range(14):
            workspace = one.ok("POST", "workspaces", {"name": f"team-{number}"})
            if number in {3, 7}:
                one.ok("POST", f"workspaces/{workspace['id']}/archive")
        yield one


def _ids(page: dict[str, Any]) -> list[str]:
    return [one["id"] for one in page["data"]]


def test_the_sample_workspaces_are_what_the_ready_line_says(full: Admin) -> None:
    outcomes = {}
    for state in ("attached", "broken"):
        workspace = full.ok("GET", f"workspaces/{full.in_state(state)}")
        key = workspace["external_key_id"]
        assert full.ok("GET", f"external_keys/{key}")["attachment"] == {"type": "attached"}
        outcomes[state] = full.ok("POST", f"external_keys/{key}/validate")["status"]
    assert outcomes == {"attached": "success", "broken": "failure"}
    assert full.ok("GET", f"workspaces/{full.in_state('archived')}")["archived_at"]
    states = [one["state"] for one in full.sandbox.workspaces]
    assert sorted(states) == ["archived", "attached", "broken", "default", "fresh", "fresh"]


def test_the_default_workspace_is_listed_only_when_asked_for(full: Admin) -> None:
    """Retrieve always accepts its id; the switch lists it without being asked to."""
    default = full.in_state("default")
    assert default not in _ids(full.ok("GET", "workspaces"))
    assert default in _ids(full.ok("GET", "workspaces", include_default="true"))
    assert full.ok("GET", "workspaces", **{"ids[]": [default]})["data"] == []
    assert full.ok("GET", f"workspaces/{default}")["name"] == "Default"
    full.control.switches(default_workspace_listed=True)
    assert default in _ids(full.ok("GET", "workspaces"))


def test_archived_workspaces_are_listed_only_when_asked_for(full: Admin) -> None:
    archived = full.in_state("archived")
    assert archived not in _ids(full.ok("GET", "workspaces"))
    assert archived in _ids(full.ok("GET", "workspaces", include_archived="true"))


def test_ids_narrow_the_list(full: Admin) -> None:
    fresh = full.fresh()
    assert _ids(full.ok("GET", "workspaces", **{"ids[]": [fresh, "wrkspc_01Nobody"]})) == [fresh]
    many = [f"wrkspc_{number:06}" for number in range(101)]
    assert full.call("GET", "workspaces", **{"ids[]": many}).status_code == 400


@given(
    limit=st.integers(3, 20),
    archived=st.booleans(),
    default=st.booleans(),
    order=st.sampled_from(["oldest_first", "newest_first"]),
)
@settings(max_examples=15, deadline=None)
def test_pages_of_any_size_show_every_workspace_once_in_both_directions(
    many: Admin, *, limit: int, archived: bool, default: bool, order: str
) -> None:
    many.control.switches(workspace_order=order)
    shown = {"include_archived": archived, "include_default": default}
    query = {name: str(value).lower() for name, value in shown.items()}
    whole = _ids(many.ok("GET", "workspaces", limit=1000, **query))
    assert len(whole) == 14 + 2 * archived + default
    assert _walk(many, limit, query, "after_id") == whole
    backwards = _walk(many, limit, query, "before_id", start=whole[-1])
    assert backwards == whole[:-1]


def _walk(
    admin: Admin, limit: int, query: dict[str, str], name: str, start: str | None = None
) -> list[str]:
    seen: list[str] = []
    place = start
    while len(seen) <= 17:
        given_place = {name: place} if place else {}
        page = admin.ok("GET", "workspaces", limit=limit, **query, **given_place)
        ids = _ids(page)
        assert len(ids) <= limit
        assert (page["first_id"], page["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))
        seen = seen + ids if name == "after_id" else ids + seen
        if not page["has_more"]:
            break
        place = ids[-1] if name == "after_id" else ids[0]
    return seen


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "0"},
        {"limit": "1001"},
        {"include_archived": "yes"},
        {"after_id": "wrkspc_01Nobody"},
        {"after_id": "wrkspc_01Default111111111111111", "before_id": "x"},
    ],
)
def test_a_bad_list_query_is_refused(many: Admin, query: dict[str, str]) -> None:
    assert many.call("GET", "workspaces", None, **query).status_code == 400


def test_tags_merge_and_null_removes(admin: Admin) -> None:
    path = f"workspaces/{admin.fresh()}"
    admin.ok("POST", path, {"tags": {"a": "1", "b": "2"}})
    assert admin.ok("POST", path, {"tags": {"a": None, "c": "3"}})["tags"] == {"b": "2", "c": "3"}


def test_the_home_of_a_workspace_never_moves_and_its_inference_may(admin: Admin) -> None:
    path = f"workspaces/{admin.fresh()}"
    moved = {"data_residency": {"workspace_geo": "us"}}
    assert admin.call("POST", path, moved).status_code == 400
    geos = {"allowed_inference_geos": ["us"], "default_inference_geo": "us"}
    residency = admin.ok("POST", path, {"data_residency": geos})["data_residency"]
    assert residency == {"workspace_geo": "us"} | geos


def test_the_default_workspace_can_be_neither_renamed_nor_archived(admin: Admin) -> None:
    default = admin.in_state("default")
    assert admin.call("POST", f"workspaces/{default}", {"name": "x"}).status_code == 400
    assert admin.call("POST", f"workspaces/{default}/archive").status_code == 400
    assert admin.attach(default, admin.working_key()).status_code == 200


def test_archiving_twice_keeps_the_first_time(admin: Admin) -> None:
    path = f"workspaces/{admin.fresh()}/archive"
    first = admin.ok("POST", path)["archived_at"]
    admin.control.advance(3600)
    assert admin.ok("POST", path)["archived_at"] == first


def test_a_name_twice_is_allowed_or_refused_and_an_archived_one_frees_it(admin: Admin) -> None:
    first = admin.ok("POST", "workspaces", {"name": "twice"})["id"]
    assert admin.ok("POST", "workspaces", {"name": "twice"})["id"] != first
    admin.control.switches(workspace_name_again="refused", workspace_name_again_status=400)
    before = len(admin.world.admin.workspaces)
    assert admin.call("POST", "workspaces", {"name": "twice"}).status_code == 400
    assert len(admin.world.admin.workspaces) == before
    once = admin.ok("POST", "workspaces", {"name": "once"})["id"]
    admin.ok("POST", f"workspaces/{once}/archive")
    admin.ok("POST", "workspaces", {"name": "once"})


def test_live_workspaces_are_limited_and_archived_ones_do_not_count(admin: Admin) -> None:
    live = [one for one in admin.world.admin.workspaces.values() if not one.is_default]
    admin.control.switches(workspace_limit=len(live) + 1)
    last = admin.ok("POST", "workspaces", {"name": "last"})["id"]
    assert admin.call("POST", "workspaces", {"name": "too many"}).status_code == 400
    admin.ok("POST", f"workspaces/{last}/archive")
    admin.ok("POST", "workspaces", {"name": "again"})


def test_reserved_tags_are_refused(admin: Admin) -> None:
    """Names that start with `anthropic` are reserved."""
    tags = {"tags": {"anthropic-x": "1"}}
    assert admin.call("POST", "workspaces", {"name": "tagged", **tags}).status_code == 400
    assert admin.call("POST", f"workspaces/{admin.fresh()}", tags).status_code == 400
