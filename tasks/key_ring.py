"""Guide step 1: the key ring."""

from __future__ import annotations

from prefect import get_run_logger

from tasks._task_options import name_race, uncached_task
from tasks.clients import kms_client


@uncached_task(
    name="1 Key ring",
    retries=3,
    retry_delay_seconds=[2, 5, 10],
    retry_jitter_factor=0.5,
    retry_condition_fn=name_race,
)
async def ensure_key_ring(kms_block: str, key_ring_name: str) -> bool:
    """Use the ring when it exists, else create it; whether this run created it.

    Raises:
        GoogleApiError: Refused, or the location is unknown; nothing was made. Retried: another
            caller makes or deletes a ring of this name at the same time.
    """
    kms = await kms_client(kms_block)
    ring = await kms.get_key_ring(key_ring_name)
    created = False
    if ring is None:
        ring, created = await kms.create_key_ring(key_ring_name)
    get_run_logger().info("%s key ring %s", "Created" if created else "Found", ring.name)
    return created
