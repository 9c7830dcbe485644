"""Our own clients, connected to a sandbox, and names that no other test uses."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import stamina
from pydantic import SecretStr

from cmek.anthropic.auth import AdminKey, Credential
from cmek.anthropic.client import AdminApi
from cmek.gcp.kms import CloudKms
from cmek.gcp.resources import KeySpec
from sandbox.server import Sandbox
from tests.support.sandbox import SandboxControl

SOFTWARE = KeySpec(protection_level="SOFTWARE")


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """Retry without waiting, as often as usual, in each folder whose conftest imports this."""
    with stamina.set_testing(True, attempts=6, cap=True):
        yield


@dataclass(slots=True)
class Rig:
    """A running sandbox and our clients for it."""

    sandbox: Sandbox
    control: SandboxControl
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    @asynccontextmanager
    async def admin(
        self, credential: Credential | None = None, **options: Any
    ) -> AsyncIterator[AdminApi]:
        """An Admin API client, with the sandbox's admin key by default."""
        credential = credential or AdminKey(SecretStr(self.sandbox.admin_key))
        api = AdminApi(self.sandbox.http, credential, **options)
        try:
            yield api
        finally:
            await api.aclose()

    @asynccontextmanager
    async def kms(self, **options: Any) -> AsyncIterator[CloudKms]:
        """A Cloud KMS client, as the project's administrator by default."""
        kms = CloudKms.connect(endpoint=self.sandbox.grpc, **options)
        try:
            yield kms
        finally:
            await kms.aclose()

    def ring_name(self, location: str = "us-east5") -> str:
        """The name of a key ring that does not exist yet."""
        number = next(self._numbers)
        return f"projects/{self.sandbox.project_id}/locations/{location}/keyRings/ring-{number}"

    async def make_key(self, kms: CloudKms, spec: KeySpec = SOFTWARE) -> str:
        """Create a key in a new ring; returns its name."""
        ring, _ = await kms.create_key_ring(self.ring_name())
        key, _ = await kms.create_crypto_key(f"{ring.name}/cryptoKeys/key", spec)
        return key.name

    def key_name(self) -> str:
        """A key name that no other test registers; no key has it."""
        return f"{self.ring_name()}/cryptoKeys/key"

    def fresh_workspace(self) -> str:
        """A workspace without a key; the sandbox has two."""
        workspaces = self.sandbox.world.admin.workspaces.values()
        return next(one.id for one in workspaces if not (one.external_key_id or one.is_default))

    def calls(self, **facts: object) -> list[str]:
        """Names of the calls so far."""
        return self.control.calls(**facts)
