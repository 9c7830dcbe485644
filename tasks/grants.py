"""Guide step 3: both grants, on the key itself, for the published service account only."""

from __future__ import annotations

from prefect import get_run_logger

from cmek.anthropic_identity import MEMBER, ROLES
from tasks._task_options import policy_race, uncached_task
from tasks.clients import kms_client


@uncached_task(
    name="3 Grants",
    retries=3,
    retry_delay_seconds=[2, 5, 10],
    retry_jitter_factor=0.5,
    retry_condition_fn=policy_race,
)
async def ensure_grants(kms_block: str, key_name: str) -> bool:
    """Grant both roles in one read-modify-write with etag; other bindings stay unchanged.

    Returns:
        Whether this run had to write the policy.

    Raises:
        GoogleApiError: Refused, for example by domain restricted sharing, or others kept
            changing the policy.
    """
    _, written = await (await kms_client(kms_block)).add_grants(key_name, MEMBER, ROLES)
    get_run_logger().info(
        "%s for %s", "Granted " + " and ".join(ROLES) if written else "Grants are there", MEMBER
    )
    return written
