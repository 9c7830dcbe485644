"""Attackers who may send the gateway anything: no attach that enrolled approvers have not signed.

The attacker is the worker's own user: it can call the gateway, read every approval that was ever
given, and change what others in the organization can change. An independent checker, which shares
no code with the gateway's policy, judges each attach that took effect. It must notice when a guard
is missing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final
from unittest.mock import patch

import stamina
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import gateway.attach
import gateway.rules
from cmek.anthropic.client import AdminApi
from cmek.errors import CmekError
from cmek.signatures.statement import SignedApproval, Statement
from gateway.attach import Attacher, SteadyClock
from gateway.journal import Intent, Journal
from gateway.rules import Attach, Create
from tests.proofs.schedules import explored
from tests.proofs.weakened import STEPS, judged, medians
from tests.support.determinism import computed_once
from tests.support.gateway import NEW_NAME, RUN_ID, Gateways, gateways
from tests.support.machine import Stopwatch
from tests.support.signing import GRACE, KATHERINE
from tests.support.staging import EXTERNAL_KEY, KEY

ATTACKS: Final = 1000
"""Schedules of up to 14 requests."""
SCHEDULES: Final = 300
"""The most schedules that are tried until an unsafe attach is found."""
SEEDS: Final = 20
_EVE: Final = "eve@example.com"
_REQUESTER: Final = "ada@example.com"
_SECOND_KEY: Final = "grace, with her other key"
_OTHER_KEY: Final = f"{KEY}-other"
_OTHER: Final = EXTERNAL_KEY.replace("Payments", "Personal")
_HOUR: Final = timedelta(hours=1)
_START: Final = datetime(2026, 12, 1, tzinfo=UTC)

CHANGES: Final[dict[str, dict[str, Any]]] = {
    "nothing": {},
    "another workspace": {"workspace_id": "wrkspc_01SomethingElse1111111111"},
    "another external key": {"external_key_id": _OTHER},
    "another key": {"key_name": _OTHER_KEY},
    "a rejection": {"decision": "reject"},
    "expired": {"expires_at": _START - _HOUR},
    "for years": {"expires_at": _START + 20_000 * _HOUR},
    "of the future": {"issued_at": _START + 400 * _HOUR},
    "another run": {"run_id": "another"},
    "another residency": {"data_residency": "us_only"},
    "another requester": {"requester": "someone@example.com"},
}
"""Faults of a statement that an approver has signed nevertheless."""


APPROVERS: Final[tuple[tuple[str, ...], ...]] = (
    (GRACE,),
    (KATHERINE,),
    (GRACE, KATHERINE),
    (GRACE, GRACE),
    (_REQUESTER,),
)


@dataclass(frozen=True, slots=True)
class Sending:
    """What approvers sign and the attacker sends."""

    approvers: tuple[str, ...] = ()
    """If empty, as many as must sign."""
    change: str = "nothing"
    second: str = "nothing"
    """The fault of the second approver's statement; `change` is that of the first."""
    meanwhile: str = "nothing"
    """What happens while the gateway writes its journal."""
    before: str = "nothing"
    """What others change before it is sent."""


FIRST: Final = (
    *(Sending(change=one) for one in CHANGES),
    *(Sending(approvers=one) for one in APPROVERS),
    *(Sending((GRACE, KATHERINE), second=one) for one in ("another run", "another requester")),
    *(Sending(meanwhile=one) for one in ("expire", "stall")),
    *(Sending(before=one) for one in ("take the name", "reregister")),
)
"""Each has at most one flaw. Every schedule begins with one, before others change anything."""


class SlowJournal(Journal):
    """A journal in which something happens while an intent is being written."""

    meanwhile: Callable[[], None]

    def begin(self, intent: Intent, *, now: datetime) -> int:
        """Write the intent, and let that happen."""
        number = super().begin(intent, now=now)
        self.meanwhile()
        return number


