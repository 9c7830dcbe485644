"""The revalidation flow: depth, deadline, changes, keys beyond reach."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import typer
from google.cloud.kms_v1 import CryptoKey
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed, Late, Running, Scheduled
from prefect.utilities.schema_tools import validate
from pydantic import ValidationError
from typer.testing import CliRunner

import cmek.keys.unreachable
import tasks.announcements
import tasks.revalidation
from cli.listen import keys_on_server
from cli.show import history, status_command
from cmek.keys.verdicts import Health, KeyRecord
from cmek.revalidation.fleet import FLEET, FleetRow, published
from cmek.revalidation.request import RevalidationRequest
from cmek.revalidation.signals import Signal
from cmek.tags import LEFTOVERS
from flows._revalidation_lock import LIMIT
from flows.revalidate import PROGRESS, revalidate_keys
from sandbox.seed import fixed_id
from tasks.revalidation import NoWorkspaceKeyError
from tests.support.command import exit_code
from tests.support.execution import deploy
from tests.support.fleet import Fleet, many_keys
from tests.support.kms import Level
from tests.support.onboarding import Onboardings, Run
from tests.support.revalidation import Revalidations

EVE = "user:eve@example.com"


@pytest.fixture
def fleet(bench: Onboardings) -> Fleet:
    return Fleet(bench.sandbox.world)


@pytest.fixture
def revalidations(bench: Onboardings) -> Revalidations:
    return Revalidations.deployed(bench.client)


def follow_ups(bench: Onboardings) -> list[FlowRun]:
    runs = bench.client.read_flow_runs(
        flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=["look-again"]))
    )
    return [run for run in runs if run.state and run.state.is_scheduled()]


def test_all_registered_keys_are_checked_unless_some_are_named(
    bench: Onboardings, fleet: Fleet, revalidations: Revalidations
) -> None:
    """The default request means every Google Cloud key, seeded ones included."""
    keys = {fleet.onboard("all-one"), fleet.onboard("all-two")}
    registered = set(bench.sandbox.world.admin.external_keys)
    assert {row.external_key_id for row in revalidations.rows(revalidations.run())} == registered
    assert keys < registered


def test_the_progress_ends_with_all_keys(fleet: Fleet, revalidations: Revalidations) -> None:
    """The last update is not lost, however quick the run is."""
    keys = [fleet.onboard("first"), fleet.onboard("second")]
    shown = revalidations.artifact(revalidations.run(external_keys=keys), PROGRESS)
    assert (shown.data, shown.description) == (100.0, "2 of 2 keys")


def test_a_check_of_some_keys_keeps_the_other_rows_of_the_table(
    fleet: Fleet, revalidations: Revalidations
) -> None:
    """The table is about the whole fleet, whichever run wrote it last."""
    one, two = fleet.onboard("some-one"), fleet.onboard("some-two")
    revalidations.run(external_keys=[one, two])
    fleet.set_state("some-two", 1, "DISABLED")
    rows = revalidations.rows(revalidations.run(external_keys=[two]))
    levels = {row.external_key_id: row.level for row in rows}
    assert (levels[one], levels[two]) == ("healthy", "broken")
    assert rows[0].level == "broken"


def test_a_healthy_sweep_is_completed_and_a_risk_carries_its_name(
    fleet: Fleet, revalidations: Revalidations
) -> None:
    """Prefect has no yellow, so the state's name says it."""
    fine = fleet.onboard("fine")
    risky = fleet.onboard("risky", destroy_scheduled_duration=timedelta(days=2))
    names = [revalidations.run(external_keys=[one]).state_name for one in (fine, risky)]
    assert names == ["Completed", "At risk"]


def test_what_changed_since_the_first_check_is_drift_until_recorded_anew(
    fleet: Fleet, revalidations: Revalidations
) -> None:
    """Drift names the field with its old and new value; a person can accept it."""
    key = fleet.onboard("drifting")
    revalidations.run(external_keys=[key])
    fleet.update("drifting", rotation_period=timedelta(days=30))
    revalidations.run(external_keys=[key])
    worst = revalidations.record(key).worst
    assert worst is not None
    assert (worst.rule, worst.subject) == ("drift", "rotation_period")
    assert "was 90 days" in worst.says
    assert "is 30 days" in worst.says
    revalidations.run(external_keys=[key], record_anew=True)
    assert revalidations.record(key).verdict == "healthy"


def adoption(bench: Onboardings) -> Run:
    """An onboarding of a key that somebody else uses, up to its approval request."""
    ring = bench.kms.ring("anthropic-cmek")
    hsm = {"protection_level": Level.HSM}
    key = bench.kms.key(
        bench.fresh,
        ring=ring,
        version_template=hsm,
        rotation_period=timedelta(days=90),
        next_rotation_time=datetime(2100, 1, 1, tzinfo=UTC),
        destroy_scheduled_duration=timedelta(days=30),
    )
    bench.kms.grant(key.name, "roles/cloudkms.cryptoKeyDecrypter", EVE)
    return bench.asked(adopt_existing_key=True)


