"""A sandbox, a stand-in for the provider that reads it, and a folder for the module."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cmek.anthropic_identity import MEMBER, ROLES
from cmek.gcp.resources import KeySpec
from cmek.names import organization_label
from cmek.terraform.module import (
    ManagedKey,
    read_all_keys,
    read_workspace_keys,
    render_module,
    write_module,
)
from tests.support.clients import Rig
from tests.support.sandbox import running
from tests.terraform.command import Terraform
from tests.terraform.provider import stand_in


@dataclass(slots=True)
class Bench:
    """Onboard through our own clients, export, and run terraform on the result."""

    rig: Rig
    terraform: Terraform

    def onboard(self, *workspaces: str, key: str = "claude", **spec: Any) -> str:
        """Make a key with label and grants, attach it to these workspaces; returns its name."""
        return asyncio.run(self._onboard(workspaces, key, spec))

    async def _onboard(self, workspaces: tuple[str, ...], key: str, spec: dict[str, Any]) -> str:
        sandbox = self.rig.sandbox
        ring = f"projects/{sandbox.project_id}/locations/us-east5/keyRings/anthropic-cmek"
        asked = {
            "protection_level": "HSM",
            "rotation_period": timedelta(days=90),
            "destroy_scheduled_duration": timedelta(days=30),
            "labels": dict([organization_label(sandbox.organization_id)]),
        } | spec
        async with self.rig.kms() as kms, self.rig.admin() as admin:
            await kms.create_key_ring(ring)
            made, _ = await kms.create_crypto_key(
                f"{ring}/cryptoKeys/{key}", KeySpec.model_validate(asked)
            )
            await kms.add_grants(made.name, MEMBER, ROLES)
            external = await admin.external_keys.create(made.name, key)
            for workspace in workspaces:
                await admin.workspaces.update(workspace, external_key_id=external.id)
        return made.name

    def read(self, workspace: str | None = None) -> tuple[ManagedKey, ...]:
        """The live keys, of one workspace or of all."""
        return asyncio.run(self._read(workspace))

    async def _read(self, workspace: str | None) -> tuple[ManagedKey, ...]:
        async with self.rig.kms() as kms, self.rig.admin() as admin:
            if workspace is None:
                return await read_all_keys(admin, kms)
            return await read_workspace_keys(admin, kms, workspace)

    def export(self, workspace: str | None = None) -> None:
        """Write the module of the live keys, and initialize it."""
        write_module(render_module(self.read(workspace)), self.terraform.folder, replace=True)
        self.terraform.run("init", "-input=false")

    def new_workspace(self, name: str) -> str:
        """Make one more workspace, without a key; returns its id."""
        return asyncio.run(self._new_workspace(name))

    async def _new_workspace(self, name: str) -> str:
        async with self.rig.admin() as admin:
            return (await admin.workspaces.create(name)).id


@pytest.fixture
def rig() -> Iterator[Rig]:
    """A sandbox with two fresh workspaces and nothing else."""
    with running(minimal=True) as (sandbox, control):
        yield Rig(sandbox, control)


@pytest.fixture
def bench(rig: Rig, tmp_path: Path) -> Iterator[Bench]:
    """A bench whose stand-in takes a key's labels into the state on import."""
    with stand_in(rig.sandbox.http) as reattach:
        yield Bench(rig, Terraform(tmp_path, reattach))
