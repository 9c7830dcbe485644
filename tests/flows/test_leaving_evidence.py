"""The record of a run: kept across executions, published, continued, exported and verified."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from prefect import flow
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.objects import Artifact
from prefect.runtime import flow_run
from typer.testing import CliRunner

from cli.export import evidence_command as evidence_app
from cmek.evidence.record import Chain, Event, EvidenceEntry, loads
from cmek.evidence.report import record_in
from cmek.names import artifact_key, in_use_label
from cmek.onboarding.request import OnboardingRequest
from cmek.tags import EVIDENCE_TAG
from tasks.clients import admin_client, close_clients
from tasks.evidence import label_attached_resources, publish_evidence, record
from tests.support.kept import records_folder
from tests.support.onboarding import Onboardings

STARTED = Event(kind="started", subject="w", body={"requested_by": "ada@example.com"})
WROTE = Event(kind="write", subject="CreateKeyRing r", body={"before": None, "after": {"a": 1}})
ATTACHED = Event(kind="attached", subject="w", body={"attached": True})
COMMANDS = CliRunner()
numbers = iter(range(1000))


@pytest.fixture
def workspace() -> str:
    return f"wrkspc_01evidence{next(numbers):03}"


@flow
async def record_all(workspace: str, events: list[Event]) -> str:
    """Record the events and publish them; returns the run's id."""
    for event in events:
        await record(workspace, event)
    await publish_evidence(workspace)
    return str(flow_run.get_id())


def recorded(workspace: str, *events: Event) -> str:
    return asyncio.run(record_all(workspace, list(events)))


def published(bench: Onboardings, workspace: str) -> list[Artifact]:
    found = bench.client.read_artifacts()
    ours = [one for one in found if one.key == artifact_key("evidence", workspace)]
    return sorted(ours, key=lambda one: str(one.created))


def chain_of(bench: Onboardings, workspace: str) -> Chain:
    return loads(record_in(str(published(bench, workspace)[-1].data)))


def of_last_run(bench: Onboardings, workspace: str) -> list[EvidenceEntry]:
    entries = chain_of(bench, workspace).entries
    return [entry for entry in entries if entry.run == entries[-1].run]


def test_what_is_exported_verifies_and_a_flipped_byte_is_named(
    bench: Onboardings, workspace: str, tmp_path: Path
) -> None:
    """Export writes the published record; verify passes it, and names a changed entry."""
    recorded(workspace, STARTED, WROTE, ATTACHED)
    file = tmp_path / "evidence.jsonl"
    done = COMMANDS.invoke(evidence_app, ["export", workspace, "--out", str(file)])
    assert done.exit_code == 0, done.output
    chain = chain_of(bench, workspace)
    about = COMMANDS.invoke(evidence_app, ["export", workspace, "--out", str(file), "--json"])
    facts = json.loads(about.stdout)
    assert (facts["file"], facts["head"]) == (str(file), chain.head)
    checked = COMMANDS.invoke(evidence_app, ["verify", str(file), "--json"])
    assert json.loads(checked.stdout)["entries"] == facts["entries"] == len(chain.entries)
    checked = COMMANDS.invoke(evidence_app, ["verify", str(file), "--anchor", chain.head])
    assert f"Verified: 3 entries, head {chain.head}" in checked.output
    file.write_text(file.read_text().replace('"a":1', '"a":2'))
    broken = COMMANDS.invoke(evidence_app, ["verify", str(file)])
    assert broken.exit_code == 1
    assert "entry 2 (write CreateKeyRing r): its hash" in str(broken.exception)