class RedTeam(RuleBasedStateMachine):
    """One gateway, restarted for each request, with one journal."""

    gate: ClassVar[Gateways]
    loop: ClassVar[asyncio.AbstractEventLoop]
    api: ClassVar[AdminApi]
    stopwatch: ClassVar[Stopwatch] = Stopwatch()
    tally: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.gate.stage.reset()
        self.gate.stage.key()
        self.gate.stage.create_key(_OTHER_KEY)
        self.gate.stage.create_external_key(_OTHER, "other", _OTHER_KEY)
        self.gate.journal.unlink(missing_ok=True)
        self.gate.number_anew()
        self.now, self.minimum = _START, 1
        self.given: list[list[Statement]] = []
        """The statements that approvers have really signed, grouped as they were signed."""
        self.spent: set[str] = set()
        self.target = self.gate.target
        self.gate.sandbox.world.log.clear()

    @initialize(minimum=st.sampled_from([1, 1, 2]), first=st.sampled_from(FIRST), new=st.booleans())
    def open(self, minimum: int, first: Sending, new: bool) -> None:
        """The gateway's administrator decides how many must sign; then something is sent."""
        self.minimum = minimum
        (self.gate.office.directory / "minimum_signatures").write_text(str(minimum))
        self._sign_and_send(first, new)

    def teardown(self) -> None:
        """Count the schedule."""
        self.tally["schedules"] += 1

    @rule(
        approvers=st.sampled_from(APPROVERS),
        change=st.sampled_from(sorted(CHANGES) + ["nothing"] * 6),
        second=st.sampled_from(["nothing"] * 3 + sorted(CHANGES)),
        new=st.booleans(),
        meanwhile=st.sampled_from(["nothing"] * 4 + ["expire", "stall"]),
    )
    def sign_and_send(
        self, approvers: tuple[str, ...], change: str, second: str, new: bool, meanwhile: str
    ) -> None:
        """Approvers sign something, right or wrong, and it is sent."""
        self._sign_and_send(Sending(approvers, change, second, meanwhile), new)

    def _sign_and_send(self, sending: Sending, new: bool) -> None:
        approvers = sending.approvers or (GRACE, KATHERINE)[: self.minimum]
        signed = self._sign(approvers, sending.change, sending.second, new)
        self.happen(sending.before)
        self._send(self._text(signed), new, sending.meanwhile)

    def _sign(
        self, approvers: tuple[str, ...], change: str, second: str, new: bool
    ) -> list[Statement]:
        first = self._statement(approvers[0], new, CHANGES[change])
        signed = [first]
        if len(approvers) > 1:
            signed.append(first.model_copy(update={"approver": approvers[1]} | CHANGES[second]))
        self.given.append(signed)
        return signed

    def _text(self, signed: list[Statement]) -> str:
        first, *others = signed
        keys = [_SECOND_KEY if one.approver == first.approver == GRACE else None for one in others]
        by = zip(signed, [None, *keys], strict=True)
        return "\n".join(str(self.gate.office.signed(one, key)) for one, key in by)

    @rule(between=st.sampled_from(["nothing", "set back", "expire"]))
    def use_again(self, between: str) -> None:
        """A workspace loses its key, and old approvals are sent for it again.

        They have already attached it once, or they expired before the clock was set back.
        """
        both, good = (GRACE, KATHERINE)[: self.minimum], "nothing"
        old = self._sign(both, good, good, new=False)
        if between == "set back":
            self.now += timedelta(days=1)
            self._send(self._text(self._sign(both, good, good, new=False)), new=False)
            self.now -= timedelta(days=1)
        else:
            self._send(self._text(old), new=False)
            self.now += timedelta(days=between == "expire")
        self.happen("take the key away")
        self._send(self._text(old), new=False)

    @rule(which=st.integers(0, 9), new=st.booleans())
    def replay(self, which: int, new: bool) -> None:
        """What was signed before is sent again, perhaps for something else."""
        if self.given:
            self._send(self._text(self.given[which % len(self.given)]), new)

    @rule(new=st.booleans(), as_whom=st.sampled_from([GRACE, _EVE]))
    def forge(self, new: bool, as_whom: str) -> None:
        """Eve signs, in her own name or in another's."""
        said = self._statement(as_whom, new, {})
        self._send(str(self.gate.office.signed(said, _EVE)), new)

    @rule(new=st.booleans(), which=st.integers(0, 9))
    def alter(self, new: bool, which: int) -> None:
        """A valid signature, with a statement that was changed to fit the request."""
        if self.given:
            signed = self.gate.office.signed(self.given[which % len(self.given)][0])
            said = self._statement(signed.statement.approver, new, {})
            self._send(str(SignedApproval(said, signed.signature)), new)

    @rule(new=st.booleans(), text=st.sampled_from(["", "-", "approved", "{}"]))
    def send_nothing(self, new: bool, text: str) -> None:
        """No approval at all."""
        self._send(text, new)

    @rule(days=st.sampled_from([-2, -1, 1, 2]))
    def move_the_clock(self, days: int) -> None:
        """The machine's clock jumps; approvals are valid for an hour."""
        self.now += timedelta(days=days)

    @rule(what=st.sampled_from(["archive", "take the key away", "take the name", "reregister"]))
    def happen(self, what: str) -> None:
        """Others in the organization change something."""
        admin = self.gate.sandbox.world.admin
        workspace = admin.workspaces[self.target.workspace_id]
        if what == "archive":
            admin.workspaces[workspace.id] = workspace.model_copy(
                update={"archived_at": "2026-12-01T00:00:00Z"}
            )
        elif what == "take the key away":
            # no API can do it; but only so could a second attach by one approval be seen
            for one in list(admin.workspaces.values()):
                one.external_key_id = None
        elif what == "take the name":
            workspace.name = NEW_NAME
        elif what == "reregister":
            mine, other = admin.external_keys[EXTERNAL_KEY], admin.external_keys[_OTHER]
            mine.provider_config, other.provider_config = (
                other.provider_config,
                mine.provider_config,
            )

    @invariant()
    def nothing_else_was_written(self) -> None:
        """The attach procedure sends no other writes than attaches and creates."""
        allowed = {"workspaces.update", "workspaces.create"}
        written = {one.call for one in self.gate.sandbox.world.log.entries if one.write}
        assert written <= allowed, written

    def _statement(self, approver: str, new: bool, changes: dict[str, Any]) -> Statement:
        said = self.gate.statement(
            approver,
            new=new,
            expires_at=self.now + _HOUR,
            issued_at=self.now,
            workspace_id=None if new else self.target.workspace_id,
            **({"data_residency": "unrestricted"} if new else {}),
        )
        return said.model_copy(update=changes)

    def _send(self, text: str, new: bool, meanwhile: str = "nothing") -> None:
        target = self.gate.new if new else self.target
        admin = self.gate.sandbox.world.admin
        before = {one.id: one.external_key_id for one in admin.workspaces.values()}
        names = [one.name for one in admin.workspaces.values() if one.archived_at is None]
        # the facts from before the request: the checker must not use what the request changed
        archived = not new and admin.workspaces[self.target.workspace_id].archived_at is not None
        done = len(self.gate.sandbox.world.log.entries)
        self.tally["attacks"] += 1
        # an attempt may fail with any of our errors; only what took effect is judged
        with suppress(CmekError):
            self.loop.run_until_complete(self._attach(target, text, meanwhile))
        entries = self.gate.sandbox.world.log.entries[done:]
        sent = [
            one
            for one in entries
            if one.effect and one.call in {"workspaces.update", "workspaces.create"}
        ]
        if not sent:
            return
        self.tally["attached"] += 1
        assert len(sent) == 1, "more than one request"
        assert meanwhile != "stall", "validated too long ago"
        body = sent[0].request
        assert body["external_key_id"] == target.external_key_id
        if isinstance(target, Create):
            assert NEW_NAME not in names, "the name was taken"
        else:
            assert before[target.workspace_id] is None, "it had a key"
            assert not archived, "archived"
        self._judge(target, [str(one) for one in text.split("\n") if one.startswith("{")])

    def _judge(self, target: Attach | Create, lines: list[str]) -> None:
        """The independent check: what was sent was really signed, word for word, for this."""
        registered = self.gate.sandbox.world.admin.external_keys[EXTERNAL_KEY].provider_config
        good = []
        for line in lines:
            said = json.loads(line)
            really = [one for signed in self.given for one in signed if one.text == line]
            assert really, "nobody has signed this"
            assert said["approver"] in {GRACE, KATHERINE, _REQUESTER}
            assert said["decision"] == "approve"
            assert said["external_key_id"] == EXTERNAL_KEY == target.external_key_id
            assert said["key_name"] == getattr(registered, "key_name", None), "another key"
            assert datetime.fromisoformat(said["expires_at"]) >= self._latest, "expired"
            issued, expires = (
                datetime.fromisoformat(said[name]) for name in ("issued_at", "expires_at")
            )
            assert issued <= self._latest + _HOUR, "future"
            assert expires - issued <= timedelta(days=31), "for years"
            assert said["requester"].lower() != said["approver"].lower(), "the requester"
            if isinstance(target, Create):
                assert said.get("workspace_name") == NEW_NAME, "another name"
                assert said["run_id"] == RUN_ID, "another run"
                assert said["data_residency"] == "unrestricted", "another residency"
            else:
                assert said.get("workspace_id") == target.workspace_id, "another workspace"
            good.append(said)
        people = {one["approver"] for one in good}
        assert len(people) == len(good) >= self.minimum, "too few"
        assert len({(one["nonce"], one["run_id"], one["requester"]) for one in good}) == 1
        assert good[0]["nonce"] not in self.spent, "used before"
        self.spent.add(good[0]["nonce"])

    async def _attach(self, target: Attach | Create, text: str, meanwhile: str) -> None:
        journal = SlowJournal(self.gate.journal)
        journal.meanwhile = partial(self._pass_time, meanwhile)
        # the gateway trusts no time before its journal's last one: a clock set back gains nothing
        floor = journal.latest_time()
        clock = SteadyClock(floor, wall=lambda: self.now, steady=lambda: self.stopwatch.seconds)
        try:
            attacher = Attacher(self.api, journal, self.gate.office.signers, clock=clock)
            await attacher.attach(target, text)
        finally:
            self._latest = max(floor, self.now)
            journal.close()

    def _pass_time(self, how: str) -> None:
        if how == "stall":
            self.stopwatch.seconds += 61
        elif how == "expire":
            self.now += timedelta(days=1)


