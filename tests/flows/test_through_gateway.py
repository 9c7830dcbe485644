"""Whole runs on a worker that holds no credential: a gateway attaches, or refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from blocks.anthropic_admin import AnthropicAdmin
from gateway.settings import GatewaySettings
from tests.flows.outcomes import assert_not_attached, assert_stopped
from tests.support.gateway import serving_gateway
from tests.support.onboarding import Onboardings, signed
from tests.support.requests import APPROVER
from tests.support.signing import GRACE, KATHERINE, Office


@pytest.fixture
def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Office:
    """The worker's signers; a worker reads them from a fixed path, so here they are patched in."""
    office = Office(tmp_path / "worker")
    office.home.mkdir()
    office.enrol(GRACE)
    office.enrol(KATHERINE)
    monkeypatch.setattr("tasks.reads.find_signers", office.finder)
    return office


@pytest.fixture
def own_office(tmp_path: Path, office: Office) -> Office:
    """The gateway's own copy of the signers directory, which its administrator may change."""
    own = Office(tmp_path / "gateway", office.keys)
    own.directory.mkdir(parents=True)
    signers = (office.directory / "allowed_signers").read_text()
    (own.directory / "allowed_signers").write_text(signers)
    return own


@pytest.fixture
def gateway(bench: Onboardings, own_office: Office, tmp_path: Path) -> Iterator[str]:
    """A gateway that the worker's block names; the block itself has no credential."""
    key = tmp_path / "admin_key"
    key.write_text(bench.sandbox.admin_key)
    settings = GatewaySettings(
        journal=tmp_path / "journal", upstream=bench.sandbox.http, admin_key_file=key
    )
    with serving_gateway(settings, own_office) as url:
        AnthropicAdmin(base_url=url, gateway=True).save("anthropic-admin", overwrite=True)
        yield url
    direct = AnthropicAdmin(base_url=bench.sandbox.http, admin_key=bench.sandbox.admin_key)
    direct.save("anthropic-admin", overwrite=True)


def test_a_signed_approval_attaches_through_the_gateway(
    gateway: str, office: Office, bench: Onboardings
) -> None:
    run = bench.asked()
    assert "signed_approvals" in run.form()["properties"]
    digest = run.approval_request.digest
    run.approve(**signed(office, run, APPROVER))
    assert run.state == "Attached", run.message
    assert [one["effect"] for one in bench.attaches()] == [True]
    found = httpx.get(f"{gateway}/gateway/journal/{run.id}", trust_env=False).json()
    (entry,) = found["entries"]
    assert (entry["outcome"], entry["plan_digest"]) == ("attached", digest)
    # a second run finds the key attached, by reads that the gateway forwards
    again = bench.start().execute()
    assert again.state == "Already attached", again.message


def test_a_new_workspace_is_created_through_the_gateway(
    gateway: str, office: Office, bench: Onboardings
) -> None:
    run = bench.start(
        workspace_id=None, create_workspace="Payments EU", data_residency="us_only"
    ).execute()
    assert run.state == "Suspended", run.message
    run.approve(**signed(office, run, APPROVER))
    assert run.state == "Attached", run.message
    (created,) = bench.control.log(call="workspaces.create")
    assert created["request"]["data_residency"]["default_inference_geo"] == "us"


def test_the_gateways_own_minimum_outweighs_the_workers(
    gateway: str, office: Office, own_office: Office, bench: Onboardings
) -> None:
    (own_office.directory / "minimum_signatures").write_text("2")
    run = bench.asked()
    run.approve(**signed(office, run, APPROVER))
    assert_not_attached(run, "the gateway attached nothing", "1 of 2 required signatures")


def test_an_approver_whom_the_gateway_does_not_know_attaches_nothing(
    gateway: str, office: Office, bench: Onboardings
) -> None:
    """Write access to the worker's signers file gains nothing."""
    office.enrol("eve@example.com")
    run = bench.asked()
    run.approve(**signed(office, run, "eve@example.com"), approver="eve@example.com")
    assert_not_attached(run, "the gateway attached nothing", "is not enrolled for them")


def test_a_worker_without_signers_says_so_before_anything_is_made(
    gateway: str, bench: Onboardings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.reads.find_signers", lambda: None)
    assert_stopped(bench.start().execute(), "allowed_signers")


def test_the_gateways_reads_come_on_top_and_are_named(
    gateway: str, office: Office, bench: Onboardings
) -> None:
    run = bench.asked()
    before = len(bench.control.log())
    run.approve(**signed(office, run, APPROVER))
    calls = [one["call"] for one in bench.control.log(service="admin") if one["number"] > before]
    attach = calls.index("workspaces.update")
    assert calls[attach - 4 : attach] == [
        "workspaces.retrieve",  # the flow's own, before it sends
        "external_keys.retrieve",
        "workspaces.retrieve",
        "external_keys.validate",
    ]


@pytest.mark.parametrize("comes", [True, False])
def test_an_attach_of_unknown_outcome_is_not_called_one_that_did_not_happen(
    gateway: str, office: Office, bench: Onboardings, comes: bool
) -> None:
    """The gateway sends one attach and its approval is used up; the key appears late, or never."""
    run = bench.asked()
    bench.control.fault("workspaces.update", kind="late")
    if comes:
        bench.control.fault("workspaces.retrieve", kind="release")
    run.approve(**signed(office, run, APPROVER))
    assert len(bench.attaches()) <= 1
    if comes:
        assert run.state == "Attached", run.message
    else:
        assert run.state == "Failed"
        assert "may still take effect" in run.message
        assert "attached nothing" not in run.message
