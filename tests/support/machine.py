"""The gate and the onboarding as a state machine: what people, faults and attackers may do.

An independent checker, which shares no code with the gate, judges each attach request, and each
write to a key that is not this organization's own.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Final
from unittest.mock import patch

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from cmek.onboarding.approval_request import ApprovalRequest
from cmek.onboarding.gate import STEADY
from cmek.onboarding.request import OnboardingRequest
from cmek.tags import CREATED_BY_TAG
from sandbox.identities import PROJECT_ID
from sandbox.world import Entry
from tests.support.crashes import never
from tests.support.determinism import computed_once, deterministic
from tests.support.driver import Driver, Hook, driving
from tests.support.requests import REQUESTER, approval_of
from tests.support.runs import DrivenRun, Killed
from tests.support.scene import EVENTS, HARMFUL, Scene, Sight
from tests.support.signing import GRACE, KATHERINE, Office

EVE = "eve@example.com"
MAX_RUNS = 3
TAMPERED: dict[str, dict[str, Any]] = {
    "decision": {"decision": "reject"},
    "workspace_id": {"workspace_id": "wrkspc_01SomethingElse1111111111"},
    "workspace_name": {"workspace_name": "born-encryptеd"},  # its last e is Cyrillic
    "approver": {"approver": REQUESTER},
    "nobody": {"approver": ""},
    "comment": {"comment": ""},
    "plan_digest": {"plan_digest": "f" * 64},
    "warnings": {"acknowledge_warnings": False},
    "field": {"extra": "field"},
    "nothing": {"decision": None},
}
MARKS: Final = frozenset({"workspaces.update", "UpdateCryptoKey"})
"""The calls that mark workspace and key after an attach."""
_ATTACHING: Final = "POST /v1/organizations/workspaces"
_FRESH: Final = 60.0
"""Seconds for which a validation is valid: invariant 1."""
CHANGES: Final = (
    "nothing",
    "rename",
    "label",
    "label",
    "share",
    "age",
    "age",
    "expire",
    "parameters",
)
"""What may happen between an approval and the execution that may attach."""
DURING: Final = ("rename", "share", "expire", "stall", "stall")
"""What may happen during that execution."""
UNSIGNED: Final = ("unsigned", "stranger", "alone", "altered", "twice")
"""Faults of a response's signatures; `alone` is one good signature, enough if one is required."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How one waiting run continues: a response with at most one flaw, and at most one change."""

    flaw: str = "none"
    change: str = "nothing"
    during: str = "nothing"


ENDINGS: Final = (
    *(Ending(change=one) for one in CHANGES),
    *(Ending(during=one) for one in DURING),
    *(Ending(flaw="reject") for _ in range(2)),
)
BY_REQUESTER: Final = Ending(flaw="requester")
OPENINGS: Final = (
    *((required, one) for required in (0, 0, 1) for one in ENDINGS),
    *((0, BY_REQUESTER) for _ in range(3)),
    *((required, Ending(flaw=one)) for required in (1, 2) for one in UNSIGNED),
    (2, Ending()),
)
"""How many must sign, and the ending of the first waiting run. They are drawn at the start, because
the rules alone rarely produce a response, one change, and then the attach at once."""
WISHES: Final[tuple[dict[str, Any], ...]] = (
    {},
    {},
    {"adopt_existing_key": True},
    {"plan_only": True},
    {"repair": True},
    {"repair": True, "plan_only": True},
)
"""What a later run may request."""
KEYS: Final = ("none", "none", "none", "foreign", "labelled")
"""The key before the first run: none, or one that is not ours, with or without our label."""


@dataclass
class Stopwatch:
    """Replaces `time` in the onboarding: seconds pass only when the model adds them."""

    seconds: float = 0.0

    def clock_gettime(self, clock: int) -> float:
        """Seconds of the one clock that the onboarding may ask for."""
        assert clock == STEADY
        return self.seconds


@dataclass(frozen=True, slots=True)
class Sent:
    """An outside call, and both clocks just before it was sent."""

    call: str
    at: datetime
    seconds: float


