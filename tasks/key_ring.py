"""Guide step 1: the key ring."""

from __future__ import annotations

from prefect import get_run_logger, task

from tasks.clients import kms_client


@task(name="1 Key ring", task_run_name="1 Key ring")
async def ensure_key_ring(kms_block: str, key_ring_name: str) -> bool:
    """Use the ring when it exists, else create it; whether this run created it.

    Raises:
        GoogleApiError: Refused, or the location is unknown; nothing was made.
    """
    kms = await kms_client(kms_block)
    ring = await kms.get_key_ring(key_ring_name)
    created = False
    if ring is None:
        ring, created = await kms.create_key_ring(key_ring_name)
    get_run_logger().info("%s key ring %s", "Created" if created else "Found", ring.name)
    return created