Weakness = Callable[[ExitStack], None]


def _no_flaws(named: str) -> Weakness:
    """A policy without the reasons that contain these words."""

    def weaken(stack: ExitStack) -> None:
        real = gateway.rules.approval_problems

        def deaf(*arguments: Any, **options: Any) -> tuple[str, ...]:
            return tuple(one for one in real(*arguments, **options) if named not in one)

        stack.enter_context(patch.object(gateway.attach, "approval_problems", deaf))

    return weaken


def _no_live(named: str) -> Weakness:
    def weaken(stack: ExitStack) -> None:
        real = gateway.rules.live_problems

        def deaf(*arguments: Any) -> tuple[str, ...]:
            return tuple(one for one in real(*arguments) if named not in one)

        stack.enter_context(patch.object(gateway.attach, "live_problems", deaf))

    return weaken


def _any_signature(stack: ExitStack) -> None:
    from cmek.signatures.verification import Verified  # noqa: PLC0415

    async def trusting(approval: SignedApproval, *_: Any, **__: Any) -> Verified:
        return Verified(approval, "ED25519", approval.statement.approver)

    stack.enter_context(patch.object(gateway.attach, "verify", trusting))


def _nonce_again(stack: ExitStack) -> None:
    real = Journal.begin
    used: Counter[str] = Counter()

    def forgetful(self: Journal, intent: Any, **times: Any) -> int:
        used[intent.nonce] += 1
        return real(
            self, intent.model_copy(update={"nonce": f"{intent.nonce}-{used.total()}"}), **times
        )

    stack.enter_context(patch.object(Journal, "begin", forgetful))


