"""Guide step 5: register the crypto key as an external key."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from prefect import get_run_logger
from pydantic import BaseModel

from cmek.anthropic.client import AdminApi
from cmek.anthropic.models import ExternalKey
from tasks._task_options import response_lost, uncached_task
from tasks.clients import admin_client
from tasks.runs import load_state, save_state


@uncached_task(
    name="5 External key",
    retries=3,
    retry_delay_seconds=[1, 3, 9],
    retry_jitter_factor=0.5,
    retry_condition_fn=response_lost,
)
async def ensure_external_key(
    block: str, key_name: str, display_name: str | None
) -> tuple[ExternalKey, bool]:
    """Use the external key of this crypto key when there is one on any page, else create it.

    The API has no idempotency key, so after a lost response the keys are listed again before
    another create.

    Returns:
        The external key, and whether this run created it, perhaps in an attempt that was lost.

    Raises:
        AdminApiError: Refused, or the response stayed lost.
    """
    api = await admin_client(block)
    key = await find_external_key(api, key_name)
    if key is None:
        # before it is sent: else a lost response, or a kill, would hide what was made
        await save_state(_MEMORY, _CreateSent(key_name=key_name))
        key = await api.external_keys.create(key_name, display_name)
    sent = await load_state(_MEMORY, _CreateSent)
    created = sent is not None and sent.key_name == key_name
    get_run_logger().info("%s external key %s", "Created" if created else "Found", key.id)
    return key, created


_MEMORY: Final = "external-key"


class _CreateSent(BaseModel):
    """This run has found no external key of this crypto key, and sent a create."""

    key_name: str


async def find_external_key(api: AdminApi, key_name: str) -> ExternalKey | None:
    """The external key of a crypto key; of several an attached one first, then the oldest.

    So every run takes the same one. One without a time comes last, since it may be the newest.
    """
    found = [key async for key in api.external_keys.list() if key.gcp_key_name == key_name]

    def order(key: ExternalKey) -> tuple[bool, bool, datetime | None, str]:
        return (not key.is_attached, key.created_at is None, key.created_at, key.id)

    return min(found, key=order, default=None)
