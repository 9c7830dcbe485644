"""`cmek sign` and `cmek approve` sign the plan of the digest, and the gate accepts it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pytest

from cli import approvals
from cli import approve as dialogue
from cli.approvals import ApprovalError, PendingApproval, TamperedError
from cli.approve import ResponseInput
from cli.terminal import new_console
from cmek.onboarding.approval_request import ApprovalRequest
from cmek.onboarding.plan import Plan
from tests.support.command import exit_code
from tests.support.onboarding import Onboardings, Run
from tests.support.requests import APPROVER, REQUESTER
from tests.support.signing import GRACE, KATHERINE, Office, statement


@pytest.fixture
def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Office:
    """Two enrolled approvers, both required."""
    office = Office(tmp_path)
    office.enrol(GRACE)
    office.enrol(KATHERINE)
    (office.directory / "minimum_signatures").write_text("2")
    monkeypatch.setattr("tasks.reads.find_signers", office.finder)
    return office


@pytest.fixture
def run(office: Office, bench: Onboardings) -> Run:
    return bench.asked()


@pytest.fixture
def approval_request(bench: Onboardings, run: Run) -> PendingApproval:
    return approvals.read_pending(bench.client, run.id)


def test_two_people_sign_and_one_of_them_answers(
    office: Office,
    bench: Onboardings,
    run: Run,
    approval_request: PendingApproval,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The first hands over a file, the second responds with it and an own signature."""
    who = ["--approver", KATHERINE, "--signing-key", str(office.keys[KATHERINE])]
    what = ["--comment", "me too", "--plan-digest", approval_request.plan_digest]
    assert exit_code("sign", str(run.id), *who, *what, "--json") == 0
    facts = json.loads(capfd.readouterr().out)
    assert (facts["run_id"], facts["approver"]) == (str(run.id), KATHERINE)
    assert "BEGIN SSH SIGNATURE" in facts["signed_approval"]
    assert exit_code("sign", str(run.id), *who, *what) == 0
    printed = capfd.readouterr()
    assert approval_request.workspace in printed.err
    first = office.home / "first"
    first.write_text(printed.out)
    pending = approval_request
    given = ResponseInput(
        pending.workspace, pending.plan_digest, APPROVER, "fine", acknowledge_warnings=True
    )
    fields = dialogue.build_response(approval_request, "approve", given, new_console())
    asked = approval_request.approval_request
    others = approvals.read_signed(asked, [first], now=datetime.now(UTC))
    fields[approvals.FIELD] = approvals.signed_field(asked, fields, office.keys[GRACE], others)
    approvals.respond(bench.client, approval_request, fields)
    run.execute()
    assert run.state == "Attached", run.message
    assert GRACE in run.message
    assert KATHERINE in run.message


def store_form(
    bench: Onboardings, run: Run, approval_request: PendingApproval, form: dict[str, Any]
) -> None:
    """Change the stored form, as anyone with write access to the server can."""
    store_text(bench, run, approval_request, json.dumps(form))


def store_text(bench: Onboardings, run: Run, approval_request: PendingApproval, text: str) -> None:
    key = approval_request.keyset["schema"]
    bench.client.delete_flow_run_input(run.id, key)
    bench.client.create_flow_run_input(run.id, key, text)


