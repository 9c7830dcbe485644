"""Discovery: which workspaces get an onboarding run, and that none gets two."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Cancelled, Completed, Crashed, Failed

from blocks.onboarding_policy import OnboardingPolicy
from cli.client import calling
from cmek.tags import workspace_tag
from tasks.discovery import DifferentRequestError, start_onboarding
from tests.support.discovering import Discoveries
from tests.support.onboarding import Onboardings


@pytest.fixture
def discoveries(bench: Onboardings) -> Discoveries:
    return Discoveries.deployed(bench)


def end_of(run: FlowRun) -> tuple[str | None, str]:
    assert run.state is not None
    return run.state.name, run.state.message or ""


def test_a_tagged_workspace_gets_one_run_that_waits_for_a_person(discoveries: Discoveries) -> None:
    new = discoveries.workspace("new-team", cmek="onboard")
    assert end_of(discoveries.discover())[0] == "Started"
    (run,) = discoveries.runs_of(new)
    assert run.execute().state == "Suspended", run.message
    request = run.read().parameters["request"]
    assert (request["workspace"], request["overrides"]) == (new, {})
    assert not request["adopt_existing_key"]
    assert run.approve().state == "Attached", run.message
    assert end_of(discoveries.discover())[0] == "Nothing to start"


def test_without_a_project_nothing_is_looked_for(discoveries: Discoveries) -> None:
    assert end_of(discoveries.discover(project_id=""))[0] == "Not set up"
    assert discoveries.bench.control.calls() == []


def test_what_is_left_out_is_said_with_its_reason(discoveries: Discoveries) -> None:
    """Archived, default, attached, excluded and opted-out workspaces never get a run."""
    bench = discoveries.bench
    bench.control.switches(default_workspace_listed=True)
    kept_out = {
        discoveries.workspace("never-team", cmek="never"): "tagged cmek=never",
        discoveries.workspace("Claude Code"): "excluded by",
        bench.workspace("default"): "the default workspace",
        bench.workspace("attached"): "has a key",
    }
    archived = discoveries.workspace("old-team", cmek="onboard")
    discoveries.archive(archived)
    one = discoveries.workspace("wanted-team")
    discoveries.discover(opt_in="name", name_patterns=["*"], max_new_runs=1)
    page = discoveries.page()
    for workspace, why in kept_out.items():
        line = next(line for line in page.splitlines() if workspace in line)
        assert "left out" in line
        assert why in line.replace("\\", "")
    assert archived not in page, "a list leaves archived workspaces out"
    assert one in page


def test_the_cap_puts_the_rest_off_and_the_next_discovery_goes_on(
    discoveries: Discoveries,
) -> None:
    new = [discoveries.workspace(f"team-{n}", cmek="onboard") for n in range(5)]
    counts = []
    for _ in range(4):
        discoveries.discover(max_new_runs=2)
        counts.append(sum(len(discoveries.runs_of(one)) for one in new))
    assert counts == [2, 4, 5, 5]
    assert [len(discoveries.runs_of(one)) for one in new] == [1] * 5


@pytest.mark.server  # whose scheduler makes the runs
def test_of_the_scheduled_discoveries_that_are_late_only_the_newest_starts_runs(
    discoveries: Discoveries,
) -> None:
    """Else each would start as many as the limit allows, all within minutes."""
    new = [discoveries.workspace(f"team-{n}", cmek="onboard") for n in range(5)]
    late = discoveries.late(3, max_new_runs=2)
    ends = [end_of(discoveries.execute(one))[0] for one in late]
    assert ends == ["Skipped", "Skipped", "Started"]
    assert sum(len(discoveries.runs_of(one)) for one in new) == 2


def test_a_rejected_workspace_is_never_asked_about_again(discoveries: Discoveries) -> None:
    """Neither a discovery nor an event starts a run again; a person still can."""
    new = discoveries.workspace("rejected-team", cmek="onboard")
    discoveries.discover()
    (run,) = discoveries.runs_of(new)
    run.execute().approve(decision="reject", comment="not this one")
    for _ in range(2):
        assert end_of(discoveries.discover(try_again_after_hours=1))[0] == "Nothing to start"
    name, message = end_of(discoveries.announce({"workspace_id": new}))
    assert name == "Nothing to start"
    assert "a person rejected" in message
    assert len(discoveries.runs_of(new)) == 1
    assert discoveries.bench.start(new).execute().state == "Suspended"


def test_a_persons_own_rejected_run_counts_as_well(discoveries: Discoveries) -> None:
    """A run tags itself with its workspace, whoever started it."""
    new = discoveries.workspace("by-hand", cmek="onboard")
    discoveries.bench.start(new).execute().approve(decision="reject")
    assert end_of(discoveries.discover())[0] == "Nothing to start"


@pytest.mark.parametrize(
    "state",
    [
        Failed(),
        Crashed(),
        Cancelled(),
    ],
    ids=lambda one: one.name,
)
def test_after_a_failure_nothing_starts_before_the_time_is_up(
    discoveries: Discoveries, state: State[Any]
) -> None:
    """An hourly discovery must not make an hourly failure."""
    new = discoveries.workspace("failing-team", cmek="onboard")
    discoveries.discover()
    (run,) = discoveries.runs_of(new)
    discoveries.bench.client.set_flow_run_state(run.id, state, force=True)
    assert end_of(discoveries.discover())[0] == "Nothing to start"
    assert "not again before" in discoveries.page()
    assert len(discoveries.runs_of(new)) == 1


def test_a_plan_or_a_duplicate_keeps_no_workspace_out(discoveries: Discoveries) -> None:
    """Runs that end without an attach by design do not exclude it."""
    new = discoveries.workspace("planned-team", cmek="onboard")
    plan = discoveries.bench.start(new, plan_only=True).execute()
    assert plan.state == "Planned"
    assert end_of(discoveries.discover())[0] == "Started"
    (run,) = [one for one in discoveries.runs_of(new) if one.id != plan.id]
    discoveries.bench.client.set_flow_run_state(run.id, Completed(name="Duplicate"), force=True)
    assert end_of(discoveries.discover())[0] == "Started"


def test_all_can_share_one_key(discoveries: Discoveries) -> None:
    new = [discoveries.workspace(f"sharing-{n}", cmek="onboard") for n in range(2)]
    OnboardingPolicy(crypto_key="anthropic").save("shared", overwrite=True)
    discoveries.discover(policy="shared")
    runs = [run for one in new for run in discoveries.runs_of(one)]
    for run in runs:
        assert run.execute().approve().state == "Attached", run.message
    assert discoveries.bench.writes().count("CreateCryptoKey") == 1
    assert discoveries.bench.writes().count("external_keys.create") == 1


def test_every_discovery_reads_all_workspaces_with_one_request(discoveries: Discoveries) -> None:
    """A tag that somebody sets after the last discovery is seen by the next one."""
    control = discoveries.bench.control
    new = discoveries.workspace("tagged-later")
    assert end_of(discoveries.discover())[0] == "Nothing to start"
    discoveries.tag(new, cmek="onboard")
    control.clear_log()
    assert end_of(discoveries.discover())[0] == "Started"
    assert control.calls(service="admin") == ["workspaces.list"]
    assert len(discoveries.runs_of(new)) == 1


def test_an_event_starts_the_onboarding_of_an_untagged_workspace(
    discoveries: Discoveries,
) -> None:
    """The event is the opt-in, and may choose the key."""
    new = discoveries.workspace("announced-team")
    given: dict[str, Any] = {"workspace_id": new, "requested_by": "portal@example.com"}
    given |= {"overrides": {"crypto_key": "chosen"}}
    assert end_of(discoveries.announce(given))[0] == "Started"
    (run,) = discoveries.runs_of(new)
    request = run.read().parameters["request"]
    assert request["overrides"] == {"crypto_key": "chosen"}
    assert request["requested_by"] == "portal@example.com"
    name, message = end_of(discoveries.announce(given))
    assert (name, str(run.id) in message) == ("Nothing to start", True)


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        ("", "not JSON"),
        ("[]", "named fields"),
        ({}, "workspace_id"),
        ({"workspace_id": "wrkspc_x"}, "workspace_id"),
        ({"workspace_id": 7}, "workspace_id"),
        ({"workspace_id": "wrkspc_01Announced", "adopt_existing_key": True}, "adopt_existing_key"),
        ({"workspace_id": "wrkspc_01Announced", "location": "us-west1"}, "overrides.location"),
        ({"workspace_id": "wrkspc_01Announced", "overrides": {"repair": True}}, "repair"),
        ({"workspace_id": "wrkspc_01Announced", "overrides": {"location": "us"}}, "location: 'us'"),
    ],
)
def test_a_malformed_payload_is_a_failed_run_that_names_the_field(
    discoveries: Discoveries, payload: object, named: str
) -> None:
    name, message = end_of(discoveries.announce(payload))
    assert name == "Failed"
    assert named in message
    assert discoveries.bench.control.calls() == []


def test_an_event_about_an_unknown_workspace_fails(discoveries: Discoveries) -> None:
    name, message = end_of(discoveries.announce({"workspace_id": f"wrkspc_01{uuid4().hex}"}))
    assert name == "Failed"
    assert "is not in the organization" in message


def test_an_ended_run_that_nothing_has_tagged_locks_nobody_out(discoveries: Discoveries) -> None:
    """The old run has used its idempotency key, so the next one is taken."""
    new = discoveries.workspace("locked-team", cmek="onboard")
    client = discoveries.bench.client
    taken = client.create_flow_run_from_deployment(
        discoveries.bench.deployment,
        parameters={"request": asked_by_hand(discoveries.bench, new)},
        idempotency_key=f"onboard:{new}:0",
    )
    client.set_flow_run_state(taken.id, Cancelled(), force=True)
    assert workspace_tag(new) not in taken.tags
    assert end_of(discoveries.discover())[0] == "Started"
    (run,) = discoveries.runs_of(new)
    assert run.id != taken.id


def asked_by_hand(bench: Onboardings, workspace: str, **more: Any) -> dict[str, Any]:
    given = {
        "workspace": workspace,
        "project_id": bench.sandbox.project_id,
        "requested_by": "ada@example.com",
    }
    return given | more


def test_a_repeated_start_is_the_run_under_way_and_another_request_is_refused(
    discoveries: Discoveries,
) -> None:
    bench = discoveries.bench
    new = discoveries.workspace("by-command")

    def start(**more: Any) -> FlowRun:
        request = asked_by_hand(bench, new, **more)
        return calling(get_client(), lambda client: start_onboarding(client, request))

    first = start()
    assert start().id == first.id
    differs = f"{first.id}.*policy: 'default' instead of 'strict'"
    with pytest.raises(DifferentRequestError, match=differs):
        start(policy="strict")
    assert len(discoveries.runs_of(new)) == 1


def test_starts_at_the_same_moment_are_one_run(discoveries: Discoveries) -> None:
    new = discoveries.workspace("raced-team")
    request = asked_by_hand(discoveries.bench, new)

    async def start() -> UUID:
        # a client for each start: in a shared one the first writes would race for its CSRF token
        async with get_client() as client:
            return (await start_onboarding(client, request)).id

    async def race() -> set[UUID]:
        return set(await asyncio.gather(*(start() for _ in range(8))))

    assert len(asyncio.run(race())) == 1
    assert len(discoveries.runs_of(new)) == 1
