"""Whole runs on a worker with signers: write access to Prefect's API does not make an approver."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prefect.states import Scheduled

from blocks.anthropic_admin import AnthropicAdmin
from cli.export import write_approvals
from cmek.evidence.record import Chain, Event, loads
from cmek.evidence.report import record_in
from cmek.records import records_of
from tests.flows.outcomes import assert_not_attached, assert_stopped, assert_waiting
from tests.support.kept import record_files
from tests.support.onboarding import Onboardings, Run, signed
from tests.support.requests import APPROVER
from tests.support.signing import GRACE, KATHERINE, Office


@pytest.fixture
def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Office:
    """The signers; a worker reads them from a fixed path, so here they are patched in."""
    office = Office(tmp_path)
    office.enrol(GRACE)
    office.enrol(KATHERINE)
    office.new_key("eve@example.com")
    monkeypatch.setattr("tasks.reads.find_signers", office.finder)
    return office


@pytest.fixture
def run(office: Office, bench: Onboardings) -> Run:
    return bench.asked()


def test_a_signed_approval_attaches_and_names_its_signer(
    office: Office, bench: Onboardings, run: Run
) -> None:
    assert "signed_approvals" in run.form()["then"]["required"]
    assert "ssh-keygen -Y sign" in run.text()
    run.approve(**signed(office, run, APPROVER))
    assert run.state == "Attached", run.message
    assert f"{GRACE} (ED25519 key SHA256:" in run.message
    assert "unverified" not in run.message
    assert len(bench.attaches()) == 1
    (evidence,) = [a for a in bench.artifacts(run) if (a.key or "").startswith("cmek-evidence-")]
    entries = loads(record_in(str(evidence.data))).entries
    (answered,) = [json.dumps(entry.body) for entry in entries if entry.kind == "approval_response"]
    (gate,) = [json.dumps(entry.body) for entry in entries if entry.kind == "gate_decision"]
    assert "BEGIN SSH SIGNATURE" in answered
    # the exported files verify with OpenSSH alone, even after the approver's `valid-before`
    folder = office.home / "approvals"
    (response,) = [entry for entry in entries if entry.kind == "approval_response"]
    of_2020 = Chain()
    event = Event(kind=response.kind, subject=response.subject, body=response.body)
    of_2020.append(event, run=response.run, at=datetime(2020, 1, 1, 23, 30, tzinfo=UTC))
    (command,) = write_approvals(of_2020, folder)
    signers = (office.directory / "allowed_signers").read_text()
    over = signers.replace("namespaces=", 'valid-before="20200102Z",namespaces=')
    (folder / "allowed_signers").write_text(over)
    shell: dict[str, Any] = {"cwd": folder, "capture_output": True, "text": True}
    verified = subprocess.run(["sh", "-c", command], check=False, **shell)
    assert f'Good "cmek-approval" signature for {GRACE}' in verified.stdout, verified.stderr
    (statement,) = folder.glob("*.json")
    statement.write_text(statement.read_text().replace("fine", "fire"))
    assert subprocess.run(["sh", "-c", command], check=False, **shell).returncode
    assert "ED25519 key SHA256:" in gate


def test_a_stored_request_rewritten_with_fewer_signatures_lowers_nothing(
    office: Office, bench: Onboardings
) -> None:
    """The worker requires one, the request two. The attacker here has the worker's MAC key, too."""
    run = bench.asked(signatures=2)
    (file,) = record_files(run, "approval-request-1-1")
    records = records_of(os.environ)
    kept: Any = records.read(str(run.id), file.stem)
    kept["approval_request"]["signatures"] = 1
    records.write(str(run.id), file.stem, kept)
    run.approve(**signed(office, run, APPROVER))
    assert bench.attaches() == []
    assert "1 of 2 required signatures" in run.text()


def test_a_forged_response_without_a_signature_attaches_nothing(
    office: Office, bench: Onboardings, run: Run
) -> None:
    """It is written directly to the server, only the signature is missing; the run is forced."""
    run.forge_response(run.full_answer())
    run.force(Scheduled(name="Resuming"))
    run.execute()
    assert bench.attaches() == []
    run.forge_response(run.full_answer(signed_approvals="-"))
    run.force(Scheduled(name="Resuming"))
    run.execute()
    assert bench.attaches() == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("-", "must end with"),
        ("{}-----BEGIN SSH SIGNATURE-----QUJD-----END SSH SIGNATURE-----", "is not the statement"),
    ],
)
def test_an_unsigned_answer_in_the_form_is_asked_again(
    office: Office, bench: Onboardings, run: Run, text: str, why: str
) -> None:
    """The form cannot tell a signature from a dash; the gate can, and says what was wrong."""
    run.approve(signed_approvals=text)
    assert_waiting(run, why)


def test_a_stolen_signature_of_an_earlier_run_is_refused(
    office: Office, bench: Onboardings, run: Run
) -> None:
    """Same plan, same approver, not expired, but of another run and nonce."""
    old = signed(office, run, APPROVER)
    run.answer(decision="reject", comment="no")
    run.execute()
    assert run.state == "Rejected"
    again = bench.asked()
    again.approve(**old)
    assert_waiting(again, "signed for another run")