def test_a_plan_that_is_not_the_digests_is_neither_signed_nor_answered(
    bench: Onboardings,
    run: Run,
    approval_request: PendingApproval,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Somebody with write access to the server could show one plan and have another signed."""
    form = run.form()
    carried = form["properties"]["plan_digest"]["approval_request"]
    plan, other = carried["plan"], str(uuid4())
    evil = plan | {"key_name": plan["key_name"].replace("acme", "evil")}
    typed = Plan.model_validate(plan | {"workspace_id": "wrkspc_01Another1111111111111111"})
    for change in (
        {"plan": evil},
        {"digest": "0" * 64},
        {"run_id": other},
        # longer than the plan allows: a signature would be valid for years
        {"expires_at": "2999-01-01T00:00:00Z"},
        # not under the digest: a warning that the policy accepts needs no acknowledgement
        {"plan": plan | {"warnings": [one | {"accepted": True} for one in plan["warnings"]]}},
        # a valid plan of another workspace than its own request names
        {"plan": typed.model_dump(mode="json"), "digest": typed.digest},
    ):
        form["properties"]["plan_digest"]["approval_request"] = carried | change
        store_form(bench, run, approval_request, form)
        with pytest.raises(TamperedError, match="neither sign nor respond"):
            approvals.wait_for_pending(bench.client, run.id, seconds=60)
    assert exit_code("pending") == 0
    listed = " ".join(capfd.readouterr().out.split())
    assert "neither sign nor respond" in listed
    assert f"cmek approve {run.id}" not in listed
    del form["properties"]["plan_digest"]["approval_request"]
    store_form(bench, run, approval_request, form)
    with pytest.raises(TamperedError, match="no readable plan"):
        approvals.read_pending(bench.client, run.id)


def damaged(form: dict[str, Any]) -> Iterator[str]:
    """Forms that cannot be read, or whose plan can have no digest or no name."""
    yield from ("", "no JSON", "null", "[]", '"text"', "{}", "[" * 100_000, '{"properties": []}')
    for other in ("null", "[]", '"x"', '{"plan": 1}'):
        yield f'{{"properties": {{"plan_digest": {{"approval_request": {other}}}}}}}'
    yield json.dumps({"properties": {"plan_digest": "x"}})
    carried = form["properties"]["plan_digest"]["approval_request"]
    plan = carried["plan"]
    asked = plan["request"]
    deep: Any = 0
    for _ in range(400):
        deep = [deep]
    for change in (
        {"expires_at": "2026-11-30T12:00:00"},
        {"requested_at": "2026-11-20T12:00:00"},
        {"plan": plan | {"workspace_name": "\ud800"}},
        {"plan": plan | {"request": asked | {"overrides": {"x": 2**60}}}},
        {"plan": plan | {"request": asked | {"overrides": {"x": deep}}}},
        {"plan": plan | {"request": asked | {"crypto_key": "x" * 100}}},
    ):
        named = {"approval_request": carried | change}
        yield json.dumps({"properties": {"plan_digest": named}})


def test_a_damaged_form_is_said_of_its_run_and_hides_no_other(
    bench: Onboardings,
    run: Run,
    approval_request: PendingApproval,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """It is reported in the list of all, and to a person who wants to respond."""
    other = bench.asked(workspace_id=None, create_workspace="Beside it")
    for text in damaged(run.form()):
        store_text(bench, run, approval_request, text)
        with pytest.raises(TamperedError) as refused:
            approvals.wait_for_pending(bench.client, run.id, seconds=60)
        assert "respond" in str(refused.value), text[:60]
        assert exit_code("pending", "--json") == 0
        rows = {one["run_id"]: one for one in json.loads(capfd.readouterr().out)}
        assert rows[str(run.id)]["problem"] == str(refused.value)
        assert rows[str(other.id)]["problem"] is None


def test_what_can_not_be_signed_is_said(office: Office, approval_request: PendingApproval) -> None:
    """A missing key, an invalid address, a file that is no signed approval."""
    asked = approval_request.approval_request
    with pytest.raises(ApprovalError, match="did not sign"):
        approvals.sign(asked, GRACE, "fine", office.home / "nothing")
    with pytest.raises(ApprovalError, match="can't be signed"):
        approvals.sign(asked, "grace", "fine", office.keys[GRACE])
    other = office.home / "other"
    other.write_text("hello")
    with pytest.raises(ApprovalError, match="must end with"):
        approvals.read_signed(asked, [other], now=datetime.now(UTC))


def files_of(office: Office, asked: ApprovalRequest, *people: str, **changes: Any) -> list[Path]:
    """A file for each, with an approval that says something else than it should."""
    made: list[Path] = []
    for who in people:
        said = statement(asked, who, comment=f"{who} agrees", issued_at=a_second_ago())
        file = office.home / f"approval-{len(made)}"
        file.write_text(str(office.signed(said.model_copy(update=changes))))
        made.append(file)
    return made


def a_second_ago() -> datetime:
    return datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=1)


def submitting(run: Run, files: Sequence[Path], *more: str) -> list[str]:
    """The command of somebody who has no key of their own."""
    given = [part for file in files for part in ("--with", str(file))]
    return ["approve", str(run.id), *given, "--submit-only", *more]


@pytest.fixture
def operator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without an SSH key."""
    home = tmp_path / "operator"
    home.mkdir()
    monkeypatch.setattr(Path, "home", lambda: home)


@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.usefixtures("operator")
def test_an_operator_without_a_key_submits_what_others_have_signed(
    office: Office,
    run: Run,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    typed: bool,
) -> None:
    """As it is: approver and comment are the first one's, and only the workspace is asked for."""
    approval_request = approvals.read_pending(run.bench.client, run.id)
    files = files_of(office, approval_request.approval_request, KATHERINE, GRACE)
    digest = ("--plan-digest", approval_request.plan_digest)
    confirmed = ("--workspace-id", approval_request.workspace, *digest)
    if typed:
        monkeypatch.setattr(dialogue, "is_interactive", lambda _: True)
        monkeypatch.setattr("sys.stdin", StringIO("wrkspc_01Another\n"))
        assert exit_code(*submitting(run, files)) == 1
        assert "nothing was answered" in capfd.readouterr().err
        assert run.state == "Suspended"
        monkeypatch.setattr("sys.stdin", StringIO(f"{approval_request.workspace}\n"))
    with run.executed_when_scheduled():
        code = exit_code(*submitting(run, files, *(() if typed else confirmed)))
    printed = capfd.readouterr()
    shown = " ".join(printed.out.split())
    assert code == 0, printed.err
    assert run.state == "Attached", run.message
    assert KATHERINE in run.message
    assert GRACE in run.message
    assert f"Plan digest: {approval_request.plan_digest}" in shown
    assert f"{KATHERINE} (ED25519 key SHA256:" in shown
    assert f'"{KATHERINE} agrees"' in shown


OTHERS: Final[dict[str, dict[str, Any]]] = {
    "another plan": {"plan_digest": "0" * 64},
    "another run": {"run_id": str(uuid4())},
    "another approval request": {"approval_request": "attach-1-2"},
    "its nonce is not this one's": {"nonce": "of an earlier one"},
    "another decision": {"decision": "reject"},
    "another list of warnings": {"acknowledged_warnings": ()},
    "signed before the request was made": {"issued_at": datetime(2020, 1, 1, tzinfo=UTC)},
}


@pytest.mark.usefixtures("operator")
def test_what_would_make_the_whole_answer_invalid_is_refused_before_it_is_sent(
    office: Office, run: Run, approval_request: PendingApproval, capfd: pytest.CaptureFixture[str]
) -> None:
    """A refused answer costs every signature: the next request has to be signed anew by all."""
    asked = approval_request.approval_request
    good = files_of(office, asked, KATHERINE, GRACE)
    digest = ("--plan-digest", approval_request.plan_digest)
    confirmed = ("--workspace-id", approval_request.workspace, *digest)
    own = ["--signing-key", str(office.keys[GRACE]), "--approver", GRACE, "--comment", "fine"]
    own.append("--acknowledge-warnings")
    other = office.home / "other"

    def refused(why: str, *arguments: str) -> None:
        assert exit_code(*arguments, *confirmed) == 1, why
        said = " ".join(capfd.readouterr().err.split())
        assert why in said
        assert "nothing was answered" in said

    for why, change in OTHERS.items():
        (bad,) = files_of(office, asked, KATHERINE, **change)
        other.write_text(bad.read_text())
        good = files_of(office, asked, KATHERINE, GRACE)
        refused(why, *submitting(run, [good[1], other]))
        refused(why, "approve", str(run.id), "--with", str(other), *own)
    text = good[0].read_text()
    for why, content in {
        "must end with": text.partition("\n")[0],
        "has no SSH signature": text.replace(text.splitlines()[2], "!"),
        "does not fit its text": text.replace("agrees", "agreed"),
    }.items():
        other.write_text(content)
        refused(why, *submitting(run, [other, good[1]]))
    refused("1 of 2 required signatures", *submitting(run, good[:1]))
    refused("1 of 2 required signatures", "approve", str(run.id), *own)
    refused("has signed more than once", *submitting(run, [good[0], good[0]]))
    refused("has signed more than once", "approve", str(run.id), "--with", str(good[1]), *own)
    office.new_key(REQUESTER)
    refused("is the requester", *submitting(run, files_of(office, asked, GRACE, REQUESTER)))
    assert run.state == "Suspended"
    assert run.approval_request == asked


def test_submit_only_goes_with_files_and_with_nothing_of_ones_own(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    for more in ([], ["--with", "a", "--approver", GRACE], ["--with", "a", "--comment", "fine"]):
        assert exit_code("approve", str(run.id), "--submit-only", *more) == 2
        assert "--submit-only" in capfd.readouterr().err


@pytest.mark.usefixtures("operator")
def test_whoever_lacks_a_key_learns_it_before_anything_is_typed(
    office: Office, run: Run, approval_request: PendingApproval, capfd: pytest.CaptureFixture[str]
) -> None:
    (file,) = files_of(office, approval_request.approval_request, GRACE)
    assert exit_code("approve", str(run.id), "--with", str(file)) == 1
    said = " ".join(capfd.readouterr().err.split())
    assert "no SSH key in" in said
    assert "or --submit-only to add no approval of yours" in said


@pytest.mark.parametrize("option", ["--signing-key", "--with"])
def test_a_signature_that_would_have_no_effect_is_refused_before_the_attach(
    bench: Onboardings, capfd: pytest.CaptureFixture[str], option: str
) -> None:
    """Its owner expects it to be verified, but an unsigned run's request has no field for it."""
    run = bench.asked()
    pending = approvals.wait_for_pending(bench.client, run.id, seconds=60)
    typed = ["--workspace-id", pending.workspace, "--plan-digest", pending.plan_digest]
    who = ["--approver", APPROVER, "--comment", "fine", "--acknowledge-warnings"]
    assert exit_code("approve", str(run.id), *typed, *who, option, "/no/such/file") == 1
    assert "asks for no signature" in " ".join(capfd.readouterr().err.split())
    assert run.state == "Suspended"
