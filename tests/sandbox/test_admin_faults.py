"""The fault script over HTTP: each kind, before and after the effect."""

from __future__ import annotations

import json
import time

import httpx
import pytest

from sandbox.control import TOKEN_HEADER
from tests.support.admin import Admin
from tests.support.waiting import wait_until

CREATE = "workspaces.create"


def _names(admin: Admin) -> list[str]:
    return [one["name"] for one in admin.ok("GET", "workspaces")["data"]]


@pytest.mark.parametrize(("when", "happened"), [("before", False), ("after", True)])
def test_a_fault_strikes_before_or_after_the_effect(
    admin: Admin, when: str, *, happened: bool
) -> None:
    admin.control.fault(CREATE, when=when, status=503)
    response = admin.call("POST", "workspaces", {"name": "struck"})
    assert response.status_code == 503
    assert response.json()["error"]["type"] == "overloaded_error"
    assert ("struck" in _names(admin)) == happened
    assert admin.control.log(call=CREATE)[0]["effect"] == happened
    assert admin.call("POST", "workspaces", {"name": "second"}).status_code == 200


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_reset_breaks_the_connection_in_the_middle_of_the_answer(admin: Admin, when: str) -> None:
    admin.control.fault(CREATE, when=when, kind="reset")
    with pytest.raises(httpx.TransportError):
        admin.call("POST", "workspaces", {"name": "cut"})
    assert ("cut" in _names(admin)) == (when == "after")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_truncated_answer_has_status_200_and_is_no_json(admin: Admin, when: str) -> None:
    admin.control.fault(CREATE, when=when, kind="truncate")
    response = admin.call("POST", "workspaces", {"name": "half"})
    assert response.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        response.json()


def test_a_proxy_may_answer_instead(admin: Admin) -> None:
    admin.control.fault("*", kind="html", status=502)
    response = admin.call("GET", "me")
    assert response.status_code == 502
    assert response.headers["content-type"].startswith("text/html")


def test_a_delay_only_delays(admin: Admin) -> None:
    admin.control.fault("organization.me", kind="delay", seconds=0.2)
    began = time.monotonic()
    assert admin.call("GET", "me").status_code == 200
    assert time.monotonic() - began >= 0.2


def test_headers_and_codes_of_the_script_arrive(admin: Admin) -> None:
    admin.control.fault("organization.me", status=429, headers={"retry-after": "7"})
    limited = admin.call("GET", "me")
    assert (limited.status_code, limited.headers["retry-after"]) == (429, "7")
    admin.control.fault("workspaces.update", status=409, error_code="external_key_changed")
    changed = admin.call("POST", f"workspaces/{admin.fresh()}", {"name": "x"})
    assert changed.json()["error"]["details"] == {"error_code": "external_key_changed"}


def test_times_and_skip_count_matching_calls(admin: Admin) -> None:
    admin.control.fault("organization.*", status=500, skip=1, times=2)
    codes = [admin.call("GET", "me").status_code for _ in range(4)]
    assert codes == [200, 500, 500, 200]
    assert admin.control.faults() == []


def test_an_unreadable_line_of_the_script_is_refused(admin: Admin) -> None:
    """A misspelt field must not become a fault that never happens."""
    response = httpx.post(
        f"{admin.sandbox.http}/_sandbox/faults",
        json={"call": "x", "tmes": 2},
        headers={TOKEN_HEADER: admin.sandbox.control_token},
        trust_env=False,
    )
    assert response.status_code == 400
    assert "tmes" in response.json()["error"]


def test_a_late_call_takes_effect_after_its_connection_broke(admin: Admin) -> None:
    """So it is when a service still works on a call that its caller has given up."""
    admin.control.fault("workspaces.create", kind="late")
    with pytest.raises(httpx.HTTPError):
        admin.call("POST", "workspaces", {"name": "late"})
    made = admin.world.admin.workspaces
    assert "late" not in {one.name for one in made.values()}
    admin.control.fault("workspaces.list", kind="release")
    admin.call("GET", "workspaces")
    assert "late" in {one.name for one in made.values()}


def test_a_late_call_with_seconds_breaks_now_and_takes_effect_then(admin: Admin) -> None:
    """The caller does not wait for the effect."""
    admin.control.fault("workspaces.create", kind="late", seconds=3600)
    with pytest.raises(httpx.RemoteProtocolError):
        admin.call("POST", "workspaces", {"name": "next hour"})
    admin.control.fault("workspaces.create", kind="late", seconds=0.05)
    with pytest.raises(httpx.RemoteProtocolError):
        admin.call("POST", "workspaces", {"name": "soon"})
    made = admin.world.admin.workspaces
    wait_until(lambda: "soon" in {one.name for one in made.values()}, "made")
    assert "next hour" not in {one.name for one in made.values()}
