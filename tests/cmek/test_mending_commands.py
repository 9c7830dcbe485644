"""The commands that checks and diagnosis print, run by the real gcloud: they repair the fault."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cmek.keys.diagnosis import diagnose, gather_facts
from sandbox.server import Sandbox
from tests.support.checking import check, clients, failure, request
from tests.support.conditions import CHECKED, DIAGNOSED, HEALTH
from tests.support.gcloud import commands_in, gcloud_environment, needs_gcloud, refused
from tests.support.staging import Stage

pytestmark = [pytest.mark.anyio, needs_gcloud]
ROOT = Path(__file__).parents[2]

MENDED = (
    "the label is missing",
    "a grant's condition does not hold",
    "the grant names the deleted account",
    "the primary version is missing",
    "the primary version is scheduled for destruction",
    "Key Access Justifications allow nothing",
)
REMOVED = ("Anthropic's account may use the whole ring", "a look-alike may use the key, too")


def run(sandbox: Sandbox, command: str, home: Path) -> None:
    """Run a printed command in a shell, without the remark after it."""
    done = subprocess.run(
        ["bash", "-c", command.partition(" (")[0]],
        env=gcloud_environment(sandbox, home),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", MENDED)
async def test_the_first_causes_command_mends_it(
    sandbox: Sandbox, stage: Stage, tmp_path: Path, name: str
) -> None:
    """Afterwards no cause is proved any more, and the sandbox's validation succeeds."""
    (condition,) = [one for one, _ in DIAGNOSED if one.name == name]
    condition.bring_about(stage, registered=True)
    async with clients(sandbox) as ours:
        facts = await gather_facts(request(), failure(), ours)
        run(sandbox, diagnose(facts)[0].command, tmp_path)
        facts = await gather_facts(request(), failure(), ours)
        validation = await ours.admin.external_keys.validate("ekey_01PaymentsProd1111111111")
    assert [one.id for one in diagnose(facts) if one.verdict == "proved"] == []
    assert validation.succeeded, validation.error


@pytest.mark.parametrize("name", REMOVED)
async def test_the_checks_remedy_mends_it(
    sandbox: Sandbox, stage: Stage, tmp_path: Path, name: str
) -> None:
    """Afterwards the check passes."""
    ((condition, expected),) = [one for one in CHECKED if one[0].name == name]
    condition.bring_about(stage)
    before = await check(sandbox)
    (found,) = [one for one in before.checks if one.id == expected.id]
    run(sandbox, found.remedy or "", tmp_path)
    after = await check(sandbox)
    assert next(one.status for one in after.checks if one.id == expected.id) == "pass"


def test_every_command_in_our_pages_is_valid_for_gcloud() -> None:
    """It has its project, too; `docs/troubleshooting.md` has those of all checks and causes."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.yaml")]
    commands = [command for page in pages for command in commands_in(page.read_text())]
    assert len(commands) > 50
    assert refused(commands) == []


def test_every_command_of_a_health_rule_is_valid_for_gcloud() -> None:
    printed = (text for _, expected in HEALTH for text in expected.commands)
    commands = [command for text in printed for command in commands_in(text)]
    assert len(commands) > 20
    assert refused(commands) == []


@pytest.mark.parametrize(
    "text",
    [
        "run gcloud kms keys lisst --keyring=r --location=us-east5 --project=acme-kms-prod.",
        "(gcloud kms keys list --keyring=r --location=us-east5 --projects=acme-kms-prod)",
        "`gcloud kms keys list --keyring=r --location=us-east5`",
        "gcloud kms keys versions enable --key=k --keyring=r --location=l --project=acme-kms-prod",
    ],
)
def test_a_command_that_gcloud_refuses_or_that_lacks_its_project_is_found(text: str) -> None:
    assert len(refused(commands_in(text))) == 1
