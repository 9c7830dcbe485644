"""What a rehearsal has come to, read from the sandbox and the server rather than from the run."""

from __future__ import annotations

from collections import Counter
from typing import Any

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import ArtifactSort
from pydantic import SecretStr

from cmek.anthropic.auth import AdminKey
from cmek.anthropic.client import AdminApi
from cmek.models import FrozenModel
from console.sandbox_process import SandboxAddress


class Attachment(FrozenModel):
    """The key under a workspace, as the Admin API tells it."""

    external_key_id: str
    key_name: str | None


class Calls(FrozenModel):
    """The calls that reached the sandbox."""

    by_service: dict[str, int]
    writes: int


def read_calls(sandbox: SandboxAddress, *, after: int = 0) -> Calls:
    """Count the calls with a number above `after`."""
    entries = _log(sandbox, after)
    return Calls(
        by_service=dict(sorted(Counter(entry["service"] for entry in entries).items())),
        writes=sum(1 for entry in entries if entry["write"]),
    )


def last_call(sandbox: SandboxAddress) -> int:
    """The number of the latest call, 0 before any."""
    return max((entry["number"] for entry in _log(sandbox, 0)), default=0)


async def read_attachment(sandbox: SandboxAddress, workspace_id: str) -> Attachment | None:
    """Read the workspace and its key; None when it has none.

    Raises:
        AdminApiError: the sandbox did not answer.
    """
    admin = AdminApi(sandbox.http, AdminKey(SecretStr(sandbox.admin_key)))
    try:
        workspace = await admin.workspaces.retrieve(workspace_id)
        if workspace.external_key_id is None:
            return None
        key = await admin.external_keys.retrieve(workspace.external_key_id)
        return Attachment(external_key_id=key.id, key_name=key.gcp_key_name)
    finally:
        await admin.aclose()


def read_report(client: SyncPrefectClient, run: FlowRun) -> str | None:
    """The run's latest Markdown artifact."""
    found = client.read_artifacts(
        artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id])),
        sort=ArtifactSort.CREATED_DESC,
        limit=20,
    )
    texts = [str(one.data) for one in found if one.type == "markdown"]
    return texts[0] if texts else None


def _log(sandbox: SandboxAddress, after: int) -> list[dict[str, Any]]:
    answer = httpx.get(
        f"{sandbox.http}/_sandbox/log", params={"after": after}, trust_env=False, timeout=10
    )
    entries: list[dict[str, Any]] = answer.raise_for_status().json()
    return entries
