"""What a whole onboarding produces: a record that verifies, Terraform that changes nothing."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from prefect.states import Scheduled

from cmek.evidence.record import Chain, loads
from cmek.evidence.report import record_in
from cmek.gcp.kms import CloudKms
from cmek.gcp.resources import KeySpec
from cmek.names import in_use_label
from cmek.tags import EVIDENCE_TAG
from cmek.terraform.module import VARIABLES, write_module
from tasks.artifacts import read_module
from tests.support.onboarding import Onboardings, Run
from tests.terraform.command import Terraform, needs_terraform
from tests.terraform.provider import stand_in


def page(bench: Onboardings, run: Run, kind: str) -> str:
    (found,) = [
        one for one in bench.artifacts(run) if one.key and one.key.startswith(f"cmek-{kind}-")
    ]
    return str(found.data)


def chain_of(bench: Onboardings, run: Run) -> Chain:
    chain = loads(record_in(page(bench, run, "evidence")))
    return Chain(entry for entry in chain.entries if entry.run == str(run.id))


def test_the_record_tells_the_whole_onboarding_in_order(bench: Onboardings) -> None:
    """Request, checks, each write, approval request, response, validation, gate, attach, marks."""
    run = bench.asked().approve(comment="change 4711")
    chain = chain_of(bench, run)
    assert [entry.kind for entry in chain.entries] == [
        "started",
        "prerequisites",
        "write",
        "write",
        "write",
        "write",
        "validation",
        "approval_request",
        "approval_response",
        "prerequisites",
        "validation",
        "gate_decision",
        "attached",
        "write",
        "write",
    ]
    bodies = {entry.kind: str(entry.body) for entry in chain.entries}
    assert "ada@example.com" in bodies["started"]
    assert "google-cloud-kms" in bodies["started"]
    assert "change 4711" in bodies["approval_response"]
    assert "permit" in bodies["gate_decision"]
    text = chain.dumps()
    assert bench.sandbox.admin_key not in text


def test_the_hash_of_the_attach_is_in_report_and_tag(bench: Onboardings) -> None:
    run = bench.asked().approve()
    (attached,) = [one for one in chain_of(bench, run).entries if one.kind == "attached"]
    workspace = run.parameters["request"]["workspace"]
    tags = bench.sandbox.world.admin.workspaces[workspace].tags
    assert tags[EVIDENCE_TAG] == attached.hash
    assert attached.hash in page(bench, run, "onboarding")
    keys = bench.sandbox.world.kms.crypto_keys
    marked = [key for key in keys.values() if in_use_label(workspace)[0] in key.labels]
    assert len(marked) == 1


def test_a_run_that_fails_after_writing_leaves_its_record(bench: Onboardings) -> None:
    bench.control.fault("external_keys.create", when="before", status=403)
    failed = bench.start().execute()
    assert failed.state == "Failed", failed.message
    subjects = [one.subject for one in chain_of(bench, failed).entries if one.kind == "write"]
    assert [subject.split()[0] for subject in subjects] == [
        "CreateKeyRing",
        "CreateCryptoKey",
        "SetIamPolicy",
    ]
    assert chain_of(bench, failed).entries[-1].kind == "failed"


def test_a_retry_of_an_older_failed_run_claims_nothing_about_the_attach_of_another(
    bench: Onboardings,
) -> None:
    """What it would publish has neither the approval nor the attach of the run in between."""
    bench.control.fault("external_keys.create", when="before", status=403)
    failed = bench.start().execute()
    attached = bench.asked().approve()
    assert attached.state == "Attached"
    record = chain_of(bench, attached)
    failed.force(Scheduled(name="AwaitingRetry"))
    assert failed.execute().state == "Already attached", failed.message
    assert chain_of(bench, attached).head == record.head
    newest = bench.artifacts(failed)
    assert [one for one in newest if str(one.key).startswith("cmek-evidence")] != []
    kinds = [entry.kind for entry in chain_of(bench, failed).entries]
    assert kinds[-1] == "failed"
    assert "attached" not in kinds


def test_the_label_of_an_adopted_key_and_the_mark_that_it_is_used_are_two_entries(
    bench: Onboardings,
) -> None:
    run = bench.asked(**adoptable(bench)).approve()
    assert run.state == "Attached", run.message
    written = [one.body for one in chain_of(bench, run).entries if one.kind == "write"]
    labels = [
        one for one in written if isinstance(one, dict) and one["action"] == "UpdateCryptoKey"
    ]
    assert len(labels) == bench.writes().count("UpdateCryptoKey") == 2
    assert in_use_label(bench.fresh)[0] in str(labels[-1]["after"])


@needs_terraform
@pytest.mark.parametrize("case", ["fresh", "adopted", "shared"])
def test_terraform_adopts_it_with_zero_changes(
    bench: Onboardings, case: str, tmp_path: Path
) -> None:
    request: dict[str, object] = {}
    if case == "adopted":
        request = adoptable(bench)
    elif case == "shared":
        request = shared(bench)
    run = bench.asked(**request).approve()
    assert run.state == "Attached", run.message
    module = asyncio.run(
        read_module.fn("anthropic-admin", "google-kms", run.parameters["request"]["workspace"])
    )
    assert module[VARIABLES] in page(bench, run, "terraform")
    write_module(module, tmp_path)
    with stand_in(bench.sandbox.http) as reattach:
        terraform = Terraform(tmp_path, reattach)
        terraform.run("init", "-input=false")
        plan = terraform.plan()
    assert len(plan) == 4
    assert {tuple(actions) for actions in plan.values()} == {("no-op", "import")}


def adoptable(bench: Onboardings) -> dict[str, object]:
    """A key that somebody made before, without our label, with its own values."""

    async def make() -> None:
        kms = CloudKms.connect(endpoint=bench.sandbox.grpc)
        ring = f"projects/{bench.sandbox.project_id}/locations/us-east5/keyRings/theirs"
        await kms.create_key_ring(ring)
        spec = KeySpec(
            protection_level="SOFTWARE",
            destroy_scheduled_duration=timedelta(days=45),
            labels={"team": "payments"},
        )
        await kms.create_crypto_key(f"{ring}/cryptoKeys/theirs", spec)
        await kms.aclose()

    asyncio.run(make())
    return {
        "key_ring": "theirs",
        "crypto_key": "theirs",
        "protection_level": "SOFTWARE",
        "adopt_existing_key": True,
    }


def shared(bench: Onboardings) -> dict[str, object]:
    first, second = (w["id"] for w in bench.sandbox.workspaces if w["state"] == "fresh")
    bench.start(first, crypto_key="shared").execute().approve()
    return {"workspace": second, "crypto_key": "shared"}
