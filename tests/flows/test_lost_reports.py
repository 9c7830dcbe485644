"""Prefect's server takes no artifact: each flow's run says what it found or did all the same."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from google.cloud.kms_v1 import CryptoKey
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import State

from cmek.onboarding.request import OnboardingForm
from flows.check import check_prerequisites_only
from tests.support.discovering import Discoveries
from tests.support.onboarding import REQUESTER, Onboardings


@pytest.fixture
def no_artifacts(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(*args: Any, **kwargs: Any) -> None:
        raise httpx.ConnectError("no artifact is taken")

    for name in ("create_artifact", "update_artifact"):
        monkeypatch.setattr(PrefectClient, name, refused)


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
    assert "Not published: table (ConnectError: no artifact is taken)" in str(state.message)


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
    """The tag is for people who look for waiting runs; nothing else hangs on it."""
    run = bench.asked()

    update = PrefectClient.update_flow_run

    async def refused(*args: Any, **kwargs: Any) -> None:
        if "tags" in kwargs:
            raise httpx.ConnectError("no tag is taken")
        await update(*args, **kwargs)

    monkeypatch.setattr(PrefectClient, "update_flow_run", refused)
    assert run.approve().state == "Attached", run.message
