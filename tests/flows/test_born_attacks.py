"""Responses that do not name the new workspace exactly: none of them creates it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prefect.states import Scheduled

from tests.support.born import NAME, asked_to_create, born, creates
from tests.support.onboarding import Onboardings, Run, signed
from tests.support.requests import APPROVER
from tests.support.signing import GRACE, Office

MISNAMED: dict[str, dict[str, Any]] = {
    "an id instead": {"workspace_name": None, "workspace_id": "wrkspc_01SomethingElse1111111111"},
    "an id besides": {"workspace_id": "wrkspc_01SomethingElse1111111111"},
    "nothing": {"workspace_name": None},
    "another name": {"workspace_name": "payments"},
    "its beginning": {"workspace_name": NAME[:-1]},
    "a space at the end": {"workspace_name": f"{NAME} "},
    "a line break at the end": {"workspace_name": f"{NAME}\n"},
    "another case": {"workspace_name": NAME.lower()},
    "a homoglyph": {"workspace_name": NAME.replace("a", "а", 1)},
    "an invisible mark": {"workspace_name": NAME.replace("P", "P\u200b", 1)},
}


@pytest.fixture
def run(bench: Onboardings) -> Run:
    return asked_to_create(bench)


def test_the_form_takes_only_the_very_name(bench: Onboardings, run: Run) -> None:
    for how, fields in MISNAMED.items():
        assert run.answer(**fields).status.value == "REJECT", how
    assert run.state == "Suspended"
    assert creates(bench) == []


@pytest.mark.parametrize("how", MISNAMED)
def test_past_the_form_the_gate_takes_only_the_very_name(
    bench: Onboardings, run: Run, how: str
) -> None:
    """A response written directly to the server, with a forced run, creates nothing."""
    run.forge_response(run.full_answer(**MISNAMED[how]))
    run.force(Scheduled(name="Resuming"))
    run.execute()
    assert run.state in {"Failed", "Suspended"}
    assert creates(bench) == []


def test_another_name_patched_while_waiting_ends_the_run(bench: Onboardings, run: Run) -> None:
    answer = run.full_answer()
    parameters = {"request": run.parameters["request"] | {"workspace": "another"}}
    bench.client._client.patch(f"/flow_runs/{run.id}", json={"parameters": parameters})
    bench.client.resume_flow_run(run.id, run_input=answer)
    run.execute()
    assert run.state == "Failed"
    assert "parameters of this run were changed" in run.message
    assert creates(bench) == []


def test_a_signed_approval_says_the_name(
    bench: Onboardings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statement has the name and no id; a signature for another name is not valid."""
    office = Office(tmp_path)
    office.enrol(GRACE)
    monkeypatch.setattr("tasks.reads.find_signers", office.finder)
    run = asked_to_create(bench)
    for changes in ({"workspace_name": "payments"}, {}):
        fields = signed(office, run, APPROVER, **changes)
        statement = json.loads(fields["signed_approvals"].partition("\n")[0])
        assert "workspace_id" not in statement
        run.approve(**fields)
        if changes:
            assert run.state == "Suspended"
            assert "signed for another workspace" in run.text()
            assert creates(bench) == []
    assert statement["workspace_name"] == NAME
    assert run.state == "Attached", run.message
    assert len(born(bench)) == 1
