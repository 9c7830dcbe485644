"""Artifacts of an onboarding: reports, the Terraform module, and the key's history.

A key's history is the versions under one artifact key; the newest holds the last record.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from prefect import get_client, get_run_logger
from prefect.artifacts import Artifact, acreate_markdown_artifact
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.filters import (
    ArtifactCollectionFilter,
    ArtifactCollectionFilterKey,
    ArtifactFilter,
    ArtifactFilterKey,
)
from prefect.client.schemas.objects import ArtifactCollection
from prefect.client.schemas.sorting import ArtifactSort
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL
from pydantic import BaseModel

from cmek.anthropic.errors import AdminApiError
from cmek.gcp.errors import GoogleApiError
from cmek.keys.history import SIGNS, key_page, key_title, onboarding_record, read_page
from cmek.keys.verdicts import KeyRecord
from cmek.names import artifact_key
from cmek.onboarding.plan import LiveFacts
from cmek.onboarding.request import OnboardingRequest
from cmek.terraform.module import (
    NotManageableError,
    read_workspace_keys,
    render_module,
    terraform_page,
)
from tasks._task_options import uncached_task
from tasks.clients import admin_client, kms_client
from tasks.runs import PAGE, current_run_id, load_state, save_state


class _Published(BaseModel):
    artifact_id: UUID


@uncached_task(name="Publish report", task_run_name="Publish {kind}")
async def publish(kind: str, subject: str, markdown: str, description: str) -> None:
    """Publish a Markdown artifact; a run has one of each kind, and later calls update it.

    The versions under its key are the workspace's history, one per run. A created workspace has
    one artifact under its id, and one under its name.
    """
    name = artifact_key(kind, subject)
    # by id and not by key: the newest artifact under the key may be another run's
    known = await load_state(name, _Published)
    if known is not None and await update_data(known.artifact_id, markdown, description):
        return
    made = await acreate_markdown_artifact(markdown=markdown, key=name, description=description)
    await save_state(name, _Published(artifact_id=made))


async def update_data(artifact_id: UUID, data: str, description: str | None = None) -> bool:
    """Replace an artifact's data; False when the artifact no longer exists."""
    change = ArtifactUpdate(data=data, **({"description": description} if description else {}))
    async with get_client() as client:
        try:
            await client.update_artifact(artifact_id, change)
        except ObjectNotFound:
            return False
    return True


class _Table(Artifact):
    """A table that is JSON already: Prefect's own would copy all its rows twice more."""

    type: str | None = "table"
    text: str

    async def aformat(self) -> str:
        """The text, unchanged."""
        return self.text


async def publish_table(key: str, text: str, description: str) -> None:
    """A table artifact from JSON: a list of objects with the same members."""
    await _Table(key=key, text=text, description=description).acreate()


async def publish_terraform(request: OnboardingRequest) -> None:
    """Read the workspace's key and publish the module that adopts it.

    What can't be read is logged and left out: `cmek terraform` can be run at any time.
    """
    workspace_id = request.subject
    try:
        module = await read_module(request.anthropic_block, request.kms_block, workspace_id)
    except (AdminApiError, GoogleApiError, NotManageableError) as error:
        get_run_logger().warning("No Terraform was written: %s", error)
        return
    page = terraform_page(workspace_id, module)
    await publish("terraform", workspace_id, page, "adopts the key as it is now")


@uncached_task(name="Terraform")
async def read_module(anthropic_block: str, kms_block: str, workspace_id: str) -> dict[str, str]:
    """The module of the workspace's live key, text by file name.

    Raises:
        NotManageableError: The workspace has no key that Terraform can describe.
        AdminApiError, GoogleApiError: A read was refused.
    """
    admin, kms = await admin_client(anthropic_block), await kms_client(kms_block)
    return render_module(await read_workspace_keys(admin, kms, workspace_id))


RECENT = 4
"""How many of a key's last records are read, since runs may overlap."""


def page_key(external_key_id: str) -> str:
    """The artifact key of a key's history."""
    return artifact_key("key", external_key_id)


def artifact_url(key: str) -> str:
    """Where a browser shows the newest artifact under a key."""
    api_url = (PREFECT_API_URL.value() or "").rstrip("/")
    base = PREFECT_UI_URL.value() or api_url.removesuffix("/api")
    return f"{base.rstrip('/')}/artifacts/key/{key}"


async def publish_page(record: KeyRecord) -> None:
    """Add a record to a key's history."""
    await acreate_markdown_artifact(
        markdown=key_page(record),
        key=page_key(record.external_key_id),
        description=f"{SIGNS[record.verdict]}: {key_title(record)}",
    )


async def last_records(external_key_ids: Sequence[str]) -> dict[str, KeyRecord]:
    """The last record of each of these keys; an unreadable one is left out."""
    keys = [page_key(one) for one in external_key_ids]
    records = [
        read_page(str(artifact.data))
        for start in range(0, len(keys), PAGE)
        for artifact in await _latest(keys[start : start + PAGE])
    ]
    return {record.external_key_id: record for record in records if record is not None}


async def recent_records(external_key_id: str) -> list[KeyRecord]:
    """A key's last few records, newest first: runs that overlap may each have added one."""
    wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[page_key(external_key_id)]))
    async with get_client() as client:
        found = await client.read_artifacts(
            artifact_filter=wanted, sort=ArtifactSort.CREATED_DESC, limit=RECENT
        )
    return [record for one in found if (record := read_page(str(one.data))) is not None]


async def latest_artifact(key: str) -> ArtifactCollection | None:
    """The newest artifact under a key."""
    found = await _latest([key])
    return found[0] if found else None


async def _latest(keys: list[str]) -> list[ArtifactCollection]:
    wanted = ArtifactCollectionFilter(key=ArtifactCollectionFilterKey(any_=keys))
    async with get_client() as client:
        return await client.read_latest_artifacts(artifact_filter=wanted, limit=PAGE)


@uncached_task(name="Record the key")
async def record_onboarding(
    facts: LiveFacts, users_before: tuple[str, ...], decrypters: tuple[str, ...]
) -> None:
    """Record the key's state when it was attached, which later checks compare with.

    Checks while the onboarding waited may have begun the history: the state of the attach replaces
    what they recorded. The history of a key that another workspace has is left unchanged.
    """
    found = await last_records([facts.external_key_id])
    baseline = found[facts.external_key_id].baseline if found else None
    if found and (facts.other_workspaces or (baseline and baseline.source == "onboarding")):
        return
    now = datetime.now(UTC)
    await publish_page(
        onboarding_record(
            facts,
            users_before=users_before,
            decrypters=decrypters,
            run_id=str(current_run_id()),
            now=now,
        )
    )
