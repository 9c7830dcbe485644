"""Whoever may write to Prefect's API can store anything: no command ends in a traceback for it."""

from __future__ import annotations

import asyncio
import json
from typing import Final
from uuid import uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Running, Suspended

from cli.show import history
from cmek.tags import workspace_tag
from flows import _revalidation_lock
from tests.support.command import exit_code
from tests.support.onboarding import Onboardings, Run
from tests.support.requests import REQUESTER
from tests.support.revalidation import Revalidations

NO_REQUEST: Final[list[object]] = [None, "a text", ["a list"], 7, {}]


def forge(run: Run, request: object) -> None:
    """Store other parameters and the workspace's tag, as any client of the API can."""
    run.bench.client.request(
        "PATCH",
        "/flow_runs/{id}",
        path_params={"id": run.id},
        json={"parameters": {"request": request}, "tags": [workspace_tag(run.bench.fresh)]},
    ).raise_for_status()


@pytest.mark.parametrize("request_", NO_REQUEST)
def test_a_run_without_a_request_hides_no_other_of_the_workspace(
    bench: Onboardings, capsys: pytest.CaptureFixture[str], request_: object
) -> None:
    """From its history, and from whoever onboards it next."""
    good, bad = bench.asked(), bench.start()
    forge(bad, request_)
    entries = history(bench.client, bench.fresh)
    requested = {one.where: one for one in entries if one.what == "onboarding requested"}
    assert requested[str(good.id)].who == good.parameters["request"]["requested_by"]
    assert requested[str(good.id)].outcome == ""
    assert requested[str(bad.id)].outcome == "its request can't be read"
    assert exit_code("history", bench.fresh) == 0
    assert "its request can't be read" in capsys.readouterr().out
    given = ("--project", bench.sandbox.project_id, "--requested-by", REQUESTER)
    assert exit_code("onboard", bench.fresh, *given) == 0


@pytest.mark.parametrize("request_", NO_REQUEST)
def test_a_check_without_a_request_counts_as_one_of_all_keys(
    bench: Onboardings, monkeypatch: pytest.MonkeyPatch, request_: object
) -> None:
    """A check that has no slot waits for it, and does not fail."""
    revalidations = Revalidations.deployed(bench.client)
    run = Run(bench, revalidations.start().id, {})
    forge(run, request_)
    run.force(Running())
    monkeypatch.setattr(_revalidation_lock, "current_run_id", uuid4)

    async def found() -> FlowRun | None:
        async with get_client() as client:
            return await _revalidation_lock._other(client)

    other = asyncio.run(found())
    assert other is not None
    assert other.id == run.id


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "no JSON",
        "[]",
        '{"decision": "approve", "comment": "\\ud800"}',
        '{"decision": ' + "[" * 100_000,
    ],
    ids=range(5),
)
def test_a_response_that_is_none_is_shown_as_unreadable(
    bench: Onboardings, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    run = bench.asked()
    state = run.read().state
    assert state is not None
    assert state.state_details.run_input_keyset
    key = state.state_details.run_input_keyset["response"]
    bench.client.create_flow_run_input(run.id, key, text)
    for more in ([], ["--json"]):
        assert exit_code("history", bench.fresh, *more) == 0
        shown = capsys.readouterr().out
    (response,) = [one for one in json.loads(shown) if one["what"] == "approval response"]
    assert response["outcome"] == "it can't be read"


@pytest.mark.parametrize(
    "keyset",
    [
        {"another": "name"},
        {"schema": "without a response"},
        {"schema": "a\nb", "response": "c"},
        {"schema": "x" * 70_000, "response": "c"},
        {"schema": "../../../admin/version", "response": "c"},
    ],
    ids=range(5),
)
def test_a_state_that_names_no_approval_request_hides_no_other_run(
    bench: Onboardings, capsys: pytest.CaptureFixture[str], keyset: dict[str, str]
) -> None:
    bad = bench.asked()
    state: State[None] = Suspended()
    state.state_details.run_input_keyset = keyset
    bad.force(state)
    other = bench.asked(workspace_id=None, create_workspace="Beside it")
    assert exit_code("pending", "--json") == 0
    rows = {one["run_id"]: one["problem"] for one in json.loads(capsys.readouterr().out)}
    assert rows[str(bad.id)]
    assert rows[str(other.id)] is None
    for command in ("approve", "reject"):
        assert exit_code(command, str(bad.id)) == 1
        assert "error: run" in capsys.readouterr().err
