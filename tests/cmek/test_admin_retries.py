"""The Admin API client when the transport fails, with each fault before and after the effect."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest
import stamina
from pydantic import SecretStr
from stamina.instrumentation import get_on_retry_hooks, set_on_retry_hooks

from cmek._http import Failed, try_read
from cmek.anthropic.auth import AdminKey
from cmek.anthropic.client import AdminApi
from cmek.anthropic.errors import (
    AdminApiError,
    AdminConnectionError,
    AdminResponseError,
    AdminTimeoutError,
    ConflictError,
    ExternalKeyChangedError,
    ExternalKeyValidationTimeoutError,
    InternalServerError,
    NotFoundError,
    RateLimitError,
)
from tests.support.clients import Rig

pytestmark = pytest.mark.anyio

NOBODY = "http://127.0.0.1:9"
LOST: list[dict[str, Any]] = [
    {"kind": "error", "status": 500},
    {"kind": "error", "status": 503},
    {"kind": "error", "status": 529},
    {"kind": "error", "status": 408},
    {"kind": "reset"},
    {"kind": "truncate"},
    {"kind": "html", "status": 502},
    {"kind": "html", "status": 200},
]
"""Faults after which it is unknown whether the call had its effect."""

each_loss = pytest.mark.parametrize("fault", LOST, ids=lambda f: "-".join(map(str, f.values())))
before_or_after = pytest.mark.parametrize("when", ["before", "after"])


@each_loss
@before_or_after
async def test_a_read_is_repeated_until_it_answers(rig: Rig, fault: Any, when: str) -> None:
    """Two faults, then an answer: the caller gets the answer."""
    rig.control.fault("organization.me", when=when, times=2, **fault)
    async with rig.admin() as api:
        assert (await api.organization.me()).name == "Acme"
    assert rig.calls() == ["organization.me"] * 3


@each_loss
async def test_a_read_gives_up_after_four_attempts(rig: Rig, fault: Any) -> None:
    """No more than four requests, then a typed error that names the call."""
    rig.control.fault("organization.me", times=9, **fault)
    async with rig.admin() as api:
        with pytest.raises(AdminApiError, match="/v1/organizations/me") as caught:
            await api.organization.me()
    assert rig.calls() == ["organization.me"] * 4
    assert not caught.value.ambiguous


@each_loss
@before_or_after
async def test_validate_is_a_read(rig: Rig, fault: Any, when: str) -> None:
    """A validation changes nothing, so a lost one is repeated."""
    async with rig.admin() as api:
        key = await api.external_keys.create(rig.key_name())
        rig.control.fault("external_keys.validate", when=when, times=2, **fault)
        assert (await api.external_keys.validate(key.id)).status == "failure"


@each_loss
@before_or_after
async def test_a_lost_registration_is_not_repeated(rig: Rig, fault: Any, when: str) -> None:
    """There is one request and an error that says that the key may exist: no second key is made."""
    rig.control.fault("external_keys.create", when=when, **fault)
    name = rig.key_name()
    async with rig.admin() as api:
        with pytest.raises(AdminApiError) as caught:
            await api.external_keys.create(name)
        assert caught.value.ambiguous
        assert "may have taken effect" in str(caught.value)
        rig.control.clear_faults()
        names = [key.gcp_key_name async for key in api.external_keys.list()]
    assert names.count(name) == (1 if when == "after" else 0)
    assert rig.calls(write=True) == ["external_keys.create"]


async def test_a_registration_that_certainly_had_no_effect_is_repeated(rig: Rig) -> None:
    rig.control.fault("external_keys.create", status=429, times=2)
    async with rig.admin() as api:
        await api.external_keys.create(rig.key_name())
    assert len(rig.calls(write=True)) == 3


async def test_a_duplicate_registration_is_an_error_at_once(rig: Rig) -> None:
    """409 on create means that the caller has to read again."""
    rig.control.switches(duplicate_external_key="conflict")
    name = rig.key_name()
    async with rig.admin() as api:
        await api.external_keys.create(name)
        with pytest.raises(ConflictError) as caught:
            await api.external_keys.create(name)
    assert not caught.value.ambiguous
    assert len(rig.calls(write=True)) == 2


@pytest.mark.parametrize(
    "fault", [*LOST, {"status": 429}, {"status": 409}], ids=lambda f: "-".join(map(str, f.values()))
)
@before_or_after
@pytest.mark.parametrize("operation", ["attach", "create"])
async def test_attach_and_workspace_creation_are_sent_once(
    rig: Rig, fault: Any, when: str, operation: str
) -> None:
    """After any fault there is exactly one request; the task reads before it decides."""
    rig.control.switches(attach_validates=False, replace_key_status=409)
    operations: dict[str, Callable[[AdminApi, str], Awaitable[object]]] = {
        "attach": lambda api, key: api.workspaces.update(
            rig.fresh_workspace(), external_key_id=key
        ),
        "create": lambda api, key: api.workspaces.create("new", key),
    }
    async with rig.admin() as api:
        await api.workspaces.create("one more")
        key = await api.external_keys.create(rig.key_name())
        rig.control.clear_log()
        rig.control.fault("workspaces.*", when=when, times=9, **fault)
        with pytest.raises(AdminApiError) as caught:
            await operations[operation](api, key.id)
    assert len(rig.calls()) == 1
    assert caught.value.ambiguous is (fault.get("status") not in {429, 409})


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("external_key_validation_timed_out", 400, ExternalKeyValidationTimeoutError),
        ("external_key_changed", 409, ExternalKeyChangedError),
    ],
)
async def test_conditions_of_the_attach_task_are_left_to_it(
    rig: Rig, code: str, status: int, expected: type[Exception]
) -> None:
    """The task must read everything again first, so the client repeats nothing, not even a read."""
    details = {"error_code": code}
    body = {"type": "error", "error": {"type": "x", "message": "y", "details": details}}
    rig.control.fault("*", status=status, body=body, times=9)
    async with rig.admin() as api:
        with pytest.raises(expected) as caught:
            await api.workspaces.update(rig.fresh_workspace(), external_key_id="ekey_01Some")
        assert isinstance(caught.value, AdminApiError)
        assert not caught.value.ambiguous
        with pytest.raises(expected):
            await api.organization.me()
    assert len(rig.calls()) == 2


async def test_tags_are_set_again_after_a_loss(rig: Rig) -> None:
    rig.control.fault("workspaces.update", when="after", kind="reset")
    async with rig.admin() as api:
        workspace = await api.workspaces.update(rig.fresh_workspace(), tags={"a": "b"})
        assert workspace.tags["a"] == "b"


async def test_the_server_may_forbid_repeats(rig: Rig) -> None:
    """`x-should-retry: false` is obeyed."""
    rig.control.fault("organization.me", status=500, headers={"x-should-retry": "false"})
    async with rig.admin() as api:
        with pytest.raises(InternalServerError):
            await api.organization.me()
    assert len(rig.calls()) == 1


async def test_a_wait_that_the_budget_allows_is_observed(rig: Rig) -> None:
    """Between two attempts at least `retry-after` passes, and at most half a second more."""
    waits: list[float] = []
    hooks = get_on_retry_hooks()
    rig.control.fault("organization.me", status=429, headers={"retry-after": "0.2"})
    started = time.monotonic()
    set_on_retry_hooks([lambda details: waits.append(details.wait_for)])
    try:
        async with rig.admin() as api:
            with stamina.set_testing(False):
                await api.organization.me()
    finally:
        set_on_retry_hooks(hooks)
    assert time.monotonic() - started >= 0.2
    (wait,) = waits
    assert 0.2 <= wait <= 0.7
    assert len(rig.calls()) == 2


async def test_a_wait_beyond_the_budget_ends_the_call_at_once(rig: Rig) -> None:
    """The error carries the seconds, so that a task can wait that long."""
    rig.control.fault("organization.me", status=429, headers={"retry-after": "61"}, times=9)
    async with rig.admin() as api:
        with pytest.raises(RateLimitError) as caught:
            await api.organization.me()
    assert caught.value.retry_after == 61
    assert len(rig.calls()) == 1


async def test_a_page_of_a_proxy_is_not_a_missing_resource(rig: Rig) -> None:
    """A 404 without the Admin API's body says nothing about the workspace."""
    rig.control.fault("workspaces.retrieve", kind="html", status=404, times=9)
    async with rig.admin() as api:
        with pytest.raises(AdminResponseError, match="prox"):
            await api.workspaces.retrieve(rig.fresh_workspace())
        assert len(rig.calls()) == 1
        rig.control.clear_faults()
        with pytest.raises(NotFoundError):
            await api.workspaces.retrieve("wrkspc_01NoSuchWorkspace")


