"""Guide step 1: the key ring."""

from __future__ import annotations

from prefect import get_run_logger, task
from pydantic import BaseModel, ConfigDict

from tasks.clients import kms_client


class EnsuredKeyRing(BaseModel):
    """The ring, and whether this run made it."""

    model_config = ConfigDict(frozen=True)

    name: str
    created: bool


@task(name="1 Key ring", task_run_name="1 Key ring {key_ring_name}")
async def ensure_key_ring(kms_block: str, key_ring_name: str) -> EnsuredKeyRing:
    """Use the ring when it exists, else create it.

    Raises:
        GoogleApiError: Refused, or the location is unknown; nothing was made.
    """
    kms = await kms_client(kms_block)
    ring = await kms.get_key_ring(key_ring_name)
    created = False
    if ring is None:
        ring, created = await kms.create_key_ring(key_ring_name)
    get_run_logger().info("%s key ring %s", "Created" if created else "Found", ring.name)
    return EnsuredKeyRing(name=ring.name, created=created)
