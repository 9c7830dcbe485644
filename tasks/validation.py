"""Guide step 6: Anthropic's validation of the key."""

from __future__ import annotations

import time
from typing import Final

from prefect import get_run_logger

from cmek.onboarding.gate import STEADY, ValidationProof
from tasks._task_options import NotYetError, not_yet, uncached_task
from tasks.clients import admin_client

SETTLING_SECONDS: Final = [2.0, 4.0, 8.0, 16.0, 30.0]
"""Google's IAM changes take seconds, sometimes minutes, to take effect everywhere."""


class ValidationFailedError(NotYetError):
    """Anthropic could not use the key; right after a grant this may end by itself."""

    def __init__(self, external_key_id: str, proof: ValidationProof) -> None:
        super().__init__(
            f"validation of {external_key_id} failed: {proof.error} (request {proof.request_id})"
        )
        self.external_key_id = external_key_id
        self.proof = proof


@uncached_task(name="6 Validate")
async def validate(block: str, external_key_id: str) -> ValidationProof:
    """Validate once, whatever the outcome."""
    # before the request, so that the proof never looks younger
    started = time.clock_gettime(STEADY)
    outcome = await (await admin_client(block)).external_keys.validate(external_key_id)
    proof = ValidationProof(outcome.succeeded, started, outcome.error, outcome.request_id)
    get_run_logger().info("Validation of %s: %s", external_key_id, outcome.status)
    return proof


@uncached_task(
    name="6 Validate",
    retries=len(SETTLING_SECONDS),
    retry_delay_seconds=SETTLING_SECONDS,
    retry_condition_fn=not_yet,
)
async def validate_while_settling(block: str, external_key_id: str) -> ValidationProof:
    """Validate, trying again while a change that this run has just made may still be settling.

    Raises:
        ValidationFailedError: It still fails.
    """
    proof = await validate.fn(block, external_key_id)
    if not proof.succeeded:
        raise ValidationFailedError(external_key_id, proof)
    return proof