@pytest.mark.parametrize("depth", ["quick", "full"])
@pytest.mark.parametrize("decision", ["approve", "reject"])
def test_a_key_that_no_workspace_has_alarms_nobody(
    bench: Onboardings, revalidations: Revalidations, depth: str, decision: str
) -> None:
    """An adopted key lacks label and grants while its onboarding waits, and after a rejection."""
    run = adoption(bench)
    key = run.approval_request.plan.external_key_id

    def check() -> FlowRun:
        return revalidations.run(external_keys=[key], depth=depth)

    waiting = check()
    assert waiting.state_name == "Completed", waiting.state
    assert "1 more that no workspace has" in str(waiting.state and waiting.state.message)
    run.approve(decision=decision)
    assert check().state_name == "Completed"
    assert revalidations.events(key) == []
    if decision == "reject":
        return
    record = revalidations.record(key)
    assert record.verdict == "healthy"
    assert record.baseline is not None
    assert (record.baseline.source, record.baseline.decrypters) == ("onboarding", (EVE,))


def test_recording_anew_takes_the_settings_only(
    bench: Onboardings, revalidations: Revalidations
) -> None:
    """The users of an adopted key were approved, so their record stays."""
    run = adoption(bench).approve()
    key = bench.sandbox.world.admin.workspaces[bench.fresh].external_key_id
    assert key is not None, run.message
    was = revalidations.record(key).baseline
    fields = {
        "rotation_period": timedelta(days=30),
        "next_rotation_time": datetime(2100, 1, 1, tzinfo=UTC),
    }
    changed = CryptoKey(name=bench.key_name, **fields)
    bench.kms.grpc.update_crypto_key(crypto_key=changed, update_mask={"paths": list(fields)})
    revalidations.run(external_keys=[key], record_anew=True)
    record = revalidations.record(key)
    assert record.verdict == "healthy", record.worst
    assert was is not None
    assert record.baseline is not None
    assert record.baseline.rotation_period == timedelta(days=30) != was.rotation_period
    renewed = {"rotation_period", "recorded_at"}
    assert record.baseline.model_dump(exclude=renewed) == was.model_dump(exclude=renewed)


def test_a_quick_check_records_nothing_anew() -> None:
    with pytest.raises(ValidationError, match="record_anew needs depth full, not quick"):
        RevalidationRequest(depth="quick", record_anew=True)
    schema = RevalidationRequest.model_json_schema()
    given = {"depth": "quick", "record_anew": True}
    assert validate(given, schema, ignore_required=True), "so there is a run, which then fails"


def test_a_quick_check_keeps_what_the_full_one_found_elsewhere(
    bench: Onboardings, fleet: Fleet, revalidations: Revalidations
) -> None:
    """A key that is broken by an old version does not recover because versions are not read."""
    key = fleet.onboard("rotated")
    fleet.rotate("rotated")
    fleet.set_state("rotated", 1, "DISABLED")
    revalidations.run(external_keys=[key])
    fleet.update("rotated", rotation_period=timedelta(days=30))
    bench.control.clear_log()
    revalidations.run(external_keys=[key], depth="quick")
    record = revalidations.record(key)
    assert record.verdict == "broken"
    assert record.worst is not None
    assert record.worst.rule == "old-version-disabled"
    assert record.worst.seen_at is not None
    assert "ListCryptoKeyVersions" not in bench.control.calls()
    fleet.set_state("rotated", 1, "ENABLED")
    fleet.update("rotated", rotation_period=timedelta(days=90))
    revalidations.run(external_keys=[key])
    assert revalidations.record(key).verdict == "healthy"


def test_a_quick_check_validates_only_what_has_changed(
    bench: Onboardings, fleet: Fleet, revalidations: Revalidations
) -> None:
    """A validation uses the customer's key, so an unchanged key is not validated."""
    still, moved = fleet.onboard("still"), fleet.onboard("moved")
    both = [still, moved]
    revalidations.run(external_keys=both)
    pages = {key: len(revalidations.pages(key)) for key in both}
    fleet.update("moved", labels={})
    bench.control.clear_log()
    revalidations.run(external_keys=both, depth="quick")
    validated = [one["resource"] for one in bench.control.log() if "validate" in one["call"]]
    assert validated == [moved]
    assert revalidations.record(moved).verdict == "broken"
    now = {key: len(revalidations.pages(key)) for key in both}
    assert now == {still: pages[still], moved: pages[moved] + 1}


