"""The module as an artifact of a run and from the command line."""

from __future__ import annotations

import asyncio
import json
import shlex
from pathlib import Path

import typer
from prefect import flow
from prefect.client.schemas.objects import Artifact
from typer.testing import CliRunner

from cli.export import terraform_command
from cmek.names import artifact_key
from cmek.onboarding.request import OnboardingRequest
from cmek.terraform.module import IMPORTS, VARIABLES
from sandbox.kms.state import PROJECT_NUMBER
from tasks.artifacts import publish_terraform
from tasks.clients import close_clients
from tests.support.onboarding import Onboardings

COMMAND = typer.Typer()
COMMAND.command()(terraform_command)
COMMANDS = CliRunner()


@flow
async def hand_over(request: OnboardingRequest) -> None:
    await publish_terraform(request)
    await close_clients()


def handed_over(bench: Onboardings, workspace: str) -> None:
    project = bench.sandbox.project_id
    asyncio.run(
        hand_over(
            OnboardingRequest(
                workspace_id=workspace, project_id=project, requested_by="ada@example.com"
            )
        )
    )


def published(bench: Onboardings, workspace: str) -> list[Artifact]:
    key = artifact_key("terraform", workspace)
    return [one for one in bench.client.read_artifacts() if one.key == key]


def test_the_artifact_holds_the_module_of_the_live_key(bench: Onboardings) -> None:
    workspace = bench.workspace("attached")
    bench.control.clear_log()
    handed_over(bench, workspace)
    page = str(published(bench, workspace)[0].data)
    assert "google_kms_crypto_key.cmek" in page
    assert "search-prod" in page
    assert bench.sandbox.admin_key not in page
    assert bench.writes() == []


def test_what_can_not_be_read_leaves_no_artifact_and_fails_nothing(bench: Onboardings) -> None:
    """The onboarding is still valid; the command can be run later."""
    handed_over(bench, bench.fresh)
    assert published(bench, bench.fresh) == []


def test_the_command_writes_the_module_of_one_workspace(bench: Onboardings, tmp_path: Path) -> None:
    out = tmp_path / "my module's"
    arguments = [bench.workspace("attached"), "--out", str(out)]
    done = COMMANDS.invoke(COMMAND, arguments)
    assert done.exit_code == 0, done.exception
    assert "search-prod" in done.output
    assert f"-chdir={out}" in shlex.split(done.output.partition("Next: ")[2])
    assert "search-prod" in (out / IMPORTS).read_text()
    assert "ledger-prod" not in (out / VARIABLES).read_text()
    (out / "main.tf").write_text("# mine\n")
    refused = COMMANDS.invoke(COMMAND, arguments)
    assert refused.exit_code == 1
    assert "main.tf" in str(refused.exception)
    replaced = COMMANDS.invoke(COMMAND, [*arguments, "--replace", "--json"])
    facts = json.loads(replaced.output)
    assert set(facts["files"]) == {one.name for one in out.iterdir()}
    assert [bench.workspace("attached") in one["workspaces"][0] for one in facts["keys"]] == [True]


def test_all_workspaces_go_into_one_module(bench: Onboardings, tmp_path: Path) -> None:
    done = COMMANDS.invoke(COMMAND, ["--all", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.exception
    text = (tmp_path / VARIABLES).read_text()
    assert bench.workspace("attached") in text
    assert bench.workspace("broken") in text


def test_a_key_registered_by_number_and_by_id_of_its_project_is_managed_once(
    bench: Onboardings, tmp_path: Path
) -> None:
    """Two import blocks for one address, and Terraform would plan nothing at all."""
    world = bench.sandbox.world
    attached = world.admin.workspaces[bench.workspace("attached")]
    one = world.admin.external_keys[str(attached.external_key_id)]
    assert one.provider_config.type == "gcp"
    name = one.provider_config.key_name.replace(bench.sandbox.project_id, PROJECT_NUMBER)
    config = one.provider_config.model_copy(update={"key_name": name})
    again = one.model_copy(update={"id": "ekey_01ByNumber", "provider_config": config})
    with world.lock:
        world.admin.external_keys[again.id] = again
        world.admin.workspaces[bench.fresh].external_key_id = again.id
    done = COMMANDS.invoke(COMMAND, ["--all", "--out", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.exception
    both = [one for one in json.loads(done.output)["keys"] if bench.fresh in one["workspaces"]]
    assert [one["workspaces"] for one in both] == [sorted([attached.id, bench.fresh])]


def test_a_key_that_can_not_be_read_fails_the_whole(bench: Onboardings, tmp_path: Path) -> None:
    """A module without it would ask Terraform to remove it."""
    keys = bench.sandbox.world.kms.crypto_keys
    gone = next(name for name in keys if "ledger" in name)
    del keys[gone]
    done = COMMANDS.invoke(COMMAND, ["--all", "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert gone in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_it_is_one_workspace_or_all(bench: Onboardings, tmp_path: Path) -> None:
    neither = COMMANDS.invoke(COMMAND, ["--out", str(tmp_path)])
    both = COMMANDS.invoke(COMMAND, [bench.fresh, "--all", "--out", str(tmp_path)])
    assert neither.exit_code == both.exit_code == 2
