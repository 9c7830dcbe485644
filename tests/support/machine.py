"""The gate and the onboarding as a state machine: what people, faults and attackers may do.

A witness that shares no code with the gate judges each attach that took effect.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from cmek.onboarding.approval import ApprovalRequest
from cmek.onboarding.request import OnboardingRequest
from cmek.tags import CREATED_BY_TAG
from sandbox.identities import PROJECT_ID
from sandbox.world import Entry
from tests.support.crashes import never
from tests.support.determinism import computed_once, deterministic
from tests.support.driver import Driver, Hook, driving
from tests.support.runs import Killed, Run, approval_of
from tests.support.scene import EVENTS, HARMFUL, Scene, Sight
from tests.support.signing import GRACE, KATHERINE, Office

REQUESTER = "ada@example.com"
EVE = "eve@example.com"
MAX_RUNS = 3
TAMPERED: dict[str, dict[str, Any]] = {
    "decision": {"decision": "reject"},
    "workspace_id": {"workspace_id": "wrkspc_01SomethingElse1111111111"},
    "workspace_name": {"workspace_name": "born-encryptеd"},
    "approver": {"approver": REQUESTER},
    "nobody": {"approver": ""},
    "comment": {"comment": ""},
    "plan_digest": {"plan_digest": "f" * 64},
    "warnings": {"acknowledge_warnings": False},
    "field": {"extra": "field"},
    "nothing": {"decision": None},
}
BETWEEN = ("nothing", "event", "event at a call", "expiry", "parameters")
"""What may come between a response and the attach."""


class Onboarding(RuleBasedStateMachine):
    """Up to three runs for one workspace; `driver` is shared by all schedules."""

    driver: ClassVar[Driver]
    office: ClassVar[Office]
    required: ClassVar[int] = 0
    tally: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.surroundings = ExitStack()
        self.clock = self.surroundings.enter_context(deterministic())
        self.scene = Scene(self.driver.sandbox.world)
        self.scene.new()
        self.driver.runs.clear()
        self.approval_request: dict[tuple[str, str], list[Sight]] = {}
        self.honest: dict[tuple[str, str], bool] = {}
        self.first: dict[str, OnboardingRequest] = {}
        self.stolen: list[dict[str, Any]] = []
        self.executed = 0
        self.sound = False

    @initialize(required=st.sampled_from([0, 0, 1, 2]), creates=st.booleans())
    def open(self, required: int, creates: bool) -> None:
        """A worker with or without signers; a workspace that is there, or a new one."""
        Onboarding.required = required
        self.scene.creates = creates
        self.tally["creating"] += creates
        (self.office.directory / "minimum_signatures").write_text(str(required or 1))
        self._start(four_eyes=True)
        self._execute(self.driver.runs[0])

    def teardown(self) -> None:
        """Whatever has happened, an honest approver goes on; then count what was executed."""
        with self.surroundings:
            self._go_on()
        self.tally["schedules"] += bool(self.executed)

    def _go_on(self) -> None:
        for run in self._in("Scheduled")[:1] if self.sound else ():
            self._execute(run)
        for run in self._in("Suspended")[:1] if self.sound else ():
            approval_request = run.approval_request()
            assert approval_request is not None
            self._give(
                run, approval_request, self._answer(approval_request), honest=True, at_once=True
            )

    @precondition(lambda self: len(self.driver.runs) < MAX_RUNS)
    @rule(four_eyes=st.booleans())
    def start(self, four_eyes: bool) -> None:
        """Another run for the same workspace."""
        self._start(four_eyes=four_eyes)

    @precondition(lambda self: self._in("Scheduled"))
    @rule(pick=st.integers(0, MAX_RUNS - 1))
    def execute(self, pick: int) -> None:
        """The worker takes up a run."""
        self._execute(self._pick(pick, "Scheduled"))

    @precondition(lambda self: self._in("Scheduled"))
    @rule(
        pick=st.integers(0, MAX_RUNS - 1),
        at=st.integers(1, 60),
        when=st.sampled_from(["before", "after"]),
    )
    def crash(self, pick: int, at: int, when: str) -> None:
        """The worker takes up a run, and is killed around one of its calls."""

        def kill(number: int, moment: str) -> None:
            if (number, moment) == (at, when):
                raise Killed

        self._execute(self._pick(pick, "Scheduled"), kill)

    @precondition(lambda self: self._in("Scheduled"))
    @rule(
        pick=st.integers(0, MAX_RUNS - 1),
        at=st.integers(1, 60),
        event=st.sampled_from(EVENTS),
    )
    def disturb(self, pick: int, at: int, event: str) -> None:
        """Something happens outside while the worker executes a run."""
        self._execute(self._pick(pick, "Scheduled"), self._interfering(event, at))

    def _interfering(self, event: str, at: int) -> Hook:
        def interfere(number: int, moment: str) -> None:
            if (number, moment) == (at, "before"):
                getattr(self.scene, event)()
                self._seen.append(self.scene.look())

        return interfere

    @rule(event=st.sampled_from(EVENTS))
    def happen(self, event: str) -> None:
        """Something happens outside while no run is executed."""
        getattr(self.scene, event)()

    @precondition(lambda self: self._in("Suspended"))
    @rule(pick=st.integers(0, MAX_RUNS - 1))
    def approve(self, pick: int) -> None:
        """An approver reads the plan and approves it, as it should be."""
        run, approval_request = self._waiting(pick)
        answer = self._answer(approval_request)
        self._give(run, approval_request, answer, honest=True)

    @precondition(lambda self: self._in("Suspended"))
    @rule(
        pick=st.integers(0, MAX_RUNS - 1),
        between=st.sampled_from(BETWEEN),
        event=st.sampled_from(("rename",) * 4 + EVENTS),
        at=st.integers(1, 45),
    )
    def approve_and_execute(self, pick: int, between: str, event: str, at: int) -> None:
        """Approved, something comes between the response and the attach, the worker takes it up."""
        run, approval_request = self._waiting(pick)
        self._give(run, approval_request, self._answer(approval_request), honest=True)
        if between == "event":
            getattr(self.scene, event)()
        elif between == "expiry":
            self.clock.shift(timedelta(days=8))
        elif between == "parameters":
            self._patch_parameters(run)
        self._execute(run, self._interfering(event, at) if between == "event at a call" else never)

    # the same once more: most of what can go wrong is here
    @precondition(lambda self: self._in("Suspended"))
    @rule(
        pick=st.integers(0, MAX_RUNS - 1),
        between=st.sampled_from(BETWEEN),
        event=st.sampled_from(("rename",) * 4 + EVENTS),
        at=st.integers(1, 45),
    )
    def approve_and_execute_too(self, pick: int, between: str, event: str, at: int) -> None:
        """As `approve_and_execute`."""
        self.approve_and_execute(pick, between, event, at)

    @precondition(lambda self: self._in("Suspended"))
    @rule(
        pick=st.integers(0, MAX_RUNS - 1),
        how=st.sampled_from(sorted(TAMPERED)),
        at_once=st.booleans(),
    )
    def tamper(self, pick: int, how: str, at_once: bool) -> None:
        """An answer with one flaw, put where Prefect keeps answers."""
        run, approval_request = self._waiting(pick)
        if how == "warnings" and not approval_request.plan.warnings:
            return
        answer = self._answer(approval_request) | TAMPERED[how]
        kept = {name: value for name, value in answer.items() if value is not None}
        allowed = how == "approver" and not run.parameters.four_eyes and not self.required
        self._give(run, approval_request, kept, honest=allowed, at_once=at_once)

    @precondition(lambda self: self.required and self._in("Suspended"))
    @rule(
        pick=st.integers(0, MAX_RUNS - 1),
        how=st.sampled_from(["unsigned", "stranger", "alone", "altered", "twice"]),
        at_once=st.booleans(),
    )
    def missign(self, pick: int, how: str, at_once: bool) -> None:
        """An answer whose signatures are not what they should be."""
        run, approval_request = self._waiting(pick)
        answer = self._answer(approval_request)
        text = answer["signed_approvals"]
        answer["signed_approvals"] = {
            "unsigned": "-",
            "stranger": self._signed(approval_request, EVE),
            "alone": self._signed(approval_request, GRACE),
            "altered": text.replace("fine", "fin"),
            "twice": "\n".join([self._signed(approval_request, GRACE)] * 2),
        }[how]
        good = how == "alone" and self.required == 1
        self._give(run, approval_request, answer, honest=good, at_once=at_once)

    @precondition(lambda self: self.stolen and self._in("Suspended"))
    @rule(
        pick=st.integers(0, MAX_RUNS - 1),
        which=st.integers(0, 9),
        fit=st.booleans(),
        at_once=st.booleans(),
    )
    def steal(self, pick: int, which: int, fit: bool, at_once: bool) -> None:
        """An old answer is used again, its digest made to fit or not."""
        run, approval_request = self._waiting(pick)
        answer = dict(self.stolen[which % len(self.stolen)])
        if fit:
            answer["plan_digest"] = approval_request.digest
        same = answer.get("plan_digest") == approval_request.digest and not self.required
        # a typed approval does not prove who typed it: an old one for the very same plan counts
        good = same and self._is_good(run, answer, approval_request)
        self._give(run, approval_request, answer, honest=good, at_once=at_once)

    @precondition(lambda self: self._in("Suspended"))
    @rule(pick=st.integers(0, MAX_RUNS - 1))
    def force(self, pick: int) -> None:
        """The run's state is set past its question."""
        run, _ = self._waiting(pick)
        run.state = "Scheduled"

    @precondition(lambda self: self._in("Failed", "Crashed"))
    @rule(pick=st.integers(0, MAX_RUNS - 1))
    def retry(self, pick: int) -> None:
        """*Retry* in the UI."""
        self._pick(pick, "Failed", "Crashed").retry()

    @precondition(lambda self: self._in("Suspended", "Scheduled"))
    @rule(pick=st.integers(0, MAX_RUNS - 1))
    def patch_parameters(self, pick: int) -> None:
        """Another user changes a run's parameters."""
        self._patch_parameters(self._pick(pick, "Suspended", "Scheduled"))

    @staticmethod
    def _patch_parameters(run: Run) -> None:
        run.parameters = run.parameters.model_copy(update={"four_eyes": False, "repair": True})

    @precondition(lambda self: self._in("Suspended"))
    @rule(pick=st.integers(0, MAX_RUNS - 1))
    def lose_memory(self, pick: int) -> None:
        """The worker's records lose an approval request."""
        run, approval_request = self._waiting(pick)
        run.memory.pop(approval_request.key.replace("attach-", "approval-request-", 1), None)
        run.state = "Scheduled"

    @rule(days=st.sampled_from([1, 8]))
    def wait(self, days: int) -> None:
        """Time passes; an approval request expires after a week."""
        self.clock.shift(timedelta(days=days))

    @invariant()
    def nothing_harmful(self) -> None:
        """Invariants 2, 4 and 5: nothing destroyed, others' roles kept, nothing made twice."""
        world = self.driver.sandbox.world
        assert not HARMFUL & {entry.call for entry in world.log.entries}
        assert self.scene.outsiders_kept()
        assert len(self.scene.external_keys()) <= 1
        assert len(world.kms.key_rings) <= 1
        took_effect = [one for one in self.scene.attaches(world.log.entries) if one.effect]
        assert len(took_effect) <= 1
        assert sum(CREATED_BY_TAG in one.tags for one in world.admin.workspaces.values()) <= 1

    def _start(self, *, four_eyes: bool) -> None:
        self.driver.start(
            **self.scene.request,
            project_id=PROJECT_ID,
            requested_by=REQUESTER,
            four_eyes=four_eyes,
        )

    def _execute(self, run: Run, hook: Hook = never) -> None:
        world = self.driver.sandbox.world
        self.first.setdefault(str(run.id), run.parameters)
        done, answered = len(world.log.entries), run.suspended_at[-1:] if not run.is_over else []
        self._seen = [self.scene.look()]
        attached_before = self._seen[0].attached
        self.now = datetime.now(UTC)
        self.driver.execute(run, hook)
        self.executed += 1
        self.sound = False
        self.tally["executions"] += 1
        self.tally[run.state] += 1
        entries = world.log.entries[done:]
        self._judge(run, answered, entries)
        approval_request = run.approval_request()
        if run.state == "Suspended" and approval_request is not None:
            self._seen.append(self.scene.look())
            self.approval_request[str(run.id), approval_request.key] = self._seen
        if run.state == "Already attached" and attached_before and not run.parameters.repair:
            assert [one.call for one in entries if one.write] == []
        run.evidence()  # raises when its chain is broken
        self.sound = True

    def _judge(self, run: Run, answered: list[str], entries: list[Entry]) -> None:
        """The witness: every attach that took effect must have had every right to."""
        sent = self.scene.attaches(entries)
        for before, entry in zip([None, *sent], sent, strict=False):
            calls = entries[entries.index(before) if before else 0 : entries.index(entry)]
            looked = "workspaces.list" if self.scene.creates else "workspaces.retrieve"
            assert any(one.call == looked for one in calls)
            assert any(one.call == "external_keys.validate" and one.effect for one in calls)
        if not sent:
            return
        self.tally["attach requests"] += 1
        assert len(answered) == 1, "attached without an approval request"
        key = (str(run.id), answered[0])
        assert answered[0].startswith(f"attach-{run.attempt}-"), (
            "the approval request is of another attempt"
        )
        assert self.honest.get(key), "attached without an honest answer"
        assert run.parameters == self.first[str(run.id)], "the request is not the first one"
        approval_request = run.approval_request()
        assert approval_request is not None
        assert self.now <= approval_request.expires_at, "expired"
        shown = {one.covered for one in self.approval_request[key]}
        assert any(one.attachable and one.covered in shown for one in self._seen), "other facts"

    def _answer(self, approval_request: ApprovalRequest) -> dict[str, Any]:
        answer = approval_of(approval_request, **self.scene.typed)
        if approval_request.signatures:
            signers = (GRACE, KATHERINE)[: max(1, self.required)]
            answer["signed_approvals"] = "\n".join(
                self._signed(approval_request, one) for one in signers
            )
        return answer

    def _signed(self, approval_request: ApprovalRequest, approver: str) -> str:
        return self.office.answer_text(approval_request, approver, at=datetime.now(UTC))

    def _is_good(self, run: Run, answer: dict[str, Any], approval_request: ApprovalRequest) -> bool:
        wanted = self._answer(approval_request)
        allowed = {GRACE} | (set() if run.parameters.four_eyes else {REQUESTER})
        return answer.get("approver") in allowed and wanted == answer | {"approver": GRACE}

    def _give(
        self,
        run: Run,
        approval_request: ApprovalRequest,
        answer: dict[str, Any],
        *,
        honest: bool,
        at_once: bool = False,
    ) -> None:
        self.tally["answers"] += 1
        self.tally["honest answers"] += honest
        run.answers[approval_request.key] = answer
        self.honest[str(run.id), approval_request.key] = honest
        self.stolen.append(answer)
        run.state = "Scheduled"
        if at_once:
            self._execute(run)

    def _in(self, *states: str) -> list[Run]:
        return [
            run
            for run in self.driver.runs
            if run.state in states
            and (run.state != "Suspended" or run.approval_request() is not None)
        ]

    def _pick(self, pick: int, *states: str) -> Run:
        found = self._in(*states)
        return found[pick % len(found)]

    def _waiting(self, pick: int) -> tuple[Run, ApprovalRequest]:
        run = self._pick(pick, "Suspended")
        approval_request = run.approval_request()
        assert approval_request is not None
        return run, approval_request


def stage(stack: ExitStack) -> None:
    """Start the sandbox and enrol the approvers for all schedules of this process."""
    home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cmek-model-")))
    office = Office(home)
    office.enrol(GRACE)
    office.enrol(KATHERINE)
    office.new_key(EVE)
    Onboarding.office = office
    stack.enter_context(computed_once())
    stack.enter_context(
        patch(
            "tasks.reads.find_signers",
            lambda: office.signers() if Onboarding.required else None,
        )
    )
    Onboarding.driver = stack.enter_context(driving(sockets=False))
    for name in ("driver", "cmek", "httpx"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