@pytest.mark.parametrize("quick", [True, False])
def test_a_grant_that_is_gone_is_seen_at_any_depth(
    fleet: Fleet, revalidations: Revalidations, quick: bool
) -> None:
    """A quick check reads one policy for each key."""
    key = fleet.onboard(f"granted-{quick}".lower())
    revalidations.run(external_keys=[key])
    fleet.set_policy(fleet.key(f"granted-{quick}".lower()), {})
    revalidations.run(external_keys=[key], depth="quick" if quick else "full")
    assert revalidations.events(key) == ["cmek.key.broken"]


def test_a_quick_check_costs_little_more_than_one_read_a_key(
    bench: Onboardings, revalidations: Revalidations
) -> None:
    """One list and one policy for a ring, one policy for each key; nothing is validated."""
    bench.sandbox.world.admin.external_keys.clear()
    keys = many_keys(bench.sandbox.world, 100)
    revalidations.run(depth="full", reads_per_minute=1_000_000)
    bench.control.clear_log()
    run = revalidations.run(depth="quick", reads_per_minute=1_000_000)
    assert run.state_name == "Completed"
    assert len(bench.control.calls(service="kms")) <= 1.1 * len(keys)
    assert [one for one in bench.control.calls() if "validate" in one] == []
    latest = revalidations.latest_rows()
    assert {row.external_key_id for row in latest} == set(keys)


