"""The checks without an onboarding: the deployment's flow, and `cmek check` in a terminal."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from prefect.client.schemas.objects import State

from cmek.onboarding.request import OnboardingForm
from flows.check import check_prerequisites_only
from tests.support.command import exit_code
from tests.support.onboarding import Onboardings
from tests.support.requests import REQUESTER

BILLING_REMEDY = "gcloud billing projects link"


def _checked(bench: Onboardings) -> State[Any]:
    request = OnboardingForm(
        workspace=bench.fresh, project_id="acme-kms-prod", requested_by=REQUESTER
    )

    async def check() -> State[Any]:
        return await check_prerequisites_only(request, return_state=True)

    return asyncio.run(check())


def _command(bench: Onboardings, *more: str) -> int:
    return exit_code("check", bench.fresh, "--project", "acme-kms-prod", *more)


def test_a_healthy_project_is_checked(bench: Onboardings) -> None:
    """The run succeeds, its artifact lists the checks, and no call wrote."""
    state = _checked(bench)
    assert (state.name, state.is_completed()) == ("Checked", True)
    (artifact,) = bench.client.read_artifacts()
    assert "Billing" in str(artifact.data)
    assert bench.writes() == []


def test_a_failing_check_makes_the_run_red(bench: Onboardings) -> None:
    bench.control.switches(billing_enabled=False)
    state = _checked(bench)
    assert (state.name, state.is_failed()) == ("Prerequisites fail", True)
    (artifact,) = bench.client.read_artifacts()
    assert BILLING_REMEDY in str(artifact.data)
    assert bench.writes() == []


def test_the_command_exits_with_one_when_a_check_fails(
    bench: Onboardings, capsys: pytest.CaptureFixture[str]
) -> None:
    """The failed check comes first, with its remedy; the code is 0 when nothing fails."""
    assert _command(bench) == 0
    assert "fail" not in capsys.readouterr().out.split("checks")[0]
    bench.control.switches(billing_enabled=False)
    assert _command(bench) == 1
    shown = capsys.readouterr().out
    assert shown.index("fail") < shown.index("warn")
    assert BILLING_REMEDY in " ".join(shown.replace("│", " ").split())
    assert bench.writes() == []


def test_a_project_that_can_not_be_read_is_no_success(
    bench: Onboardings, capsys: pytest.CaptureFixture[str]
) -> None:
    """Google answers the same for a missing project: a typing mistake must not be a success."""
    assert _command(bench, "--project", "nope-project-x") == 1
    said = capsys.readouterr()
    assert "fail" not in said.out
    assert "project nope-project-x exists could not be read" in said.err
    assert _command(bench, "--project", "nope-project-x", "--json") == 1
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert {one["status"] for one in checks if one["id"] == "project"} == {"unknown"}


def test_each_check_says_once_what_to_do_and_who_can_tell(
    bench: Onboardings, capsys: pytest.CaptureFixture[str]
) -> None:
    """The text of a refused call ends with advice, which is also the remedy."""
    _command(bench, "--project", "nope-project-x")
    first = capsys.readouterr().out.splitlines()[:4]
    assert [one.partition(": ")[0].strip() for one in first[1:]] == [
        "found",
        "what to do",
        "who can tell",
    ]
    assert first[1].endswith("(or it may not exist).")
    assert "\n".join(first).count("Give the caller a role") == 1


def test_the_command_speaks_json(bench: Onboardings, capsys: pytest.CaptureFixture[str]) -> None:
    assert _command(bench, "--json") == 0
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert {one["status"] for one in checks} == {"pass", "warn", "unknown"}
