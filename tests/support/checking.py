"""Run the checks and the diagnosis against a staged sandbox, in-process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import SecretStr

from cmek.anthropic.auth import AdminKey
from cmek.anthropic.client import AdminApi
from cmek.gcp.kms import CloudKms
from cmek.gcp.project_apis import GoogleReads
from cmek.keys.diagnosis import Failure
from cmek.keys.prerequisites import run_checks
from cmek.keys.reader import Clients
from cmek.keys.verdicts import CheckReport
from cmek.onboarding.request import OnboardingRequest
from sandbox.server import Sandbox
from tests.support.sandbox import SandboxProcess
from tests.support.staging import EXTERNAL_KEY, KEY, WORKSPACE


def request(**changes: Any) -> OnboardingRequest:
    """The usual request with changes, which may be values that the form would refuse."""
    usual = OnboardingRequest(
        workspace_id=WORKSPACE,
        project_id=KEY.project,
        location=KEY.location,
        key_ring=KEY.key_ring,
        crypto_key=KEY.crypto_key,
        requested_by="ada@example.com",
    )
    return usual.model_copy(update=changes)


@asynccontextmanager
async def clients(sandbox: Sandbox | SandboxProcess) -> AsyncIterator[Clients]:
    """All three clients, with the administrator's rights."""
    admin = AdminApi(sandbox.http, AdminKey(SecretStr(sandbox.admin_key)))
    kms = CloudKms.connect(endpoint=sandbox.grpc, credentials=None, quota_project=None)
    google = GoogleReads(None, base_url=sandbox.http)
    try:
        yield Clients(admin, kms, google)
    finally:
        await admin.aclose()
        await kms.aclose()
        await google.aclose()


async def check(sandbox: Sandbox | SandboxProcess, **changes: Any) -> CheckReport:
    """One run of all checks."""
    async with clients(sandbox) as found:
        return await run_checks(request(**changes), found)


def failure(**known: Any) -> Failure:
    """A failed validation of the staged key; times in `known` are relative to now."""
    usual: dict[str, Any] = {"external_key_id": EXTERNAL_KEY, "granted_at": timedelta(days=-1)}
    values: dict[str, Any] = {
        name: datetime.now(UTC) + value if isinstance(value, timedelta) else value
        for name, value in (usual | known).items()
    }
    return Failure(**values)