class Onboarding(RuleBasedStateMachine):
    """Up to three runs for one workspace; `driver` is shared by all schedules."""

    driver: ClassVar[Driver]
    office: ClassVar[Office]
    stopwatch: ClassVar[Stopwatch] = Stopwatch()
    required: ClassVar[int] = 0
    tally: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.surroundings = ExitStack()
        self.clock = self.surroundings.enter_context(deterministic())
        self.scene = Scene(self.driver.sandbox.world)
        self.scene.new()
        self.driver.runs.clear()
        self.stopwatch.seconds = 1000.0
        self.approval_request: dict[tuple[str, str, str], list[Sight]] = {}
        self.honest: dict[tuple[str, str], bool] = {}
        self.first: dict[str, OnboardingRequest] = {}
        self.unmarked: set[str] = set()
        """Runs that have sent an attach, and ended before workspace and key were marked."""
        self.stolen: list[dict[str, Any]] = []
        self.executed = 0
        self.sound = False
        """Whether the last execution passed all checks; after a failed one nothing is executed."""
        self.foreign = False
        """Whether the key existed before, and no honest attach has made it ours."""

    @initialize(
        opening=st.sampled_from(OPENINGS),
        creates=st.booleans(),
        key=st.sampled_from(KEYS),
        at=st.integers(1, 45),
        later=st.sampled_from([False, False, False, True]),
    )
    def open(
        self, opening: tuple[int, Ending], creates: bool, key: str, at: int, later: bool
    ) -> None:
        """Set up worker, workspace and key, execute a first run, and mostly its ending too."""
        Onboarding.required, self.ending = opening
        self.at, self.scene.creates, self.foreign = at, creates, key != "none"
        if self.foreign:
            self.scene.plant(labelled=key == "labelled")
        self.tally["creating"] += creates
        self.tally["of a foreign key"] += self.foreign
        (self.office.directory / "minimum_signatures").write_text(str(self.required or 1))
        self._start(four_eyes=True, **({"adopt_existing_key": True} if self.foreign else {}))
        self._execute(self.driver.runs[0])
        if not later:
            self._end()

    def teardown(self) -> None:
        """Bring one run to the drawn ending, whatever has happened, and count the schedule."""
        with self.surroundings:
            for run in self._in("Scheduled")[:1] if self.sound else ():
                self._execute(run)
            self._end()
        self.tally["schedules"] += bool(self.executed)

    def _end(self) -> None:
        """Answer the first waiting run, make the drawn change, and execute the run."""
        for run in self._in("Suspended")[:1] if self.sound else ():
            self._answer_and_execute(run, self.ending, self.at)

    def _answer_and_execute(self, run: DrivenRun, ending: Ending, at: int) -> None:
        approval_request = run.approval_request()
        assert approval_request is not None
        self._give(run, approval_request, *self._flawed(run, approval_request, ending.flaw))
        if ending.change == "parameters":
            self._patch_parameters(run)
        elif ending.change != "nothing":
            self._happen(ending.change)
        during = ending.during
        self._execute(run, never if during == "nothing" else self._interfering(during, at))

    def _flawed(
        self, run: DrivenRun, approval_request: ApprovalRequest, flaw: str
    ) -> tuple[dict[str, Any], bool]:
        """A response with this flaw, and whether it is a valid approval nevertheless."""
        answer = self._answer(approval_request)
        if flaw == "reject":
            return answer | {"decision": "reject"}, False
        if flaw == "requester":
            return answer | {"approver": REQUESTER}, not run.parameters.four_eyes
        if flaw != "none":
            answer["signed_approvals"] = self._missigned(approval_request, flaw)
        return answer, flaw == "none" or (flaw == "alone" and self.required == 1)

    def _missigned(self, approval_request: ApprovalRequest, how: str) -> str:
        grace = self._signed(approval_request, GRACE)
        return {
            "unsigned": "-",
            "stranger": self._signed(approval_request, EVE),
            "alone": grace,
            "altered": grace.replace("fine", "fin"),
            "twice": f"{grace}\n{grace}",
        }[how]

    @precondition(lambda self: len(self.driver.runs) < MAX_RUNS)
    @rule(four_eyes=st.booleans(), wish=st.sampled_from(WISHES))
    def start(self, four_eyes: bool, wish: dict[str, Any]) -> None:
        """Another run for the same workspace."""
        self._start(four_eyes=four_eyes, **wish)

    @precondition(lambda self: self._in("Scheduled"))
    @rule(pick=st.integers(0, MAX_RUNS - 1))
    def execute(self, pick: int) -> None:
        """The worker executes a run."""
        self._execute(self._pick(pick, "Scheduled"))

    @precondition(lambda self: self._in("Scheduled"))
    @rule(
        pick=st.integers(0, MAX_RUNS - 1),
        at=st.integers(1, 60),
        when=st.sampled_from(["before", "after"]),
    )
    def crash(self, pick: int, at: int, when: str) -> None:
        """The worker executes a run, and is killed before or after one of its calls."""

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
                self._seen.append(self.scene.look())  # what the run may have read so far
                self._happen(event)
                self._seen.append(self.scene.look())

        return interfere

    @rule(event=st.sampled_from(EVENTS))
    def happen(self, event: str) -> None:
        """Something happens outside while no run is executed."""
        self._happen(event)

    def _happen(self, event: str) -> None:
        if event == "expire":
            self.clock.shift(timedelta(days=8))
        elif event == "stall":
            self.stopwatch.seconds += 61
        else:
            getattr(self.scene, event)()

    @precondition(lambda self: self._in("Suspended"))
    @rule(pick=st.integers(0, MAX_RUNS - 1))
    def approve(self, pick: int) -> None:
        """An approver reads the plan and gives a correct approval."""
        run, approval_request = self._waiting(pick)
        answer = self._answer(approval_request)
        self._give(run, approval_request, answer, True)

    @precondition(lambda self: self._in("Suspended"))
    @rule(
        pick=st.integers(0, MAX_RUNS - 1),
        ending=st.sampled_from((*ENDINGS, BY_REQUESTER)),
        at=st.integers(1, 45),
    )
    def answer_and_execute(self, pick: int, ending: Ending, at: int) -> None:
        """A run is answered, something happens before the attach, and the worker executes it."""
        run, _ = self._waiting(pick)
        self._answer_and_execute(run, ending, at)

    @precondition(lambda self: self._in("Suspended"))
    @rule(
        pick=st.integers(0, MAX_RUNS - 1),
        how=st.sampled_from(sorted(TAMPERED)),
        at_once=st.booleans(),
    )
    def tamper(self, pick: int, how: str, at_once: bool) -> None:
        """A response with one flaw, written directly to where Prefect stores responses."""
        run, approval_request = self._waiting(pick)
        # without warnings nothing has to be acknowledged, so that is no flaw
        if how == "warnings" and not approval_request.plan.warnings:
            return
        answer = self._answer(approval_request) | TAMPERED[how]
        kept = {name: value for name, value in answer.items() if value is not None}
        allowed = how == "approver" and not run.parameters.four_eyes and not self.required
        self._give(run, approval_request, kept, allowed, at_once=at_once)

    @precondition(lambda self: self.required and self._in("Suspended"))
    @rule(pick=st.integers(0, MAX_RUNS - 1), how=st.sampled_from(UNSIGNED), at_once=st.booleans())
    def missign(self, pick: int, how: str, at_once: bool) -> None:
        """A response whose signatures are missing, invalid or too few."""
        run, approval_request = self._waiting(pick)
        answer, counts = self._flawed(run, approval_request, how)
        self._give(run, approval_request, answer, counts, at_once=at_once)

    @precondition(lambda self: self.stolen and self._in("Suspended"))
    @rule(
        pick=st.integers(0, MAX_RUNS - 1),
        which=st.integers(0, 9),
        fit=st.booleans(),
        at_once=st.booleans(),
    )
    def steal(self, pick: int, which: int, fit: bool, at_once: bool) -> None:
        """An old response is used again, with its own digest or with that of the present plan."""
        run, approval_request = self._waiting(pick)
        answer = dict(self.stolen[which % len(self.stolen)])
        if fit:
            answer["plan_digest"] = approval_request.digest
        same = answer.get("plan_digest") == approval_request.digest and not self.required
        # a typed approval does not prove who typed it: an old one for the same plan is valid
        good = same and self._is_good(run, answer, approval_request)
        self._give(run, approval_request, answer, good, at_once=at_once)

    @precondition(lambda self: self._in("Suspended"))
    @rule(pick=st.integers(0, MAX_RUNS - 1))
    def force(self, pick: int) -> None:
        """Somebody sets the run's state, so that it goes on without a response."""
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
    def _patch_parameters(run: DrivenRun) -> None:
        run.parameters = run.parameters.model_copy(update={"four_eyes": False, "repair": True})

    @precondition(lambda self: self._in("Suspended"))
    @rule(pick=st.integers(0, MAX_RUNS - 1))
    def lose_memory(self, pick: int) -> None:
        """The worker's records lose an approval request."""
        run, approval_request = self._waiting(pick)
        # the record has the name of Prefect's input, with another beginning
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

    def _start(self, **wishes: Any) -> None:
        self.driver.start(
            **self.scene.request, project_id=PROJECT_ID, requested_by=REQUESTER, **wishes
        )

    def _execute(self, run: DrivenRun, hook: Hook = never) -> None:
        world = self.driver.sandbox.world
        # what the run pins at its first execution: later changes of parameters must not count
        self.first.setdefault(str(run.id), run.parameters)
        done, answered = len(world.log.entries), run.suspended_at[-1:] if not run.is_over else []
        self._seen, self._sent = [self.scene.look()], list[Sent]()
        attached_before = self._seen[0].attached

        def note(number: int, moment: str) -> None:
            # before the hook: it may move a clock, which the run has read already
            if moment == "before":
                call = self.driver.call
                self._sent.append(Sent(call, datetime.now(UTC), self.stopwatch.seconds))
                if call.startswith(_ATTACHING):  # an adoption may have changed the key by now
                    self._seen.append(self.scene.look())
            hook(number, moment)

        self.driver.execute(run, note)
        self.executed += 1
        self.sound = False
        self.tally["executions"] += 1
        self.tally[run.state] += 1
        entries = world.log.entries[done:]
        self._judge(run, answered, entries)
        approval_request = run.approval_request()
        if run.state == "Suspended" and approval_request is not None:
            self._seen.append(self.scene.look())
            # a run that was forced on waits with the same request, about the facts of that time
            self.approval_request.setdefault(
                (str(run.id), approval_request.key, approval_request.digest), self._seen
            )
        writes = [one.call for one in entries if one.write]
        if run.state == "Already attached" and attached_before and not run.parameters.repair:
            # the retry of a run that ended right behind its own attach sets the marks
            assert writes == [] or (str(run.id) in self.unmarked and MARKS.issuperset(writes))
        if self.scene.attaches(entries) and run.state in {"Crashed", "Failed"}:
            self.unmarked.add(str(run.id))
        assert not (writes and self.first[str(run.id)].plan_only), "a plan wrote something"
        run.evidence()  # raises when its chain is broken
        self.sound = True

    def _judge(self, run: DrivenRun, answered: list[str], entries: list[Entry]) -> None:
        """Check that every attach, and every write to a key that is not ours, was permitted."""
        sent = self.scene.attaches(entries)
        # each attach request has its own read of the workspace and its own validation before it
        for before, entry in zip([None, *sent], sent, strict=False):
            calls = entries[entries.index(before) if before else 0 : entries.index(entry)]
            looked = "workspaces.list" if self.scene.creates else "workspaces.retrieve"
            assert any(one.call == looked for one in calls)
            assert any(one.call == "external_keys.validate" and one.effect for one in calls)
        written = [one for one in entries if self.foreign and self._writes_to_key(one)]
        if written:
            self.tally["writes to a foreign key"] += len(written)
            shown = self._permitted(run, answered)
            assert self.first[str(run.id)].adopt_existing_key, "adopted without being asked to"
            assert any(one.covered(adopting=True) in shown for one in self._seen), "other users"
        if not sent:
            return
        self.tally["attach requests"] += 1
        shown = self._permitted(run, answered)
        adopting = self._adopts(run, answered)
        assert any(
            one.attachable and one.covered(adopting=adopting) in shown for one in self._seen
        ), "other facts"
        self._judge_times(run, len(sent))
        self.foreign = self.foreign and not any(one.effect for one in sent)

    def _writes_to_key(self, entry: Entry) -> bool:
        return entry.write and entry.service == "kms" and self.scene.key in entry.resource

    def _permitted(self, run: DrivenRun, answered: list[str]) -> set[tuple[object, ...]]:
        """Check that the latest request has an honest approval; returns the facts it was about."""
        assert len(answered) == 1, "without an approval request"
        approval_request = run.approval_request(answered[0])
        assert approval_request is not None
        key = (str(run.id), answered[0])
        assert answered[0].startswith(f"attach-{run.attempt}-"), (
            "the approval request is of another attempt"
        )
        assert self.honest.get(key), "without an honest answer"
        assert run.parameters == self.first[str(run.id)], "the request is not the first one"
        assert self._sent[0].at <= approval_request.expires_at, "expired"
        shown = self.approval_request[*key, approval_request.digest]
        adopting = self._adopts(run, answered)
        return {one.covered(adopting=adopting) for one in shown}

    def _adopts(self, run: DrivenRun, answered: list[str]) -> bool:
        """Whether the approval says that label and grants will be added to the key.

        So it does for our own key too, if the label was missing when the request was made.
        """
        approval_request = run.approval_request(answered[0])
        return self.foreign or (approval_request is not None and approval_request.plan.adopts_key)

    def _judge_times(self, run: DrivenRun, attaches: int) -> None:
        """Each attach was sent in time, at most a minute after the validation before it."""
        approval_request = run.approval_request()
        assert approval_request is not None
        # after the attach comes one more such call, for the tag of the evidence
        posts = [n for n, one in enumerate(self._sent) if one.call.startswith(_ATTACHING)]
        for number in posts[:attaches]:
            one, before = self._sent[number], self._sent[:number]
            validated = [sent.seconds for sent in before if sent.call.endswith("/validate")]
            assert one.at <= approval_request.expires_at, "expired"
            assert one.seconds - validated[-1] <= _FRESH, "validated too long ago"

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

    def _is_good(
        self, run: DrivenRun, answer: dict[str, Any], approval_request: ApprovalRequest
    ) -> bool:
        wanted = self._answer(approval_request)
        allowed = {GRACE} | (set() if run.parameters.four_eyes else {REQUESTER})
        return answer.get("approver") in allowed and wanted == answer | {"approver": GRACE}

    def _give(
        self,
        run: DrivenRun,
        approval_request: ApprovalRequest,
        answer: dict[str, Any],
        honest: bool,
        *,
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

    def _in(self, *states: str) -> list[DrivenRun]:
        return [
            run
            for run in self.driver.runs
            if run.state in states
            and (run.state != "Suspended" or run.approval_request() is not None)
        ]

    def _pick(self, pick: int, *states: str) -> DrivenRun:
        found = self._in(*states)
        return found[pick % len(found)]

    def _waiting(self, pick: int) -> tuple[DrivenRun, ApprovalRequest]:
        run = self._pick(pick, "Suspended")
        approval_request = run.approval_request()
        assert approval_request is not None
        return run, approval_request


def stage(stack: ExitStack) -> None:
    """Start the sandbox and enrol the approvers, once for all schedules of this process."""
    home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cmek-model-")))
    office = Office(home)
    office.enrol(GRACE)
    office.enrol(KATHERINE)
    office.new_key(EVE)
    Onboarding.office = office
    stack.enter_context(computed_once())
    for module in ("flows._attach", "tasks.attachment", "tasks.validation"):
        stack.enter_context(patch(f"{module}.time", Onboarding.stopwatch))
    stack.enter_context(
        patch(
            "tasks.reads.find_signers",
            lambda: office.signers() if Onboarding.required else None,
        )
    )
    Onboarding.driver = stack.enter_context(driving(sockets=False))
    for name in ("driver", "cmek", "httpx"):
        logger = logging.getLogger(name)
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.CRITICAL)
