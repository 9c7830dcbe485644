"""The documented roles are exactly what the worker needs: every other permission is denied."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, patch

import pytest
import yaml
from prefect_gcp import GcpCredentials

from blocks.anthropic_admin import AnthropicAdmin
from blocks.google_kms import GoogleKms
from cli.deploy import PROJECT
from cli.doctor.credentials import write_access
from cli.doctor.finding import DoctorFinding
from cmek._http import Ok, try_read
from cmek.gcp.kms import CloudKms
from cmek.gcp.project_apis import GoogleReads
from cmek.keys.history import SIGNS
from cmek.keys.prerequisites import run_checks
from cmek.keys.reader import Clients
from cmek.keys.verdicts import CheckReport, Health
from cmek.onboarding.request import OnboardingRequest
from cmek.tags import LEFTOVERS
from sandbox.admin.state import GcpConfig
from tasks.clients import close_clients
from tests.support.fleet import Fleet
from tests.support.kms import LOCATION
from tests.support.onboarding import Onboardings
from tests.support.revalidation import Revalidations
from tests.support.staging import FOLDER, ORGANIZATION

BLOCK = "google-kms-worker"
READING = frozenset({"get", "list", "getIamPolicy"})


def role(name: str) -> list[str]:
    text = (PROJECT / "deploy" / "roles" / name).read_text()
    found: list[str] = yaml.safe_load(text)["includedPermissions"]
    return found


WORKER, READER = role("worker.yaml"), role("organization-reader.yaml")
WATCHER = role("watcher.yaml")


def denied(bench: Onboardings) -> set[str]:
    """The calls that were refused because of a missing permission, by gRPC and by REST."""
    refused = ("PERMISSION_DENIED", "403")
    return {str(one["call"]) for one in bench.control.log() if str(one["status"]) in refused}


@pytest.fixture
def kms_block(bench: Onboardings) -> Iterator[GoogleKms]:
    """The block of a worker that has the two roles and nothing else."""
    info = json.loads(Path(bench.sandbox.google_credentials_file).read_text())
    block = GoogleKms(
        gcp_credentials=GcpCredentials(service_account_info=info),
        endpoint=bench.sandbox.grpc,
        checks_endpoint=bench.sandbox.http,
    )
    block.save(BLOCK, overwrite=True)
    bench.sandbox.world.kms.projects[bench.sandbox.project_id].ancestors = [FOLDER, ORGANIZATION]
    bench.control.identity("onboarding", permissions=[*WORKER, *READER])
    yield block
    bench.control.identity("onboarding", permissions="all")


def test_with_the_two_roles_alone_a_workspace_is_onboarded_and_watched(
    bench: Onboardings, kms_block: GoogleKms
) -> None:
    """From nothing to attached and healthy; no check is unknown because of a missing permission."""
    run = bench.asked(kms_block=BLOCK).approve()
    assert run.state == "Attached", run.message
    assert denied(bench) == set()
    key_id = bench.attaches()[-1]["request"]["external_key_id"]
    looked = Revalidations.deployed(bench.client).run(external_keys=[key_id], kms_block=BLOCK)
    assert looked.state is not None
    assert looked.state.name == "Completed", looked.state.message


def test_with_the_workers_role_alone_a_workspace_is_onboarded(
    bench: Onboardings, kms_block: GoogleKms
) -> None:
    """What needs the organization's role is unknown, and shown to the approver."""
    bench.control.identity("onboarding", permissions=WORKER)
    run = bench.asked(kms_block=BLOCK)
    assert "Who can tell" in run.text()
    assert run.approve().state == "Attached", run.message


def test_the_watchers_role_reads_everything_and_can_write_nothing(
    bench: Onboardings, kms_block: GoogleKms
) -> None:
    """This covers both depths, keys alone in their ring or not, and leftovers."""
    assert not [one for one in WATCHER if one.rpartition(".")[2] not in READING]
    bench.asked().approve(decision="reject")
    fleet = Fleet(bench.sandbox.world, f"{LOCATION}/keyRings/watched")
    keys = [fleet.onboard("one"), fleet.onboard("two")]
    fleet.make_ring(f"{LOCATION}/keyRings/lone")
    keys.append(fleet.onboard("three", ring=f"{LOCATION}/keyRings/lone"))
    bench.control.identity("onboarding", permissions=WATCHER)
    bench.control.clear_log()
    watching = Revalidations.deployed(bench.client)
    for depth in ("full", "quick"):
        watching.run(kms_block=BLOCK, depth=depth, reads_per_minute=1_000_000)
        assert {row.verdict for row in watching.latest_rows() if row.external_key_id in keys} == {
            SIGNS[Health.HEALTHY]
        }
    assert denied(bench) == set()
    assert bench.control.calls(write=True) == []
    assert LEFTOVERS in {str(one.key) for one in bench.client.read_artifacts()}


