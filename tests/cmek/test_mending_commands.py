"""The commands that checks and diagnosis print, run by the true gcloud: they mend what is wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cmek.keys.diagnosis import diagnose, gather_facts
from sandbox.server import Sandbox
from tests.support.causes import FAILURES
from tests.support.checking import check, clients, failure, request
from tests.support.conditions import CONDITIONS
from tests.support.staging import Stage

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not installed"),
]

MENDED = (
    "the label is missing",
    "a grant has a condition",
    "the grant names the deleted account",
    "the primary version is missing",
    "the primary version is scheduled for destruction",
    "Key Access Justifications allow nothing",
)
REMOVED = ("Anthropic's account may use the whole ring", "a look-alike may use the existing key")


def run(sandbox: Sandbox, command: str, home: Path) -> None:
    """A printed command in a shell, without the remark behind it."""
    environment = os.environ | {
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDKMS": f"{sandbox.http}/",
        "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "True",
        "CLOUDSDK_CONFIG": str(home),
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
    }
    done = subprocess.run(
        ["bash", "-c", command.partition(" (")[0]],
        env=environment,
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
    """Afterwards nothing is proved any more, and the sandbox's validation succeeds."""
    (failing,) = [one for one in FAILURES if one.name == name]
    stage.key()
    failing.setup(stage)
    async with clients(sandbox) as ours:
        facts = await gather_facts(
            request(), failure(), admin=ours.admin, kms=ours.kms, google=ours.google
        )
        run(sandbox, diagnose(facts)[0].command, tmp_path)
        facts = await gather_facts(
            request(), failure(), admin=ours.admin, kms=ours.kms, google=ours.google
        )
        validation = await ours.admin.external_keys.validate("ekey_01PaymentsProd1111111111")
    assert [one.id for one in diagnose(facts) if one.verdict == "proved"] == []
    assert validation.succeeded, validation.error


@pytest.mark.parametrize("name", REMOVED)
async def test_the_checks_remedy_mends_it(
    sandbox: Sandbox, stage: Stage, tmp_path: Path, name: str
) -> None:
    """Afterwards the check passes."""
    (condition,) = [one for one in CONDITIONS if one.name == name]
    condition.setup(stage)
    before = await check(sandbox)
    (found,) = [one for one in before.checks if one.id == condition.check]
    run(sandbox, found.remedy or "", tmp_path)
    after = await check(sandbox)
    assert next(one.status for one in after.checks if one.id == condition.check) == "pass"
