"""Prefect's server refuses a request that only reports: the run still ends and says what it did."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from google.cloud.kms_v1 import CryptoKey
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import State

from cmek.onboarding.request import OnboardingForm
from cmek.tags import CREATE_SENT_PREFIX
from flows.check import check_prerequisites_only
from tests.support.born import asked_to_create, born, creates, start_to_create
from tests.support.discovering import Discoveries
from tests.support.onboarding import Onboardings
from tests.support.requests import REQUESTER
from tests.support.revalidation import Revalidations


@pytest.fixture
def no_artifacts(monkeypatch: pytest.MonkeyPatch) -> None:
    _refuse(monkeypatch, "create_artifact", "update_artifact")


def _refuse(monkeypatch: pytest.MonkeyPatch, *requests: str) -> None:
    async def refused(*args: Any, **kwargs: Any) -> None:
        raise httpx.ConnectError("not taken")

    for name in requests:
        monkeypatch.setattr(PrefectClient, name, refused)


def _refuse_tags(monkeypatch: pytest.MonkeyPatch, refused: Callable[[list[str]], bool]) -> None:
    update = PrefectClient.update_flow_run

    async def update_flow_run(*args: Any, **kwargs: Any) -> None:
        if "tags" in kwargs and refused(kwargs["tags"]):
            raise httpx.ConnectError("no tag is taken")
        await update(*args, **kwargs)

    monkeypatch.setattr(PrefectClient, "update_flow_run", update_flow_run)


@pytest.mark.usefixtures("no_artifacts")
def test_a_check_says_what_fails(bench: Onboardings) -> None:
    bench.control.switches(billing_enabled=False)
    request = OnboardingForm(
        workspace=bench.fresh, project_id="acme-kms-prod", requested_by=REQUESTER
    )

    async def check() -> State[Any]:
        return await check_prerequisites_only(request, return_state=True)

    state = asyncio.run(check())
    assert state.is_failed()
    assert "Billing" in str(state.message)
    assert "Not published: table (ConnectError: not taken)" in str(state.message)


@pytest.mark.usefixtures("no_artifacts")
def test_a_dry_plan_says_what_it_would_do(bench: Onboardings) -> None:
    run = bench.start(plan_only=True).execute()
    assert run.state == "Failed"
    assert "would do: " in run.message
    assert "Not published: dry plan (ConnectError" in run.message
    assert bench.writes() == []


def test_a_discovery_says_what_it_started(
    bench: Onboardings, request: pytest.FixtureRequest
) -> None:
    discoveries = Discoveries.deployed(bench)
    new = discoveries.workspace("new-team", cmek="onboard")
    request.getfixturevalue("no_artifacts")
    state = discoveries.discover().state
    assert state is not None
    assert state.is_failed()
    assert "1 started" in str(state.message)
    assert len(discoveries.runs_of(new)) == 1


@pytest.mark.parametrize(
    ("decision", "said"),
    [("approve", "which is final"), ("reject", "nothing was attached after approval request 1")],
)
def test_an_onboarding_says_whether_a_key_is_attached(
    bench: Onboardings, request: pytest.FixtureRequest, decision: str, said: str
) -> None:
    run = bench.asked()
    request.getfixturevalue("no_artifacts")
    run.approve(decision=decision)
    assert run.state == "Failed"
    assert said in run.message


def test_an_attach_of_unknown_outcome_is_said_when_the_server_goes_away(
    bench: Onboardings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request was sent and lost; before the next try the approval requests can't be read."""
    run = bench.asked()
    read = PrefectClient.read_flow_run

    async def refused_after_the_attach(*args: Any, **kwargs: Any) -> Any:
        if bench.attaches():
            raise httpx.ConnectError("not answered")
        return await read(*args, **kwargs)

    bench.control.fault("workspaces.update", when="before", kind="reset")
    run.answer()
    monkeypatch.setattr(PrefectClient, "read_flow_run", refused_after_the_attach)
    run.execute()
    monkeypatch.undo()
    assert run.state == "Failed"
    assert "may still take effect" in run.message
    assert "not answered" in run.message


