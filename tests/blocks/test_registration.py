"""The blocks on a real Prefect server."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL
from pydantic import SecretStr

from blocks.anthropic_admin import AnthropicAdmin
from blocks.google_kms import GoogleKms
from blocks.onboarding_policy import OnboardingPolicy
from tests.support.clients import Rig

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("prefect_server")]

REPOSITORY = Path(__file__).parents[2]
BLOCKS = (AnthropicAdmin, GoogleKms, OnboardingPolicy)
CANARY = "sk-ant-admin01-FAKE-CANARY"


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_shows_itself_well(block: Any) -> None:
    """Name, description, example, documentation, logo, and a title and text for every field."""
    kind = block._to_block_type()
    assert all([kind.name, kind.description, kind.code_example])
    assert str(kind.documentation_url).startswith("https://platform.claude.com/docs/")
    assert str(kind.logo_url).startswith("https://")
    for name, field in block.model_fields.items():
        assert field.title, name
        assert field.description, name


@pytest.mark.parametrize(
    "installed",
    [pytest.param(False, id="clone", marks=pytest.mark.prove), pytest.param(True, id="package")],
)
def test_prefect_registers_all(installed: bool, tmp_path: Path) -> None:
    """`prefect block register -m blocks`, in a clone and away from it."""
    home = REPOSITORY
    if installed:
        home = tmp_path / "site"
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        options = ("--no-deps", "--no-build-isolation", "--target", home, copied(tmp_path))
        subprocess.run([*pip, *options], check=True, timeout=120)
    environment = os.environ | {
        "PYTHONPATH": str(home),
        "PREFECT_API_URL": str(PREFECT_API_URL.value()),
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    command = [sys.executable, "-m", "prefect", "block", "register", "-m", "blocks"]
    done = subprocess.run(
        command, cwd=home, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "registered 3 blocks" in done.stdout
    for block in BLOCKS:
        assert block.get_block_type_name() in done.stdout


def copied(tmp_path: Path) -> Path:
    """The sources, so that building leaves nothing behind in the clone."""
    files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    for name in filter(None, files.stdout.split("\0")):
        source, target = REPOSITORY / name, tmp_path / "source" / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    return tmp_path / "source"


async def test_blocks_are_saved_and_loaded_with_their_secrets(rig: Rig) -> None:
    """A loaded block works, and the API masks the key."""
    name = f"test-{uuid4().hex[:8]}"
    block = AnthropicAdmin(admin_key=SecretStr(rig.sandbox.admin_key), base_url=rig.sandbox.http)
    await block.save(name)
    await GoogleKms(endpoint=rig.sandbox.grpc, checks_endpoint=rig.sandbox.http).save(name)
    loaded: Any = await AnthropicAdmin.aload(name)
    assert "Acme" in await loaded.check()
    loaded = await GoogleKms.aload(name)
    kms = loaded.get_client()
    assert await kms.get_key_ring(rig.ring_name()) is None
    await kms.aclose()
    async with get_client() as client:
        document = await client.read_block_document_by_name(
            name, block.get_block_type_slug(), include_secrets=False
        )
    assert rig.sandbox.admin_key not in document.model_dump_json()


async def test_a_wrong_block_is_refused_when_it_is_loaded() -> None:
    """The server does not run validators; loading does, and the cause says what to fix."""
    name = f"test-{uuid4().hex[:8]}"
    await AnthropicAdmin(admin_key=SecretStr(CANARY)).save(name)
    async with get_client() as client:
        document = await client.read_block_document_by_name(
            name, AnthropicAdmin.get_block_type_slug(), include_secrets=True
        )
        data = document.data | {"base_url": "http://api.example.com"}
        response = await client._client.patch(
            f"/block_documents/{document.id}", json={"data": data}
        )
        response.raise_for_status()
    with pytest.raises(RuntimeError, match=name) as caught:
        await AnthropicAdmin.aload(name)
    assert "plain text" in str(caught.value.__cause__)
    assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_an_installed_package_needs_no_registration_by_hand() -> None:
    """Prefect imports what this entry point names when a server or a worker starts."""
    (ours,) = [one for one in entry_points(group="prefect.collections") if one.name == "cmek"]
    module = ours.load()
    assert {module.AnthropicAdmin, module.GoogleKms} == {AnthropicAdmin, GoogleKms}
