"""A write whose response is lost is neither repeated blindly nor forgotten."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prefect._internal.concurrency.cancellation import AsyncCancelScope
from prefect.states import Scheduled, Suspended

import flows._attach
import flows.onboard
from cmek.anthropic.client import Workspaces
from cmek.anthropic.errors import AdminConnectionError, CallFailure
from cmek.anthropic.models import Workspace
from cmek.anthropic_identity import MEMBER, ROLES
from cmek.evidence.record import loads
from cmek.evidence.report import record_in
from cmek.names import in_use_label
from cmek.tags import EVIDENCE_TAG
from tasks.attachment import _Attach
from tests.support.onboarding import Onboardings, Run

KINDS = ("reset", "error", "truncate", "html")
WRITES_BEFORE_THE_ASK = ("CreateKeyRing", "CreateCryptoKey", "SetIamPolicy", "external_keys.create")


def assert_one_of_everything(bench: Onboardings, run: Run) -> None:
    assert run.state == "Attached", run.message
    state = bench.sandbox.world.kms
    ours = [name for name in state.crypto_keys if name == bench.key_name]
    assert len(ours) == 1
    assert len(state.versions[bench.key_name]) == 1
    bindings = bench.kms.policy(bench.key_name).bindings
    assert sorted((b.role, *b.members) for b in bindings) == sorted((r, MEMBER) for r in ROLES)
    admin = bench.sandbox.world.admin
    registered = [
        key.id
        for key in admin.external_keys.values()
        if getattr(key.provider_config, "key_name", None) == bench.key_name
    ]
    assert len(registered) == 1
    assert admin.workspaces[bench.fresh].external_key_id == registered[0]
    assert [one["effect"] for one in bench.attaches()].count(True) == 1


@pytest.mark.parametrize("call", WRITES_BEFORE_THE_ASK)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", ["reset", "error"])
def test_a_lost_answer_before_the_ask_makes_nothing_twice(
    bench: Onboardings, call: str, when: str, kind: str
) -> None:
    bench.control.fault(call, when=when, kind=kind, status=503)
    run = bench.asked()
    assert bench.control.faults() == []
    assert_one_of_everything(bench, run.approve())


@pytest.mark.parametrize("kind", KINDS)
def test_an_attach_whose_answer_is_lost_is_not_sent_again(bench: Onboardings, kind: str) -> None:
    run = bench.asked()
    bench.control.fault("workspaces.update", when="after", kind=kind, status=502)
    run.approve()
    assert len(bench.attaches()) == 1
    assert_one_of_everything(bench, run)


def test_an_attach_that_did_not_take_effect_is_sent_again_after_another_look(
    bench: Onboardings,
) -> None:
    """The key is read, validated and passes the gate again; the client itself never retries."""
    run = bench.asked()
    bench.control.fault("workspaces.update", when="before", kind="reset")
    bench.control.clear_log()
    run.approve()
    first, second = (attach["number"] for attach in bench.attaches())
    between = {one["call"] for one in bench.control.log() if first < one["number"] < second}
    assert {"workspaces.retrieve", "external_keys.validate", "GetCryptoKey"} <= between
    assert_one_of_everything(bench, run)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "external_key_validation_timed_out"),
        (409, "external_key_changed"),
    ],
)
def test_attach_errors_that_heal_lead_to_another_look(
    bench: Onboardings, status: int, code: str
) -> None:
    run = bench.asked()
    bench.control.fault("workspaces.update", status=status, error_code=code)
    assert_one_of_everything(bench, run.approve())
    assert len(bench.attaches()) == 2


def test_a_run_that_ends_right_after_the_attach_tells_of_it_when_retried(
    bench: Onboardings,
) -> None:
    """Every read-back fails; the retry of the run finds the key, sends nothing, and says so."""
    run = bench.asked()
    bench.control.fault("external_keys.retrieve", status=500, times=40, skip=1)
    run.approve()
    assert run.state == "Failed"
    bench.control.clear_faults()
    run.force(Scheduled(name="AwaitingRetry"))
    run.execute()
    assert run.state == "Already attached", run.message
    assert len(bench.attaches()) == 1
    (record,) = [a for a in bench.artifacts(run) if (a.key or "").startswith("cmek-evidence")]
    kinds = [entry.kind for entry in loads(record_in(str(record.data))).entries]
    assert kinds[-4:] == ["failed", "attached", "write", "write"], "and the marks"


@pytest.mark.parametrize(
    ("call", "where", "attaches"),
    [
        ("workspaces.retrieve", {"skip": 1}, 1),
        ("external_keys.validate", {}, 1),
        ("workspaces.update", {}, 2),
        ("workspaces.update", {"when": "after"}, 2),
    ],
)
def test_an_attach_that_takes_effect_late_ends_as_attached(
    bench: Onboardings, call: str, where: dict[str, Any], attaches: int
) -> None:
    """The connection broke and the next read shows no key; at a later call the key appears.

    A second attach, if any, names the same key.
    """
    run = bench.asked()
    bench.control.fault("workspaces.update", kind="late")
    bench.control.fault(call, kind="release", **where)
    run.approve()
    assert bench.control.faults() == []
    assert len(bench.attaches()) == attaches
    if attaches == 1:
        assert_one_of_everything(bench, run)
    assert run.state == "Attached", run.message
    assert str(bench.sandbox.world.admin.workspaces[bench.fresh].external_key_id) in run.message


@pytest.mark.parametrize(
    ("when", "kind"), [("after", "reset"), ("after", "error"), ("before", "error")]
)
def test_an_attach_of_unknown_outcome_is_reported_as_sent(
    bench: Onboardings, when: str, kind: str
) -> None:
    """The workspace cannot be read afterwards: the message must not deny that a key is attached."""
    run = bench.asked()
    bench.control.fault("workspaces.update", when=when, kind=kind, status=503)
    bench.control.fault("workspaces.retrieve", status=500, times=40, skip=3)
    run.approve()
    assert run.state == "Failed"
    assert len(bench.attaches()) == 1
    assert "was sent at" in run.message
    assert "nothing was attached" not in run.message
    bench.control.clear_faults()
    run.force(Scheduled(name="AwaitingRetry"))
    run.execute()
    if when == "before":
        run.approve()
    assert run.state in {"Attached", "Already attached"}, run.message
    assert len(bench.attaches()) == (2 if when == "before" else 1)


@pytest.mark.parametrize("status", [403, 500])
@pytest.mark.parametrize("call", ["external_keys.validate", "external_keys.retrieve"])
def test_what_fails_after_an_attach_of_unknown_outcome_does_not_hide_it(
    bench: Onboardings, call: str, status: int
) -> None:
    """The next try fails earlier; the message begins with what may have happened."""
    run = bench.asked()
    bench.control.fault("workspaces.update", when="before", kind="reset")
    bench.control.fault(call, status=status, times=40, skip=1)
    run.approve()
    assert run.state == "Failed"
    assert len(bench.attaches()) == 1
    assert "may still take effect" in run.message.partition(f"{status}")[0]


def test_a_retry_records_the_attach_even_if_the_key_is_gone_by_then(bench: Onboardings) -> None:
    """The first execution ended between the attach and its read-back."""
    run = bench.asked()
    checks, live_facts, before_the_attach = 1, 1, 1
    skip = checks + live_facts + before_the_attach
    bench.control.fault("workspaces.retrieve", status=403, skip=skip, times=50)
    run.approve()
    assert run.state == "Failed", run.message
    assert len(bench.attaches()) == 1
    bench.control.clear_faults()
    del bench.sandbox.world.kms.crypto_keys[bench.key_name]
    run.force(Scheduled(name="AwaitingRetry"))
    run.execute()
    assert run.state == "Failed", run.message
    external_key_id = bench.sandbox.world.admin.workspaces[bench.fresh].external_key_id
    assert run.message.startswith(
        f"Flow run encountered an exception: AttachedKeyError: {bench.fresh} has {external_key_id}"
    )
    assert "deleted" in run.message
    evidence = [one for one in bench.artifacts(run) if (one.key or "").startswith("cmek-evidence")]
    chain = loads(record_in(str(evidence[0].data)))
    assert [one.kind for one in chain.entries].count("attached") == 1


@pytest.mark.parametrize("repair", [False, True], ids=["", "repair"])
@pytest.mark.parametrize(
    "call", ["GetCryptoKey", "GetIamPolicy", "external_keys.validate", "workspaces.list"]
)
def test_whatever_fails_later_the_message_says_what_is_attached(
    bench: Onboardings, call: str, repair: bool
) -> None:
    """A key that can't be read may be lost, and with it the data of the workspace."""
    assert bench.asked().approve().state == "Attached"
    bench.control.fault(call, status=403, skip=call == "workspaces.list", times=50)
    run = bench.start(repair=repair).execute()
    assert run.state == "Failed", run.message
    external_key_id = bench.sandbox.world.admin.workspaces[bench.fresh].external_key_id
    assert f"{bench.fresh} has {external_key_id}, which is final." in run.message
    assert "othing was attached" not in run.message