def test_what_a_repair_wrote_is_said(bench: Onboardings, request: pytest.FixtureRequest) -> None:
    bench.asked().approve()
    bench.kms.grpc.update_crypto_key(
        crypto_key=CryptoKey(name=bench.key_name, labels={}), update_mask={"paths": ["labels"]}
    )
    request.getfixturevalue("no_artifacts")
    run = bench.start(repair=True).execute()
    assert run.state == "Failed"
    assert "it validates, and was repaired" in run.message


def test_an_approval_counts_even_when_the_run_still_looks_as_if_it_waited(
    bench: Onboardings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tag is for people who look for waiting runs; nothing else depends on it."""
    run = bench.asked()
    _refuse_tags(monkeypatch, lambda tags: True)
    assert run.approve().state == "Attached", run.message


@pytest.mark.parametrize("incomplete", [True, False])
def test_what_anthropic_answers_to_a_create_is_said_though_no_tag_records_it(
    bench: Onboardings, monkeypatch: pytest.MonkeyPatch, incomplete: bool
) -> None:
    """The tag that was set before the create stays, so that no run sends another create."""
    name, says = f"untagged {incomplete}", "so said Anthropic"
    run = asked_to_create(bench, name)
    if incomplete:
        bench.control.fault(
            "workspaces.create", kind="incomplete", without=["external_key_id"], message=says
        )
    else:
        bench.control.fault("workspaces.create", status=409, message=says)
    sent: list[str] = []

    def after_the_create(tags: list[str]) -> bool:
        known = bool(sent)
        sent.extend(one for one in tags if one.startswith(CREATE_SENT_PREFIX))
        return known

    _refuse_tags(monkeypatch, after_the_create)
    run.approve()
    assert run.state == "Failed"
    assert says in run.message
    assert all(workspace.id in run.message for workspace in born(bench, name))
    assert set(sent) <= set(run.read().tags)
    monkeypatch.undo()
    assert start_to_create(bench, name).execute().state == "Failed"
    assert len(creates(bench)) == 1


def test_a_refused_attach_comes_with_its_cause(
    bench: Onboardings, request: pytest.FixtureRequest
) -> None:
    run = bench.asked()
    bench.control.fault(
        "workspaces.update", status=400, error_code="external_key_validation_failed", times=9
    )
    request.getfixturevalue("no_artifacts")
    run.approve()
    assert run.state == "Failed"
    assert "nothing was attached" in run.message
    assert "Most likely: " in run.message


@pytest.mark.parametrize("attached", [True, False])
def test_a_slot_that_is_not_taken_back_changes_no_end(
    bench: Onboardings, monkeypatch: pytest.MonkeyPatch, attached: bool
) -> None:
    """A success stays a success and a failure a failure; the lease ends by itself."""
    run = bench.asked()
    if not attached:
        bench.control.fault("workspaces.update", status=403, message="you may not", times=9)
    _refuse(monkeypatch, "release_concurrency_slots_with_lease")
    run.approve()
    assert run.state == ("Attached" if attached else "Failed")
    assert ("you may not" in run.message) is not attached


@pytest.mark.parametrize(
    "request_", ["upsert_global_concurrency_limit_by_name", "release_concurrency_slots_with_lease"]
)
def test_no_key_goes_unwatched_because_of_a_lock(
    bench: Onboardings, monkeypatch: pytest.MonkeyPatch, request_: str
) -> None:
    revalidations = Revalidations.deployed(bench.client)
    _refuse(monkeypatch, request_)
    run = revalidations.run(depth="quick")
    assert run.state is not None
    assert str(run.state.message).startswith(f"{len(revalidations.rows(run))} keys: ")