def _no_floor(stack: ExitStack) -> None:
    """A clock that was set back is believed."""
    stack.enter_context(patch.object(SteadyClock, "now", lambda self: self.wall()))


def _not_late(stack: ExitStack) -> None:
    """The time is not checked again after the intent was written."""
    stack.enter_context(patch.object(Attacher, "_too_late", return_value=None))


def _ever_valid(stack: ExitStack) -> None:
    """The expiry is not checked: neither with the statement nor after the intent was written."""
    _no_flaws("expired at")(stack)
    _not_late(stack)


WEAKNESSES: Final[dict[str, Weakness]] = {
    "any signature counts": _any_signature,
    "an approval counts again": _nonce_again,
    "the clock may be set back": _no_floor,
    "no last look at the clock": _not_late,
    "no check of: expired at": _ever_valid,
    **{
        f"no check of: {words}": _no_flaws(words)
        for words in (
            "another workspace",
            "another external key",
            "another decision",
            "another run",
            "another data residency",
            "signed in the future",
            "days at most",
            "is the requester",
            "has signed more than once",
            "required signatures",
            "have signed another requester",
        )
    },
    "no check of: is registered for": _no_live("is registered for"),
    "no check of: exists": _no_live("exists"),
}
"""Not listed: an archived workspace or one with a key, which Anthropic itself refuses; and one key
under two names, for which the whole file of signers is refused."""