def test_a_record_goes_to_standard_output_for_a_dash(
    bench: Onboardings, workspace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty folder for approvals is reported."""
    recorded(workspace, STARTED, WROTE, ATTACHED)
    monkeypatch.chdir(tmp_path)
    options = ["--out", "-", "--approvals", "approvals"]
    done = COMMANDS.invoke(evidence_app, ["export", workspace, *options])
    assert loads(done.stdout).head == chain_of(bench, workspace).head
    assert "No approval was signed" in done.stderr
    assert [one.name for one in tmp_path.iterdir()] == ["approvals"]


def test_a_record_goes_to_standard_output_byte_for_byte_in_every_locale(
    bench: Onboardings, workspace: str
) -> None:
    """It is UTF-8: in Latin-1 its hashes would not verify."""
    named = Event(kind="started", subject="w", body={"requested_by": "Adèle"})
    recorded(workspace, named, ATTACHED)
    done = CliRunner(charset="latin-1").invoke(evidence_app, ["export", workspace])
    assert done.exit_code == 0, done.output
    assert done.stdout_bytes == record_in(str(published(bench, workspace)[-1].data)).encode()
    assert "Adèle" in done.stdout_bytes.decode()


def test_a_whole_forged_record_is_found_by_its_anchor(
    bench: Onboardings, workspace: str, tmp_path: Path
) -> None:
    """A chain that was written again verifies by itself, but lacks the hash stored elsewhere."""
    recorded(workspace, STARTED, ATTACHED)
    anchor = chain_of(bench, workspace).head
    recorded(f"{workspace}x", STARTED, ATTACHED)
    file = tmp_path / "forged.jsonl"
    COMMANDS.invoke(evidence_app, ["export", f"{workspace}x", "--out", str(file)])
    assert COMMANDS.invoke(evidence_app, ["verify", str(file)]).exit_code == 0
    refused = COMMANDS.invoke(evidence_app, ["verify", str(file), "--anchor", anchor])
    assert refused.exit_code == 1
    assert anchor in str(refused.exception)


def test_what_was_added_after_the_anchor_is_said_not_to_be_covered(
    bench: Onboardings, workspace: str, tmp_path: Path
) -> None:
    """The hash on the workspace is of the attach; anyone may chain further entries to it."""
    recorded(workspace, STARTED, ATTACHED)
    anchor = chain_of(bench, workspace).head
    file = tmp_path / "record.jsonl"
    for added, said in (((), "Verified: 2"), ((STARTED, WROTE), "The hash covers entries 1 to 2.")):
        recorded(workspace, *added)
        COMMANDS.invoke(evidence_app, ["export", workspace, "--out", str(file)])
        shown = COMMANDS.invoke(evidence_app, ["verify", str(file), "--anchor", anchor])
        assert shown.exit_code == 0
        assert said in shown.output
        assert ("covers" in shown.output) is bool(added)


def test_a_changed_record_is_named_with_the_way_to_see_it(
    bench: Onboardings, workspace: str, tmp_path: Path
) -> None:
    recorded(workspace, STARTED, WROTE)
    page = str(published(bench, workspace)[-1].data).replace("ada", "eve")
    key = artifact_key("evidence", workspace)
    bench.client.create_artifact(ArtifactCreate(key=key, type="markdown", data=page))
    done = COMMANDS.invoke(evidence_app, ["export", workspace, "--out", str(tmp_path / "x")])
    assert done.exit_code == 1
    assert not (tmp_path / "x").exists()
    for said in (key, "entry 1 (started w)", "prefect artifact inspect", f"evidence/{workspace}/"):
        assert said in str(done.exception)


def test_without_a_record_export_says_where_one_may_be(bench: Onboardings, workspace: str) -> None:
    done = COMMANDS.invoke(evidence_app, ["export", workspace])
    assert done.exit_code == 1
    assert f"under evidence/{workspace}/" in str(done.exception)


executions = iter([True, False])


@flow(retries=1)
async def breaks_once(workspace: str) -> None:
    """The first execution stops in the middle; the second one starts from the top."""
    await record(workspace, STARTED)
    await record(workspace, WROTE)
    if next(executions):
        raise RuntimeError("the process dies here")
    await record(workspace, ATTACHED)
    await publish_evidence(workspace)


@pytest.mark.server  # which retries the flow
def test_an_execution_from_the_top_adds_only_what_is_new(
    bench: Onboardings, workspace: str
) -> None:
    """After a crash in the middle the record holds every event once, in one chain."""
    asyncio.run(breaks_once(workspace))
    kinds = [entry.kind for entry in chain_of(bench, workspace).entries]
    assert kinds == ["started", "write", "attached"]


def test_the_next_run_goes_on_with_the_chain(bench: Onboardings, workspace: str) -> None:
    """A run that failed after writing is part of the same record as the one that attached."""
    first = recorded(workspace, STARTED, WROTE)
    second = recorded(workspace, STARTED, ATTACHED)
    entries = chain_of(bench, workspace).entries
    assert [entry.run for entry in entries] == [first, first, second, second]
    assert entries[2].previous == entries[1].hash


def test_a_published_record_that_was_changed_is_not_continued(
    bench: Onboardings, workspace: str
) -> None:
    """A new chain begins, and its first entry says which artifact is broken and where."""
    recorded(workspace, STARTED, WROTE)
    page = str(published(bench, workspace)[-1].data)
    changed = page.replace('"requested_by":"ada', '"requested_by":"eve')
    forged = ArtifactCreate(key=artifact_key("evidence", workspace), type="markdown", data=changed)
    bench.client.create_artifact(forged)
    recorded(workspace, ATTACHED)
    broken, attached = chain_of(bench, workspace).entries
    assert broken.kind == "broken_record"
    assert "entry 1 (started w)" in str(broken.body)
    assert attached.kind == "attached"


def test_a_copy_is_kept_among_the_workers_records(bench: Onboardings, workspace: str) -> None:
    """Each run has its own file, so that no run overwrites another's record."""
    run = asyncio.run(record_all(workspace, [STARTED, WROTE]))
    copy = (records_folder() / "evidence" / workspace / f"{run}.jsonl").read_bytes()
    assert loads(copy).entries == chain_of(bench, workspace).entries


def test_a_run_that_recorded_nothing_publishes_nothing(bench: Onboardings, workspace: str) -> None:
    recorded(workspace)
    assert published(bench, workspace) == []


@flow
async def attach_and_mark(request: OnboardingRequest, key_name: str) -> str:
    """The end of an onboarding, marked twice as after a lost response; returns the entry's hash."""
    workspace = request.subject
    admin = await admin_client(request.anthropic_block)
    external = await admin.external_keys.create(key_name)
    await admin.workspaces.update(workspace, external_key_id=external.id)
    (entry,) = await record(workspace, Event(kind="attached", subject=workspace, body=external.id))
    for _ in range(2):
        await label_attached_resources(request, key_name, entry)
    await publish_evidence(workspace)
    await close_clients()
    return entry.hash


@pytest.fixture
def request_(bench: Onboardings) -> OnboardingRequest:
    project = bench.sandbox.project_id
    return OnboardingRequest(
        workspace_id=bench.fresh, project_id=project, requested_by="ada@example.com"
    )


@pytest.fixture
def key_name(bench: Onboardings) -> str:
    return next(
        name for name, key in bench.sandbox.world.kms.crypto_keys.items() if "search" in name
    )


def marked(bench: Onboardings, request: OnboardingRequest, key: str) -> str:
    bench.control.clear_log()
    return asyncio.run(attach_and_mark(request, key))


def test_workspace_and_key_are_marked_once(
    bench: Onboardings, request_: OnboardingRequest, key_name: str
) -> None:
    """The tag is the hash of the attach's entry, the label says that the workspace depends on it.

    Both writes are entries of the record, with the earlier values.
    """
    entry_hash = marked(bench, request_, key_name)
    world = bench.sandbox.world
    assert world.admin.workspaces[request_.subject].tags[EVIDENCE_TAG] == entry_hash
    label, value = in_use_label(request_.subject)
    assert world.kms.crypto_keys[key_name].labels[label] == value
    assert bench.writes().count("workspaces.update") == 2
    assert bench.writes().count("UpdateCryptoKey") == 1
    entries = of_last_run(bench, request_.subject)
    writes = [entry.subject for entry in entries if entry.kind == "write"]
    assert writes == [f"workspaces.update {request_.subject}", f"UpdateCryptoKey {key_name} in use"]


def test_a_mark_that_is_refused_is_recorded_and_stops_nothing(
    bench: Onboardings, request_: OnboardingRequest, key_name: str
) -> None:
    """A key with 64 labels stays as it is; the record says why the mark is missing."""
    labels = bench.sandbox.world.kms.crypto_keys[key_name].labels
    for number in range(64 - len(labels)):
        labels[f"label-{number}"] = "x"
    marked(bench, request_, key_name)
    entries = of_last_run(bench, request_.subject)
    (missing,) = [entry for entry in entries if "UpdateCryptoKey" in entry.subject]
    assert missing.kind == "write_skipped"
    assert "64 labels" in str(missing.body)
    assert len(bench.sandbox.world.kms.crypto_keys[key_name].labels) == 64
