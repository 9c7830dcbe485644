"""The gateway dies, or its upstream fails, at any call of an attach: one effect, no second send."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import httpx
import pytest

from cmek.anthropic.client import PENDING_CREATE_LIFETIME, AdminApi
from cmek.anthropic.errors import AdminApiError
from cmek.errors import CmekError
from gateway.attach import SteadyClock
from gateway.journal import IntentOutcome, Journal, NonceUsedError
from gateway.rules import PolicyError
from tests.support.fault_scripts import faults_of
from tests.support.gateway import Gateways
from tests.support.runs import Killed
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

CALLS: Final = {
    False: (
        "external_keys.retrieve",
        "workspaces.retrieve",
        "external_keys.validate",
        "workspaces.update",
    ),
    True: (
        "external_keys.retrieve",
        "workspaces.list",
        "external_keys.validate",
        "workspaces.create",
    ),
}
POINTS: Final = [
    (creates, number, when)
    for creates in (False, True)
    for number in range(1, 5)
    for when in ("before", "after")
]


def kill_at(api: AdminApi, number: int, when: str) -> None:
    """Kill the gateway before or after the nth call of this client."""
    seen = 0

    async def before(request: httpx.Request) -> None:
        nonlocal seen
        seen += 1
        if (seen, when) == (number, "before"):
            raise Killed

    async def after(response: httpx.Response) -> None:
        if (seen, when) == (number, "after"):
            raise Killed

    api._transport._http.event_hooks = {"request": [before], "response": [after]}


@dataclass
class Attempts:
    """Gateways with one journal, one after the other, each like a new process."""

    gate: Gateways
    creates: bool
    later: timedelta = timedelta()

    async def once(self, approvals: str, kill: tuple[int, str] | None = None) -> None:
        """Start a gateway, settle what is open, and try once."""
        journal = Journal(self.gate.journal)
        clock = SteadyClock(journal.latest_time(), wall=lambda: datetime.now(UTC) + self.later)
        try:
            async with self.gate.upstream() as api:
                attacher = self.gate.attacher(journal, api, clock)
                with suppress(AdminApiError):
                    await attacher.settle_unsettled()
                if kill is not None:
                    kill_at(api, *kill)
                target = self.gate.new if self.creates else self.target
                await attacher.attach(target, approvals)
        finally:
            journal.close()

    def __post_init__(self) -> None:
        # fixed now: once this workspace has its key, `target` would be another one
        self.target = self.gate.target

    def approvals(self) -> str:
        """New approvals, valid until long after `later`."""
        said = self.gate.statement(new=self.creates)
        expires = said.expires_at + timedelta(hours=1)
        fields: dict[str, Any] = {"expires_at": expires}
        if not self.creates:
            fields["workspace_id"] = self.target.workspace_id
        return self.gate.approvals(said.model_copy(update=fields))

    async def converge(self, approvals: str, *, spent: bool) -> None:
        """Go on as people would: the same approval, and if that one may be spent, a new one."""
        with suppress(*((NonceUsedError, PolicyError) if spent else ())):
            return await self.once(approvals)
        if self.creates:
            self.later = PENDING_CREATE_LIFETIME + timedelta(minutes=1)
        return await self.once(self.approvals())


def check_end(gate: Gateways) -> None:
    """One workspace with the key, one effect, and a read between any two requests."""
    assert len(gate.keys_attached()) == 1
    assert gate.sent().count(True) == 1
    calls = [one.call for one in gate.sandbox.world.log.entries]
    sends = [
        n for n, call in enumerate(calls) if call in {"workspaces.update", "workspaces.create"}
    ]
    for first, second in itertools.pairwise(sends):
        between = calls[first:second]
        assert "workspaces.retrieve" in between or "workspaces.list" in between


@pytest.mark.parametrize(("creates", "number", "when"), POINTS)
async def test_a_gateway_that_dies_at_any_call_attaches_once(
    gate: Gateways, creates: bool, number: int, when: str
) -> None:
    """The same approval is enough, unless it may have been sent."""
    attempts = Attempts(gate, creates)
    approvals = attempts.approvals()
    with pytest.raises(Killed):
        await attempts.once(approvals, (number, when))
    await attempts.converge(approvals, spent=(number, when) == (4, "before"))
    check_end(gate)


@pytest.mark.parametrize("creates", [False, True])
async def test_an_approval_is_never_sent_twice_after_a_crash_while_sending(
    gate: Gateways, creates: bool
) -> None:
    attempts = Attempts(gate, creates)
    approvals = attempts.approvals()
    with pytest.raises(Killed):
        await attempts.once(approvals, (4, "before"))
    with pytest.raises((NonceUsedError, PolicyError)):
        await attempts.once(approvals)
    journal = Journal(gate.journal)
    assert [one.outcome for one in journal.unsettled()] == [IntentOutcome.UNKNOWN]
    journal.close()
    assert gate.sent() == []


async def test_a_crash_after_the_effect_is_settled_by_a_read_at_the_next_start(
    gate: Gateways,
) -> None:
    attempts = Attempts(gate, creates=False)
    with pytest.raises(Killed):
        await attempts.once(attempts.approvals(), (4, "after"))
    journal = Journal(gate.journal)
    async with gate.upstream() as api:
        await gate.attacher(journal, api).settle_unsettled()
    assert journal.unsettled() == ()
    journal.close()
    assert gate.sent() == [True]


async def test_a_name_that_was_used_before_hides_no_create_that_may_still_appear(
    gate: Gateways,
) -> None:
    """The first workspace was archived, so its name is free; the pending create still blocks it."""
    journal = Journal(gate.journal)
    async with gate.upstream() as api:
        attacher = gate.attacher(journal, api)

        async def create(run_id: str) -> None:
            signed = gate.approvals(gate.statement(new=True, run_id=run_id))
            await attacher.attach(replace(gate.new, run_id=run_id), signed)

        first, second, third = (str(UUID(int=n)) for n in (1, 2, 3))
        await create(first)
        (made,) = gate.keys_attached()
        gate.sandbox.world.admin.workspaces[made].archived_at = "2026-11-28T00:00:00Z"
        gate.fault("workspaces.create", kind="reset", times=1)
        with pytest.raises(AdminApiError):
            await create(second)
        assert [one.run_id for one in journal.unsettled()] == [second]
        with pytest.raises(PolicyError, match="may still appear"):
            await create(third)
    journal.close()


FAULTS: Final = [
    (creates, call, tuple(fault.items()), when, times)
    for creates, calls in CALLS.items()
    for call in calls
    for fault in faults_of("admin", call)
    for when in ("before", "after")
    for times in (1, 1000)
    # "nothing was done" after it was done can't be told from the truth
    if not (when == "after" and dict(fault).get("status") in {400, 409, 429} and call == calls[-1])
]


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(one, marks=[] if number % 23 == 0 else [pytest.mark.prove])
        for number, one in enumerate(FAULTS)
    ],
)
async def test_whatever_fails_at_any_call_it_attaches_once(
    gate: Gateways, script: tuple[bool, str, tuple[Any, ...], str, int]
) -> None:
    creates, call, fault, when, times = script
    attempts = Attempts(gate, creates)
    approvals = attempts.approvals()
    gate.fault(call, when=when, times=times, **dict(fault))
    with suppress(CmekError):
        await attempts.once(approvals)
    gate.sandbox.world.faults.clear()
    await attempts.converge(approvals, spent=call == CALLS[creates][-1])
    check_end(gate)


async def test_a_cancelled_request_leaves_an_intent_that_is_settled(gate: Gateways) -> None:
    """The client disconnects while Anthropic works; the intent is on disk nevertheless."""
    attempts = Attempts(gate, creates=False)
    gate.fault("workspaces.update", when="after", kind="delay", seconds=5)
    trying = asyncio.create_task(attempts.once(attempts.approvals()))
    await asyncio.to_thread(wait_until, gate.sent, "sent")
    trying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trying
    await attempts.converge(attempts.approvals(), spent=False)
    assert gate.sent() == [True]
