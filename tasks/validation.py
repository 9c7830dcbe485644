"""Guide step 6: Anthropic's validation of the key; and which failures a task run may retry.

Those are typed conditions that the clients never retry. Transport errors are retried in one layer
only, the `cmek` clients; retrying them here as well would multiply the attempts.
"""

from __future__ import annotations

import time
from typing import Any, Final

from prefect import get_run_logger
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from cmek.anthropic.errors import AdminApiError, ConflictError
from cmek.errors import CmekError
from cmek.gcp.errors import GoogleApiError
from cmek.onboarding.gate import ValidationProof
from tasks._uncached_task import uncached_task
from tasks.clients import admin_client

SETTLING_SECONDS: Final = [2.0, 4.0, 8.0, 16.0, 30.0]
"""Google's IAM changes take seconds, sometimes minutes, to take effect everywhere."""


class NotYetError(CmekError):
    """Something that heals by itself with time: IAM settling, a version being generated."""


async def _failure(state: State[Any]) -> BaseException | None:
    result = await state.aresult(raise_on_failure=False)
    return result if isinstance(result, BaseException) else None


async def not_yet(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001
    """Retry what heals with time."""
    return isinstance(await _failure(state), NotYetError)


async def policy_race(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001
    """Retry a read-modify-write that others kept interrupting."""
    failure = await _failure(state)
    return isinstance(failure, GoogleApiError) and failure.problem.status == "ABORTED"


async def name_race(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001
    """Retry a create whose name was taken while nothing of that name could be read yet."""
    failure = await _failure(state)
    taken = {"ALREADY_EXISTS", "ABORTED"}
    return isinstance(failure, GoogleApiError) and failure.problem.status in taken


async def response_lost(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001
    """Retry a create whose response was lost: the next attempt lists before it creates."""
    failure = await _failure(state)
    return isinstance(failure, ConflictError) or (
        isinstance(failure, AdminApiError) and failure.ambiguous
    )


class ValidationFailedError(NotYetError):
    """Anthropic could not use the key; right after a grant that may heal by itself."""

    def __init__(self, external_key_id: str, proof: ValidationProof) -> None:
        super().__init__(
            f"validation of {external_key_id} failed: {proof.error} (request {proof.request_id})"
        )
        self.external_key_id = external_key_id
        self.proof = proof


@uncached_task(name="6 Validate", task_run_name="6 Validate")
async def validate(block: str, external_key_id: str) -> ValidationProof:
    """One validation, whatever its outcome; timed from before it was sent."""
    started = time.monotonic()
    outcome = await (await admin_client(block)).external_keys.validate(external_key_id)
    proof = ValidationProof(outcome.succeeded, started, outcome.error, outcome.request_id)
    get_run_logger().info("Validation of %s: %s", external_key_id, outcome.status)
    return proof


@uncached_task(
    name="6 Validate",
    task_run_name="6 Validate",
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