@pytest.mark.prove  # as for the worker below: `make prove` leaves out each permission
@pytest.mark.parametrize("permission", sorted(WATCHER))
def test_no_permission_of_the_watcher_can_be_left_out(
    bench: Onboardings, kms_block: GoogleKms, permission: str
) -> None:
    """Without it something is refused: a key with others in its ring, one alone, a leftover."""
    bench.asked().approve(decision="reject")
    fleet = Fleet(bench.sandbox.world, f"{LOCATION}/keyRings/watched")
    keys = [fleet.onboard("one"), fleet.onboard("two")]
    fleet.make_ring(f"{LOCATION}/keyRings/lone")
    keys.append(fleet.onboard("three", ring=f"{LOCATION}/keyRings/lone"))
    bench.control.identity("onboarding", permissions=[p for p in WATCHER if p != permission])
    bench.control.clear_log()
    run = Revalidations.deployed(bench.client).run(kms_block=BLOCK, reads_per_minute=1_000_000)
    assert run.state is not None
    assert denied(bench)


@pytest.mark.prove
@pytest.mark.parametrize("permission", sorted({*WORKER, *READER}))
def test_no_permission_can_be_left_out(
    bench: Onboardings, kms_block: GoogleKms, permission: str
) -> None:
    """Without it a check or a read of the revalidation reports something else."""
    everything = [*WORKER, *READER]
    full = asyncio.run(seen(bench, kms_block))
    bench.control.identity("onboarding", permissions=[p for p in everything if p != permission])
    assert asyncio.run(seen(bench, kms_block)) != full


async def seen(bench: Onboardings, block: GoogleKms) -> dict[str, Any]:
    """What the worker learns about a key that does not exist yet, and about one that does."""
    config = next(iter(bench.sandbox.world.admin.external_keys.values())).provider_config
    assert isinstance(config, GcpConfig)
    name = config.key_name
    project, location, ring, key = name.split("/")[1::2]
    admin = AnthropicAdmin(base_url=bench.sandbox.http, admin_key=bench.sandbox.admin_key)
    clients = (
        admin.get_client(),
        block.get_client(),
        GoogleReads(block.credentials(), base_url=bench.sandbox.http),
    )
    base = {"workspace_id": bench.fresh, "project_id": project, "requested_by": "a@example.com"}
    existing = {"location": location, "key_ring": ring, "crypto_key": key}
    try:
        reports = [
            statuses(
                await run_checks(OnboardingRequest.model_validate(base | fields), Clients(*clients))
            )
            for fields in ({}, existing)
        ]
        return {"checks": reports, "revalidation": await revalidation_reads(clients[1], name)}
    finally:
        for client in clients:
            await client.aclose()


def statuses(report: CheckReport) -> dict[str, str]:
    return {one.id: f"{one.status} {one.evidence}" for one in report.checks}


async def revalidation_reads(kms: CloudKms, key: str) -> list[bool]:
    ring = key.partition("/cryptoKeys/")[0]

    async def keys() -> int:
        return len([one async for one in kms.list_crypto_keys(ring)])

    reads = (try_read(keys()), try_read(kms.get_iam_policy(ring)))
    return [isinstance(await one, Ok) for one in reads]


def test_a_worker_that_keeps_write_on_an_attached_key_is_noticed_until_it_is_removed(
    bench: Onboardings, kms_block: GoogleKms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cmek doctor` warns where a gateway attaches, whatever level the grant is on."""

    def found() -> DoctorFinding:
        async def ask() -> DoctorFinding:
            try:
                return await write_access("anthropic-admin", BLOCK)
            finally:
                await close_clients()

        return asyncio.run(ask())

    Fleet(bench.sandbox.world).onboard("kept")
    open_to_change = found()
    assert open_to_change.status == "warn"
    assert "may change 3 of 3 attached keys" in open_to_change.found
    assert "remove-iam-policy-binding acme-kms-prod" in open_to_change.remedy
    # the printed command must be valid for a shell and for gcloud
    for caller, member in (("user:o'x@example.com", "user:o'x@example.com"), (None, "MEMBER")):
        google = AsyncMock(return_value=SimpleNamespace(caller=caller))
        with patch("cli.doctor.credentials.google_client", google):
            command = found().remedy.partition("gcloud ")[2].partition(" (")[0]
        assert f"--member={member}" in shlex.split(command)
    bench.control.identity("onboarding", permissions=WATCHER)
    assert (found().status, found().remedy) == ("pass", "")
    # a third key is not asked about, so the finding is unknown
    monkeypatch.setattr("cli.doctor.credentials._ASKED_KEYS", 2)
    some = found()
    assert some.status == "unknown"
    assert "none of 2 attached keys; 1 more were not asked about" in some.found
    assert "get-iam-policy" in some.remedy