def test_a_run_that_is_cancelled_while_it_attaches_says_what_became_of_it(
    bench: Onboardings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As when Prefect's server lets the lease of the workspace's slot end: its scope cancels."""
    scopes: list[AsyncCancelScope] = []
    attach, send = flows._attach._try_attach, _Attach.send

    async def in_scope(*arguments: Any) -> Any:
        with AsyncCancelScope() as scope:
            scopes.append(scope)
            return await attach(*arguments)

    async def cancelled(step: _Attach) -> Workspace:
        scopes[0].cancel()
        return await send(step)

    run = bench.asked()
    run.answer()
    monkeypatch.setattr(flows._attach, "_try_attach", in_scope)
    monkeypatch.setattr(_Attach, "send", cancelled)
    with pytest.raises(asyncio.CancelledError):
        run.execute()
    monkeypatch.undo()
    assert run.state == "Crashed"
    assert [one["effect"] for one in bench.attaches()] == [True]
    (said,) = (one.getMessage() for one in caplog.records if "was ended" in one.getMessage())
    assert said.startswith("The run was ended while it attached ekey_")
    assert f"to {bench.fresh}: attached." in said
    run.force(Scheduled(name="AwaitingRetry"))
    assert run.execute().state == "Already attached"
    assert len(bench.attaches()) == 1
    world = bench.sandbox.world
    assert EVIDENCE_TAG in world.admin.workspaces[bench.fresh].tags
    assert in_use_label(bench.fresh)[0] in world.kms.crypto_keys[bench.key_name].labels


def _lost_then_changed(bench: Onboardings, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run whose attach got no answer, so far without effect, and whose plan then changed."""
    attach = flows._attach._try_attach

    async def change_after(*arguments: Any) -> Any:
        outcome = await attach(*arguments)
        member = "user:eve@example.com"
        bench.kms.grant(bench.key_name, "roles/cloudkms.cryptoKeyDecrypter", member)
        return outcome

    run = bench.asked()
    bench.control.fault("workspaces.update", when="before", kind="reset")
    with monkeypatch.context() as patch:
        patch.setattr(flows._attach, "_try_attach", change_after)
        run.approve()
    assert run.state == "Suspended", run.message
    return run


def test_a_new_approval_request_says_that_an_attach_may_still_take_effect(
    bench: Onboardings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever rejects it must not read that nothing was attached."""
    run = _lost_then_changed(bench, monkeypatch)
    assert "may still take effect" in run.text()
    run.approve(decision="reject")
    assert run.state == "Rejected"
    report = [str(one.data) for one in bench.artifacts(run) if "onboarding" in str(one.key)]
    assert "may still take effect" in report[0]


def test_an_attach_that_takes_effect_behind_a_new_approval_request_is_the_runs_own(
    bench: Onboardings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is reported, not refused as somebody else's, and nothing is sent again."""
    run = _lost_then_changed(bench, monkeypatch)
    workspace = bench.sandbox.world.admin.workspaces[bench.fresh]
    workspace.external_key_id = run.approval_request.plan.external_key_id
    assert run.approve().state == "Attached", run.message
    assert len(bench.attaches()) == 1


def test_who_suspends_a_run_that_has_attached_and_resumes_it_gets_the_report(
    bench: Onboardings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same response is read again, and the attach that it finds is its own."""

    async def suspended(*_: object) -> None:
        raise asyncio.CancelledError

    run = bench.asked()
    run.answer()
    with monkeypatch.context() as patch:
        patch.setattr(flows.onboard, "_report_attached", suspended)
        with pytest.raises(asyncio.CancelledError):
            run.execute()
    run.force(Suspended())
    bench.client.resume_flow_run(run.id)
    assert run.execute().state == "Attached", run.message
    assert len(bench.attaches()) == 1


@pytest.mark.parametrize("status", [403, 429])
def test_a_run_whose_attach_was_refused_claims_no_attach_of_somebody_else(
    bench: Onboardings, status: int
) -> None:
    """It has had a permit, of which nothing came."""
    run = bench.asked()
    key = run.approval_request.plan.external_key_id
    bench.control.fault("workspaces.update", status=status, times=9)
    run.approve()
    bench.control.clear_faults()
    assert run.state == "Failed"
    workspace = bench.sandbox.world.admin.workspaces[bench.fresh]
    workspace.external_key_id = key
    run.force(Scheduled(name="AwaitingRetry"))
    assert run.execute().state == "Already attached", run.message
    assert "nothing was written" in run.message
    assert EVIDENCE_TAG not in workspace.tags


def test_a_refusal_is_certain_whatever_can_be_read_after_it(
    bench: Onboardings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service says that the key changed; then it does not answer."""
    run = bench.asked()
    code = "external_key_changed"
    bench.control.fault("workspaces.update", status=409, error_code=code, times=9)
    retrieve, sent = Workspaces.retrieve, Workspaces.update

    async def unread(*_: object) -> Workspace:
        raise AdminConnectionError(CallFailure("GET", "http://127.0.0.1", "no answer"))

    async def send(*arguments: Any, **options: Any) -> Workspace:
        monkeypatch.setattr(Workspaces, "retrieve", unread)
        return await sent(*arguments, **options)

    monkeypatch.setattr(Workspaces, "update", send)
    run.approve()
    monkeypatch.setattr(Workspaces, "retrieve", retrieve)
    assert run.state == "Failed"
    assert "nothing was attached" in run.message.lower()
    assert "not known" not in run.message