@contextmanager
def staged() -> Iterator[None]:
    """Start the sandbox and enrol the approvers, once for all schedules of this process."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cmek-gateway-")))
        RedTeam.gate = stack.enter_context(gateways(home))
        for name in (_EVE, _REQUESTER):
            RedTeam.gate.office.new_key(name)
        RedTeam.gate.office.enrol(_REQUESTER)
        RedTeam.gate.office.enrol(GRACE, key=_SECOND_KEY)
        stack.enter_context(patch.object(gateway.attach, "time", RedTeam.stopwatch))
        RedTeam.loop = asyncio.new_event_loop()
        stack.callback(RedTeam.loop.close)
        upstream = RedTeam.gate.upstream()
        RedTeam.api = RedTeam.loop.run_until_complete(upstream.__aenter__())
        stack.callback(
            lambda: RedTeam.loop.run_until_complete(upstream.__aexit__(None, None, None))
        )
        stack.enter_context(computed_once())
        logging.disable(logging.CRITICAL)
        stack.callback(logging.disable, logging.NOTSET)
        stack.enter_context(stamina.set_testing(True, attempts=4))
        yield


def noticed_after(name: str, seed: int) -> int | None:
    """The number of schedules until the checker notices, or None when it does not."""
    with ExitStack() as stack:
        WEAKNESSES[name](stack)
        found = explored(RedTeam, SCHEDULES, seed, shrink=False, steps=STEPS)
    sys.stderr.write(f"without {name}, seed {seed}: {found}\n")
    return found.schedules if found.unsafe else None


def attack(seed: int, count: int = ATTACKS) -> dict[str, Any]:
    """Attack over and over; each request is a case."""
    with staged():
        found = explored(RedTeam, count, seed, shrink=True)
    problems = [said for said in (found.unsafe, found.flaky) if said]
    return {"tried": RedTeam.tally["attacks"], "problems": problems} | dict(RedTeam.tally)


def guards(seed: int, seeds: int = SEEDS) -> dict[str, Any]:
    """Take each guard away under several seeds."""
    with staged():
        tries = {
            name: [noticed_after(name, seed + number) for number in range(seeds)]
            for name in WEAKNESSES
        }
    problems = [said for name, found in tries.items() if (said := judged(name, found))]
    return {
        "tried": len(tries),
        "problems": problems,
        "medians": medians(tries, SCHEDULES),
    }


if __name__ == "__main__":
    job = {"attacks": attack, "guards": guards}[sys.argv[1]]
    sys.stdout.write(json.dumps(job(*map(int, sys.argv[2:]))) + "\n")