def test_a_table_that_is_deleted_while_it_is_brought_up_to_date_is_published_anew(
    fleet: Fleet, revalidations: Revalidations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that finds no change only updates the last table, which is now missing."""
    fleet.onboard("tabled")
    revalidations.run()

    async def deleted(*args: object, **kwargs: object) -> None:
        raise ObjectNotFound(LookupError("deleted"))

    monkeypatch.setattr(PrefectClient, "update_artifact", deleted)
    run = revalidations.run(depth="quick")
    assert revalidations.rows(run) == revalidations.latest_rows()


@pytest.mark.parametrize(
    "data", ["# somebody's page", "[" * 100_000, '{"rows": []}', '[{"Key": 1}]']
)
def test_a_damaged_table_stops_no_check_and_is_said_until_a_check_replaces_it(
    bench: Onboardings,
    fleet: Fleet,
    revalidations: Revalidations,
    capsys: pytest.CaptureFixture[str],
    data: str,
) -> None:
    """Everybody with write access to Prefect's API can store anything under its key."""
    key = fleet.onboard("under-a-damaged-table")
    (workspace,) = (
        one.id
        for one in bench.sandbox.world.admin.workspaces.values()
        if one.external_key_id == key
    )
    revalidations.run()
    for damaged in (FLEET, LEFTOVERS):
        bench.client.create_artifact(ArtifactCreate(key=damaged, type="table", data=data))
    assert (
        asyncio.run(keys_on_server()).about(
            Signal(source="webhook", id="1", what="failed", external_key_id=key)
        )
        == ()
    )
    assert exit_code("status") == 1
    assert "no verdict can be read" in (told := " ".join(capsys.readouterr().err.split()))
    assert f"artifact {FLEET}" in told
    assert exit_code("history", workspace) == 1
    assert f"artifact {FLEET}" in " ".join(capsys.readouterr().err.split())
    revalidations.run(external_keys=[key])
    assert [row.external_key_id for row in revalidations.latest_rows()] == [key]
    revalidations.run()
    registered = set(bench.sandbox.world.admin.external_keys)
    assert {row.external_key_id for row in revalidations.latest_rows()} == registered
    code = exit_code("status", "--json")
    printed = capsys.readouterr()
    rows = json.loads(printed.out)
    assert {one["external_key_id"] for one in rows} == registered
    assert code == any(one["verdict"] == "broken" for one in rows)
    assert printed.err == ""


def test_each_workspace_of_a_shared_key_has_its_history_and_no_other_id_has(
    bench: Onboardings, fleet: Fleet, revalidations: Revalidations
) -> None:
    """For any number of workspaces: the table names three, and an id may begin with another id."""
    key = fleet.onboard("shared")
    workspaces = bench.sandbox.world.admin.workspaces
    fleet.set_state("shared", 1, "DISABLED")
    for number in range(5):
        fleet.register(f"sharer-{number}", fleet.key("shared"))
        id_ = fixed_id("wrkspc", f"Sharer{number}")
        workspaces[id_].external_key_id = key
    revalidations.run(external_keys=[key])
    sharing = [one.id for one in workspaces.values() if one.external_key_id == key]
    assert len(sharing) == 6
    for one in sharing:
        verdicts = [entry.what for entry in history(bench.client, one) if "verdict" in entry.what]
        assert verdicts == ["verdict broken"]
        assert history(bench.client, one[:-1]) == []


@pytest.mark.parametrize("depth", ["quick", "full"])
def test_an_attached_key_that_is_registered_no_more_is_unknown_until_a_person_drops_it(
    bench: Onboardings, fleet: Fleet, revalidations: Revalidations, depth: str
) -> None:
    """For example with another organization's credential; a key without a workspace is dropped."""
    attached, kept = fleet.onboard("vanished"), fleet.onboard("kept")
    unattached = fixed_id("ekey", "Unattached")
    fleet.create_external_key(unattached, "unattached", fleet.key("kept"))
    revalidations.run()
    for gone in (attached, unattached):
        del bench.sandbox.world.admin.external_keys[gone]
    for again in range(2):
        run = revalidations.run(depth=depth)
        assert run.state is not None
        assert attached in str(run.state.message), again
        assert unattached not in str(run.state.message)
        rows = {row.external_key_id: row for row in revalidations.latest_rows()}
        assert (rows[attached].level, rows[kept].level) == ("unknown", "healthy")
        assert unattached not in rows
    assert revalidations.run(external_keys=[kept, attached]).state_name == "Unknown"
    revalidations.run(record_anew=True)
    assert attached in {row.external_key_id for row in revalidations.latest_rows()}
    run = revalidations.run(external_keys=[attached], record_anew=True)
    assert run.state_name == "Completed"
    left = {row.external_key_id for row in revalidations.latest_rows()}
    assert left == set(bench.sandbox.world.admin.external_keys)


def test_a_check_of_no_key_that_leaves_attached_ones_unknown_is_not_completed(
    bench: Onboardings, fleet: Fleet, revalidations: Revalidations
) -> None:
    """Nothing is registered any more: the run must not end as if every key were healthy."""
    bench.sandbox.world.admin.external_keys.clear()
    key = fleet.onboard("of-another-organization")
    revalidations.run()
    bench.sandbox.world.admin.external_keys.clear()
    run = revalidations.run()
    assert run.state_name == "Unknown"
    assert key in str(run.state.message if run.state else "")
    shown = revalidations.artifact(run, PROGRESS)
    assert (shown.data, shown.description) == (100.0, "0 of 0 keys")


def test_a_key_that_is_named_and_was_never_registered_is_said_and_not_taken_for_checked(
    fleet: Fleet, revalidations: Revalidations
) -> None:
    """A mistyped id alone fails the run; beside valid ids the run ends as Unknown."""
    key, mistyped = fleet.onboard("spelt-right"), fixed_id("ekey", "Mistyped")
    for keys, name in (([mistyped], "Failed"), ([key, mistyped], "Unknown")):
        run = revalidations.run(external_keys=keys)
        assert run.state is not None
        assert run.state.name == name
        assert f"check the ids: {mistyped}" in str(run.state.message)


@pytest.mark.parametrize("field", ["anthropic_block", "kms_block"])
def test_a_block_that_can_not_be_used_ends_the_run_and_changes_no_keys_verdict(
    fleet: Fleet, revalidations: Revalidations, field: str
) -> None:
    """It says nothing about any key: one that is known to be broken stays broken."""
    key = fleet.onboard("known")
    fleet.set_state("known", 1, "DISABLED")
    revalidations.run()
    run = revalidations.run(**{field: "not-there"})
    assert run.state is not None
    assert run.state.name == "Failed"
    assert "/not-there can't be used" in str(run.state.message)
    rows = {row.external_key_id: row.level for row in revalidations.latest_rows()}
    assert rows[key] == "broken"


@pytest.mark.server  # which manages the slot
def test_a_second_check_of_all_keys_waits_and_then_says_which_one_it_left_the_work_to(
    bench: Onboardings, revalidations: Revalidations
) -> None:
    """A check of named keys does not wait: a signal must not wait for the fleet."""
    bench.client.upsert_global_concurrency_limit_by_name(LIMIT, 1)
    first = revalidations.start()
    bench.client.set_flow_run_state(first.id, Running(), force=True)
    held = bench.client.request(
        "POST",
        "/v2/concurrency_limits/increment-with-lease",
        json={"names": [LIMIT], "slots": 1, "mode": "concurrency", "lease_duration": 60},
    ).json()
    bench.control.clear_log()
    second = revalidations.run(depth="quick", deadline_seconds=1)
    assert second.state is not None
    assert second.state_name == "Skipped"
    assert str(first.id) in str(second.state.message)
    assert bench.control.calls() == []
    bench.client.set_flow_run_state(first.id, Completed(), force=True)
    assert revalidations.run(depth="quick", deadline_seconds=1).state_name != "Skipped"
    assert bench.control.calls() != [], "a slot that nobody holds does not stop the watch"
    bench.client.request(
        "POST",
        "/v2/concurrency_limits/decrement-with-lease",
        json={"lease_id": held["lease_id"]},
    )


@pytest.mark.server  # whose scheduler makes the runs
@pytest.mark.parametrize("depth", [pytest.param("quick", marks=pytest.mark.prove), "full"])
def test_of_the_scheduled_runs_that_are_late_only_the_newest_checks_and_no_other_is_skipped(
    bench: Onboardings, fleet: Fleet, revalidations: Revalidations, depth: str
) -> None:
    """The others end at once, also while the slot is taken; a person's run is never left out."""
    fleet.onboard(f"outage-{depth}")
    revalidations = Revalidations(bench.client, deploy(revalidate_keys, f"outage-{depth}"))
    oldest, middle, newest = revalidations.late(3, depth=depth)
    by_hand = bench.client.create_flow_run_from_deployment(
        revalidations.deployment,
        parameters={"request": {"depth": depth}},
        state=Scheduled(scheduled_time=oldest.expected_start_time),
    )
    revalidations.start(depth=depth)  # nor does one that a person starts stand for the schedule's
    bench.client.upsert_global_concurrency_limit_by_name(LIMIT, 1)
    held = bench.client.request(
        "POST",
        "/v2/concurrency_limits/increment-with-lease",
        json={"names": [LIMIT], "slots": 1, "mode": "concurrency", "lease_duration": 60},
    ).json()
    bench.client.set_flow_run_state(
        middle.id, Late(scheduled_time=middle.expected_start_time), force=True
    )
    ended = revalidations.ended()
    bench.control.clear_log()
    for run in (oldest, middle):
        skipped = revalidations.execute(run)
        assert skipped.state is not None
        assert skipped.state_name == "Skipped"
        assert str(newest.id) in str(skipped.state.message)
    assert bench.control.calls() == []
    assert revalidations.ended() == ended, "what is missed must not look as if it had been done"
    bench.client.request(
        "POST",
        "/v2/concurrency_limits/decrement-with-lease",
        json={"lease_id": held["lease_id"]},
    )
    assert revalidations.execute(by_hand).state_name != "Skipped"
    bench.client.set_flow_run_state(oldest.id, Scheduled(name="AwaitingRetry"), force=True)
    assert revalidations.execute(oldest).state_name != "Skipped", "a person has retried it"
    assert revalidations.execute(newest).state_name != "Skipped"
    assert revalidations.ended() == ended + 3 * (depth == "full")


def test_runs_that_overlap_send_one_event_for_one_change(
    fleet: Fleet, revalidations: Revalidations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the other run has recorded the change already, or both are about to."""
    key = fleet.onboard("watched-twice")
    revalidations.run(external_keys=[key])
    before = revalidations.record(key)
    fleet.set_state("watched-twice", 1, "DISABLED")
    revalidations.run(external_keys=[key])

    async def stale(_ids: object) -> dict[str, KeyRecord]:
        return {key: before}

    monkeypatch.setattr(tasks.revalidation, "last_records", stale)
    # this run has read the key's history before the other one left its record
    revalidations.run(external_keys=[key])
    assert revalidations.events(key) == ["cmek.key.broken"]

    async def nothing_yet(_id: str) -> list[KeyRecord]:
        return []

    monkeypatch.setattr(tasks.announcements, "recent_records", nothing_yet)
    revalidations.run(external_keys=[key])
    assert revalidations.events(key) == ["cmek.key.broken"], "the same event, under the same id"


def test_keys_after_the_deadline_are_unknown_and_keep_what_is_known(
    bench: Onboardings, fleet: Fleet, revalidations: Revalidations
) -> None:
    """Unknown is not healthy; nothing was read, so nothing recovered."""
    key = fleet.onboard("slow")
    fleet.set_state("slow", 1, "DISABLED")
    revalidations.run(external_keys=[key])
    bench.control.switches(validate_seconds=5)
    run = revalidations.run(external_keys=[key], deadline_seconds=1)
    record = revalidations.record(key)
    assert run.state_name == "Unknown"
    assert (record.verdict, record.announced) == ("unknown", "broken")
    assert [reason.rule for reason in record.reasons] == ["primary-disabled", "unfinished"]
    assert follow_ups(bench) == []


def test_a_failed_validation_without_a_cause_is_checked_again_in_a_minute(
    bench: Onboardings, fleet: Fleet, revalidations: Revalidations
) -> None:
    """One follow-up for a run, with all its keys and since-times, and no second one for a retry."""
    keys = sorted([fleet.onboard("one"), fleet.onboard("two")])
    bench.control.constraints(perimeter_blocks="anthropic")
    began = datetime.now(UTC)
    run = revalidations.run(external_keys=keys)
    ended = datetime.now(UTC)
    revalidations.execute(run)
    assert run.state_name == "Unknown"
    (again,) = follow_ups(bench)
    assert again.state is not None
    due = again.state.state_details.scheduled_time
    assert due is not None
    assert began < due - timedelta(minutes=1) < ended
    carried = again.parameters["request"]["look_again"]
    assert sorted(one["external_key_id"] for one in carried) == keys
    assert all(one["anthropic_failed"] and one["rechecks"] == 0 for one in carried)


def test_a_follow_up_that_reaches_the_keys_is_the_last_one(
    bench: Onboardings, fleet: Fleet, revalidations: Revalidations
) -> None:
    key = fleet.onboard("flaky")
    bench.control.constraints(perimeter_blocks="anthropic")
    revalidations.run(external_keys=[key])
    (again,) = follow_ups(bench)
    bench.control.constraints(perimeter_blocks="nobody")
    revalidations.execute_now(again)
    assert revalidations.record(key).verdict == "healthy"
    assert revalidations.record(key).unreachable is None
    assert follow_ups(bench) == []


def test_another_sweep_leaves_a_key_to_the_follow_up_that_is_to_come(
    bench: Onboardings, fleet: Fleet, revalidations: Revalidations
) -> None:
    """Two runs do not start two chains of follow-ups for the same key."""
    key = fleet.onboard("twice-swept")
    bench.control.constraints(perimeter_blocks="anthropic")
    revalidations.run(external_keys=[key])
    revalidations.run(external_keys=[key])
    (again,) = follow_ups(bench)
    revalidations.execute_now(again)
    assert len(follow_ups(bench)) == 1


def test_a_follow_up_that_is_late_and_was_replaced_meanwhile_starts_no_second_chain(
    bench: Onboardings,
    fleet: Fleet,
    revalidations: Revalidations,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another check came between the time at which it was due and its execution."""
    monkeypatch.setattr(cmek.keys.unreachable, "SOON", timedelta())
    key = fleet.onboard("checked-between")
    bench.control.constraints(perimeter_blocks="anthropic")
    revalidations.run(external_keys=[key])
    (late,) = follow_ups(bench)
    revalidations.run(external_keys=[key])
    (replacing,) = [one for one in follow_ups(bench) if one.id != late.id]
    revalidations.execute_now(late)
    assert [one.id for one in follow_ups(bench)] == [replacing.id]
    assert revalidations.record(key).verdict == "unknown"
    revalidations.execute_now(replacing)
    assert len(follow_ups(bench)) == 1


@pytest.mark.parametrize("ended", [True, False])
def test_a_retry_leaves_one_chain_of_follow_ups_whether_or_not_its_own_has_ended(
    bench: Onboardings,
    fleet: Fleet,
    revalidations: Revalidations,
    monkeypatch: pytest.MonkeyPatch,
    ended: bool,
) -> None:
    """One that has ended can't be the next check, whatever its idempotency key."""
    monkeypatch.setattr(cmek.keys.unreachable, "SOON", timedelta())
    key = fleet.onboard(f"retried-{ended}".lower())
    bench.control.constraints(perimeter_blocks="anthropic")
    run = revalidations.run(external_keys=[key])
    if ended:
        revalidations.execute_now(follow_ups(bench)[0])
    bench.client.set_flow_run_state(run.id, Scheduled(), force=True)
    revalidations.execute(run)
    for _ in range(3):
        for one in follow_ups(bench):
            revalidations.execute_now(one)
        assert len(follow_ups(bench)) == 1


@pytest.mark.parametrize("anthropic_failed", [True, False])
def test_after_a_day_a_key_is_broken_only_if_anthropic_failed_all_along(
    bench: Onboardings, fleet: Fleet, revalidations: Revalidations, anthropic_failed: bool
) -> None:
    """If only our own reads were refused, the key's state is not known: it stays unknown."""
    key = fleet.onboard(f"lost-{anthropic_failed}".lower())
    if anthropic_failed:
        bench.control.constraints(perimeter_blocks="anthropic")
    else:
        bench.control.fault("ListCryptoKeyVersions", status="PERMISSION_DENIED", times=9)
    since = datetime.now(UTC) - timedelta(hours=25)
    lost = {
        "external_key_id": key,
        "since": since.isoformat(),
        "rechecks": 290,
        "anthropic_failed": anthropic_failed,
        "next_check": datetime.now(UTC).isoformat(),
    }
    run = revalidations.run(look_again=[lost])
    record = revalidations.record(key)
    assert record.verdict == ("broken" if anthropic_failed else "unknown")
    assert run.state_name == ("Failed" if anthropic_failed else "Unknown")
    assert follow_ups(bench) == []
    if anthropic_failed:
        assert record.worst is not None
        assert (record.worst.rule, record.worst.since) == ("validation-failed", since)


def test_a_refused_read_says_who_can_tell(
    bench: Onboardings, fleet: Fleet, revalidations: Revalidations
) -> None:
    key = fleet.onboard("hidden")
    bench.control.fault("GetIamPolicy", status="PERMISSION_DENIED", message="not for you", times=9)
    revalidations.run(external_keys=[key])
    record = revalidations.record(key)
    assert record.verdict == "unknown"
    assert {reason.subject for reason in record.reasons} == {
        "the key's policy",
        "the key ring's policy",
    }
    assert all("not for you" in reason.says and reason.who_can_tell for reason in record.reasons)


def test_people_are_notified_of_changes_only(fleet: Fleet, revalidations: Revalidations) -> None:
    """Broken, at risk, recovered: one event each, and none for a check without a change."""
    key = fleet.onboard("told")
    revalidations.run(external_keys=[key])
    assert revalidations.events(key) == []
    fleet.set_state("told", 1, "DISABLED")
    for _ in range(2):
        revalidations.run(external_keys=[key])
    assert revalidations.events(key) == ["cmek.key.broken"]
    fleet.set_state("told", 1, "ENABLED")
    fleet.update("told", rotation_period=timedelta(days=200))
    revalidations.run(external_keys=[key])
    fleet.update("told", rotation_period=timedelta(days=90))
    revalidations.run(external_keys=[key])
    assert revalidations.events(key) == [
        "cmek.key.broken",
        "cmek.key.at_risk",
        "cmek.key.recovered",
    ]


def test_a_deadline_that_begins_on_a_broken_key_is_an_event_of_its_own(
    fleet: Fleet, revalidations: Revalidations
) -> None:
    """With the new reason, its time and its commands; also a quick check finds it."""
    key = fleet.onboard("worse")
    fleet.rotate("worse")
    fleet.set_state("worse", 1, "DISABLED")
    revalidations.run(external_keys=[key])
    fleet.destroy("worse", 2)
    for _ in range(2):
        revalidations.run(external_keys=[key], depth="quick")
    assert revalidations.events(key) == ["cmek.key.broken", "cmek.key.broken"]
    told = revalidations.payloads(key)[-1]
    assert told["rule"] == "primary-destroy-scheduled"
    assert told["time_left"]
    assert "restore 2" in told["commands"][0]


def test_a_live_status_reads_now_and_stores_nothing(
    bench: Onboardings, fleet: Fleet, revalidations: Revalidations
) -> None:
    """The verdict that a run would find, in the terminal; exit code 1 when the key is broken."""
    app = typer.Typer()
    app.command()(status_command)
    key = fleet.onboard("seen-live")
    revalidations.run(external_keys=[key])
    workspaces = bench.sandbox.world.admin.workspaces.values()
    workspace = next(one.id for one in workspaces if one.external_key_id == key)
    fleet.set_state("seen-live", 1, "DISABLED")
    pages, events = len(revalidations.pages(key)), revalidations.events(key)
    bench.control.clear_log()
    shown = CliRunner().invoke(app, ["--live", workspace])
    assert shown.exit_code == 1, shown.output
    assert "broken" in shown.output
    assert "gcloud kms keys versions enable 1 --key=seen-live" in shown.output.replace("\n", " ")
    data = json.loads(CliRunner().invoke(app, ["--live", workspace, "--json"]).stdout)
    assert (data["verdict"], data["external_key_id"]) == ("broken", key)
    assert bench.control.calls(write=True) == []
    assert len(revalidations.pages(key)) == pages
    assert revalidations.events(key) == events
    unknown = CliRunner().invoke(app, ["--live", "wrkspc_01Nowhere"])
    assert isinstance(unknown.exception, NoWorkspaceKeyError)


def test_a_verdict_that_no_check_has_confirmed_for_a_day_is_not_shown_as_current(
    bench: Onboardings,
    fleet: Fleet,
    revalidations: Revalidations,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The worker may be down for weeks; a check of one key must not hide how old the others are."""
    stale, fresh = fleet.onboard("stale"), fleet.onboard("fresh-one")
    revalidations.run(external_keys=[stale, fresh])
    rows = [one for one in revalidations.latest_rows() if one.external_key_id in {stale, fresh}]
    put_table(bench, rows)
    assert exit_code("status") == 0
    assert "stale" not in capsys.readouterr().out
    then = datetime.now(UTC) - timedelta(days=88, hours=3)
    before = f"{then:%Y-%m-%d %H:%M}"
    put_table(
        bench,
        [replace(one, checked=before) if one.external_key_id == stale else one for one in rows],
    )
    assert exit_code("status") == 1
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    at = next(at for at, line in enumerate(lines) if line.endswith("/stale"))
    assert "healthy (not checked for 88 d 3 h)" in lines[at - 1]
    assert next(line for line in lines[at:] if "Last days" in line).endswith("Last days: _______")
    assert "fresh-one" not in printed.out
    assert f"Oldest check at {before} UTC, newest at 20" in printed.out
    assert "1 of 2 verdicts are not current" in " ".join(printed.err.split())
    assert exit_code("status", "--json") == 1
    data = {one["external_key_id"]: one for one in json.loads(capsys.readouterr().out)}
    assert (data[stale]["current"], data[fresh]["current"]) == (False, True)
    assert exit_code("status", "--all") == 1
    assert "fresh-one" in capsys.readouterr().out
    for key, wanted in ((stale, "verdict not current"), (fresh, "verdict healthy")):
        (workspace,) = (
            one.id
            for one in bench.sandbox.world.admin.workspaces.values()
            if one.external_key_id == key
        )
        assert history(bench.client, workspace)[-1].what == wanted


def put_table(bench: Onboardings, rows: list[FleetRow]) -> None:
    """Publish a table of all keys."""
    bench.client.create_artifact(ArtifactCreate(key=FLEET, type="table", data=published(rows)))


def test_a_live_status_promises_no_check_but_the_one_that_is_scheduled(
    bench: Onboardings, fleet: Fleet, revalidations: Revalidations
) -> None:
    """It leaves no record and schedules nothing, so the next check is that of the last record."""
    app = typer.Typer()
    app.command()(status_command)
    key = fleet.onboard("unreached-live")
    revalidations.run(external_keys=[key])
    workspaces = bench.sandbox.world.admin.workspaces.values()
    workspace = next(one.id for one in workspaces if one.external_key_id == key)
    bench.control.constraints(perimeter_blocks="anthropic")
    for scheduled in (False, True):
        if scheduled:
            revalidations.run(external_keys=[key])
        left = revalidations.record(key).unreachable
        shown = " ".join(CliRunner().invoke(app, ["--live", workspace]).output.split())
        data = json.loads(CliRunner().invoke(app, ["--live", workspace, "--json"]).stdout)
        promised = data["unreachable"]["next_check"]
        assert data["verdict"] == "unknown"
        assert len(follow_ups(bench)) == scheduled
        if left is None or left.next_check is None:
            assert not scheduled
            assert promised is None
            assert "no follow-up is scheduled" in shown
        else:
            assert datetime.fromisoformat(promised) == left.next_check
            assert f"next check at {left.next_check:%Y-%m-%d %H:%M} UTC" in shown


def test_a_key_without_a_workspace_is_shown_as_one(
    bench: Onboardings,
    fleet: Fleet,
    revalidations: Revalidations,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In words for a person, as an empty list for a program."""
    key = fleet.onboard("not-attached-yet")
    for workspace in bench.sandbox.world.admin.workspaces.values():
        if workspace.external_key_id == key:
            workspace.external_key_id = None
    revalidations.run(external_keys=[key])
    broken = any(row.level is Health.BROKEN for row in revalidations.latest_rows())
    assert exit_code("status", "--all") == broken
    lines = capsys.readouterr().out.splitlines()
    at = next(at for at, line in enumerate(lines) if line.endswith("not-attached-yet"))
    assert lines[at - 1].endswith("no workspace yet")
    assert exit_code("status", "--json") == broken
    (row,) = [one for one in json.loads(capsys.readouterr().out) if one["external_key_id"] == key]
    assert row["workspaces"] == []


def test_only_a_full_check_is_the_one_that_must_come_each_day(
    fleet: Fleet, revalidations: Revalidations
) -> None:
    """Quick checks may go on when the daily one has stopped, and must not hide that."""
    fleet.onboard("checked-each-day")
    before = revalidations.ended()
    revalidations.run(depth="quick")
    assert revalidations.ended() == before
    revalidations.run(depth="full")
    assert revalidations.ended() == before + 1


@pytest.mark.parametrize("option", ["--kms-block", "--anthropic-block"])
def test_a_live_status_with_a_block_that_is_missing_names_it_in_one_line(
    bench: Onboardings, fleet: Fleet, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    """Reads that run at the same time must not turn the one error into an exception group."""
    key = fleet.onboard("without-a-block")
    workspaces = bench.sandbox.world.admin.workspaces.values()
    workspace = next(one.id for one in workspaces if one.external_key_id == key)
    assert exit_code("status", "--live", workspace, option, "not-there") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith("error: block ")
    assert "/not-there can't be used" in said


def test_the_verdicts_as_json_are_data(
    fleet: Fleet, revalidations: Revalidations, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ids, values and ISO times: no symbols, no relative times, nothing cut."""
    key = fleet.onboard("as-data")
    fleet.set_state("as-data", 1, "DISABLED")
    revalidations.run(external_keys=[key])
    assert exit_code("status", "--json") == 1
    printed = capsys.readouterr().out
    assert printed.isascii()
    (row,) = [one for one in json.loads(printed) if one["external_key_id"] == key]
    assert (row["verdict"], row["reasons"][0]["rule"]) == ("broken", "primary-disabled")
    assert all(datetime.fromisoformat(row[name]).tzinfo for name in ("since", "checked_at"))
    (workspace,) = row["workspaces"]
    assert exit_code("history", workspace.rpartition("(")[2].rstrip(")"), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert "verdict broken" in [one["what"] for one in told]
    assert all(datetime.fromisoformat(one["at"]).tzinfo for one in told)
