"""A workspace's slot: a run that cannot get it says why, or names the run that has it."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import pytest
from prefect import flow, get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.states import Running, Scheduled

import flows._workspace_lock
from cli.client import calling
from cmek.names import artifact_key
from tasks.discovery import start_onboarding
from tasks.runs import ensure_single_slot, take_slot
from tests.support.onboarding import Onboardings


def take_permanently(bench: Onboardings) -> str:
    limit = artifact_key("workspace", bench.fresh)
    bench.client.upsert_global_concurrency_limit_by_name(limit, 1)
    bench.client.request(
        "POST",
        "/v2/concurrency_limits/increment",
        json={"names": [limit], "slots": 1, "mode": "concurrency"},
    ).raise_for_status()
    return limit


@pytest.mark.server
def test_a_slot_that_never_becomes_free_fails_the_run_with_the_way_out(
    bench: Onboardings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait forever; after the command in the message, a retry goes on."""
    monkeypatch.setattr(flows._workspace_lock, "HELD_SECONDS", 1.0)
    monkeypatch.setattr(flows._workspace_lock, "TRY_SECONDS", 0.5)
    limit = take_permanently(bench)
    bench.control.clear_log()
    run = bench.start().execute()
    assert run.state == "Failed"
    assert f"`prefect gcl delete {limit}`" in run.message
    assert bench.control.calls() == []
    bench.client.delete_global_concurrency_limit_by_name(limit)
    run.force(Scheduled(name="AwaitingRetry"))
    assert run.execute().state == "Suspended", run.message


@pytest.mark.server
def test_of_two_failed_runs_that_are_retried_together_one_works(
    bench: Onboardings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has claimed the workspace before, and both have begun when they look for claims."""
    ensure, begun = ensure_single_slot, threading.Barrier(2)

    async def both(client: PrefectClient, limit: str) -> None:
        await asyncio.to_thread(begun.wait, 60)
        await ensure(client, limit)

    bench.control.fault("CreateKeyRing", status="PERMISSION_DENIED", times=9)
    one, other = bench.start().execute(), bench.start().execute()
    assert (one.state, other.state) == ("Failed", "Failed")
    bench.control.clear_faults()
    monkeypatch.setattr(flows._workspace_lock, "ensure_single_slot", both)
    for run in (one, other):
        run.force(Scheduled(name="AwaitingRetry"))
    with ThreadPoolExecutor() as pool:
        executing = [
            pool.submit(contextvars.copy_context().run, run.execute) for run in (one, other)
        ]
        ended = {future.result(120).state for future in executing}
    assert ended == {"Suspended", "Duplicate"}


@pytest.mark.server
def test_a_run_that_waits_for_the_slot_sees_who_claims_the_workspace(
    bench: Onboardings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends as a duplicate at once, not when the other run has released the slot."""
    monkeypatch.setattr(flows._workspace_lock, "TRY_SECONDS", 0.5)
    limit, denied, takes = take_permanently(bench), threading.Event(), take_slot

    async def watched(held: AsyncExitStack, name: str, **options: Any) -> bool:
        got = await takes(held, name, **options)
        if not got:
            denied.set()
        return got

    monkeypatch.setattr(flows._workspace_lock, "take_slot", watched)
    first, second = bench.start(), bench.start()
    with ThreadPoolExecutor() as pool:
        executed = pool.submit(contextvars.copy_context().run, second.execute)
        try:
            assert denied.wait(60)
            first.force(Running())
            _claim(bench, first.read())
            assert executed.result(60).state == "Duplicate"
        finally:
            bench.client.delete_global_concurrency_limit_by_name(limit)
    assert str(first.id) in second.message


def test_a_claim_on_a_run_that_never_began_holds_nobody_up(bench: Onboardings) -> None:
    """Anyone with Prefect's API can schedule a run for 2030 and set the tag."""
    forged = bench.start()
    forged.force(Scheduled(scheduled_time=datetime(2030, 1, 1, tzinfo=UTC)))
    _claim(bench, forged.read())
    assert bench.start().execute().state == "Suspended"


def test_a_claim_on_a_run_of_another_flow_holds_nobody_up(bench: Onboardings) -> None:
    """It blocks nobody, however long that run takes."""

    @flow
    def another() -> None:
        pass

    run = bench.client.create_flow_run(another, state=Running())
    _claim(bench, run)
    assert bench.start().execute().state == "Suspended"
    bench.client.delete_flow_run(run.id)


def _claim(bench: Onboardings, run: FlowRun) -> None:
    tags = [*run.tags, f"cmek-claim:{bench.fresh}"]
    bench.client.request(
        "PATCH", "/flow_runs/{id}", path_params={"id": run.id}, json={"tags": tags}
    ).raise_for_status()


def test_a_plan_is_made_while_an_approval_is_open_and_takes_nothing_from_it(
    bench: Onboardings,
) -> None:
    """A plan writes nothing, so it needs no slot; it still has the workspace's tag."""
    run = bench.asked()
    bench.control.clear_log()
    plan = bench.start(plan_only=True).execute()
    assert plan.state == "Planned", plan.message
    assert bench.writes() == []
    assert f"workspace:{bench.fresh}" in plan.read().tags
    assert run.approve().state == "Attached", run.message


def test_an_unfinished_plan_is_not_taken_for_the_onboarding_nor_the_other_way_round(
    bench: Onboardings,
) -> None:
    """A command that starts one of them returns the active run of the same kind."""
    request = bench.start().parameters["request"]

    def started(**changes: bool) -> str:
        return str(calling(get_client(), lambda api: start_onboarding(api, request | changes)).id)

    plan, onboarding = started(plan_only=True), started()
    assert plan != onboarding
    assert (started(plan_only=True), started()) == (plan, onboarding)


@pytest.mark.server
def test_runs_that_want_a_limit_for_the_first_time_all_get_it(bench: Onboardings) -> None:
    """Prefect's own call reads the limit and then creates it, so all runs but one would fail."""
    limit = artifact_key("workspace", "wanted by many")

    async def want() -> None:
        async with get_client() as client:
            await ensure_single_slot(client, limit)

    async def together() -> None:
        await asyncio.gather(*(want() for _ in range(8)))

    asyncio.run(together())
    assert bench.client.read_global_concurrency_limit_by_name(limit).limit == 1