def test_a_signature_of_an_earlier_ask_is_refused_when_the_facts_flip_back(
    office: Office, bench: Onboardings, run: Run
) -> None:
    """A→B→A: the digest is the same again, the nonce is not."""
    workspace = bench.sandbox.world.admin.workspaces[bench.fresh]
    name = workspace.name
    digest = run.approval_request.digest
    old = signed(office, run, APPROVER)
    for now in ("renamed", name):
        workspace.name = now
        run.approve(**old)
        assert_waiting(run)
    assert run.approval_request.digest == digest
    run.approve(**old)
    assert_waiting(run, "its nonce is not")
    run.approve(**signed(office, run, APPROVER))
    assert run.state == "Attached", run.message


@pytest.mark.parametrize(
    ("signer", "change", "why"),
    [  # the signer, the changed fields of the statement, the reason in the next request
        ("eve@example.com", {}, "is not enrolled"),
        (GRACE, {"plan_digest": "0" * 64}, "signed for another plan"),
        (GRACE, {"comment": "another"}, "the approver and the comment of the answer"),
        (GRACE, {"decision": "reject"}, "signed for another decision"),
    ],
)
def test_a_signature_that_does_not_fit_is_refused_with_its_reason(
    office: Office, run: Run, signer: str, change: dict[str, str], why: str
) -> None:
    fields = signed(office, run, signer, **change)
    run.approve(approver=signer, **fields)
    assert_waiting(run, why)


def test_the_requester_can_not_lower_what_the_worker_requires(
    office: Office, bench: Onboardings
) -> None:
    """The minimum is two and the request says none: one signature is too few, two are enough."""
    (office.directory / "minimum_signatures").write_text("2")
    run = bench.asked(signatures=0)
    run.approve(**signed(office, run, APPROVER))
    assert "1 of 2 required signatures" in run.text()
    run.approve(**signed(office, run, APPROVER, KATHERINE))
    assert run.state == "Attached", run.message


def test_taking_the_signers_away_does_not_bring_typed_approvals_back(
    office: Office, bench: Onboardings, run: Run
) -> None:
    """The approval request records that it needs a signature."""
    fields = signed(office, run, APPROVER)
    (office.directory / "allowed_signers").unlink()
    run.approve(**fields)
    assert_not_attached(run, "enrol the approvers")


def test_signers_enrolled_while_a_run_waits_count_at_once(
    office: Office, bench: Onboardings
) -> None:
    """A typed response to an earlier approval request is not enough any more."""
    signers = office.directory / "allowed_signers"
    kept = signers.read_text()
    signers.unlink()
    run = bench.asked()
    signers.write_text(kept)
    run.approve()
    assert run.state == "Suspended"
    assert "0 of 1 required signatures" in run.text()
    assert "signed_approvals" in run.form()["then"]["required"]
    assert bench.attaches() == []


@pytest.mark.parametrize(
    "change",
    [{"requested_by": "eve@example.com"}, {"overrides": {"four_eyes": False}}],
    ids=lambda change: next(iter(change)),
)
def test_a_signature_does_not_carry_over_to_patched_parameters(
    office: Office, bench: Onboardings, run: Run, change: dict[str, object]
) -> None:
    """They are patched after the original request was signed."""
    answer = run.full_answer(**signed(office, run, APPROVER))
    parameters = {"request": run.parameters["request"] | change}
    bench.client.request(
        "PATCH", "/flow_runs/{id}", path_params={"id": run.id}, json={"parameters": parameters}
    ).raise_for_status()
    bench.client.resume_flow_run(run.id, run_input=answer)
    run.execute()
    assert_not_attached(run, "parameters of this run were changed")


def test_a_signature_does_not_carry_over_to_a_changed_block(
    office: Office, bench: Onboardings, run: Run
) -> None:
    """Another address of the Admin API is another plan, which has no signature."""
    fields = signed(office, run, APPROVER)
    sandbox = bench.sandbox
    elsewhere = sandbox.http.replace("127.0.0.1", "localhost")
    for url in (elsewhere, sandbox.http):
        AnthropicAdmin(base_url=url, admin_key=sandbox.admin_key).save(
            "anthropic-admin", overwrite=True
        )
        run.approve(**fields)
        # at the old address again, the signature is of an earlier request
        assert run.state == "Suspended", url
        assert bench.attaches() == []


def test_an_approver_who_is_revoked_before_the_run_goes_on_approves_nothing(
    office: Office, bench: Onboardings, run: Run
) -> None:
    """The signers at the time of the gate decide, not those when the form was sent."""
    run.answer(**signed(office, run, APPROVER))
    office.revoke(GRACE)
    run.execute()
    assert_waiting(run, "revoked")


def test_a_worker_that_can_not_verify_makes_nothing(office: Office, bench: Onboardings) -> None:
    """Signatures are required and no approver is enrolled: it is refused before the first write."""
    (office.directory / "allowed_signers").unlink()
    run = bench.start(signatures=1).execute()
    assert_stopped(run, "enrol the approvers")