async def test_an_answer_that_does_not_come_in_time_is_given_up(rig: Rig) -> None:
    """A write that timed out may have had its effect; a read has none."""
    rig.control.fault("workspaces.*", kind="delay", seconds=1, times=9)
    async with rig.admin(timeout_seconds=0.05, slow_timeout_seconds=0.05) as api:
        with pytest.raises(AdminTimeoutError) as caught:
            await api.workspaces.update(rig.fresh_workspace(), external_key_id="ekey_01Some")
        assert caught.value.ambiguous
        with pytest.raises(AdminTimeoutError) as caught:
            await api.workspaces.retrieve(rig.fresh_workspace())
        assert not caught.value.ambiguous


async def test_a_refused_connection_is_repeated_and_certainly_had_no_effect(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nobody listens: even a registration is tried four times, and each failure is logged."""
    async with aclosing(AdminApi(NOBODY, AdminKey(SecretStr("sk-ant-admin01-FAKE")))) as api:
        with pytest.raises(AdminConnectionError) as caught:
            await api.external_keys.create("projects/p/locations/l/keyRings/r/cryptoKeys/k")
    assert not caught.value.ambiguous
    logged = [record.getMessage() for record in caplog.records]
    assert [text[:16] for text in logged] == [f"attempt {n} failed" for n in (1, 2, 3)]


async def test_a_list_that_never_ends_is_an_error(rig: Rig) -> None:
    """The same cursor comes twice: the client raises instead of reading forever."""
    body = {"data": [], "next_page": "same-again"}
    rig.control.fault("external_keys.list", status=200, body=body, times=9)
    async with rig.admin() as api:
        with pytest.raises(AdminResponseError, match="does not end"):
            [key async for key in api.external_keys.list()]
    assert len(rig.calls()) == 2


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_the_page_of_a_proxy_is_no_answer_of_anthropics(rig: Rig, status: int) -> None:
    """Its 404 would prove that a key is gone, its 403 that the credential is refused."""
    rig.control.fault("external_keys.retrieve", kind="html", status=status, times=9)
    async with rig.admin() as api:
        read = await try_read(api.external_keys.retrieve("ekey_01TestKey"))
    assert isinstance(read, Failed)
    assert read.status == "NOT_ANTHROPIC"
    assert "proxies" in str(read.remedy)
