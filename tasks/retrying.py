"""Which failures a task run may try again: typed conditions that the clients never retry.

Transport errors are retried in one layer only, the `cmek` clients; retrying them here as well
would multiply the attempts.
"""

from __future__ import annotations

from typing import Any, Final

from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from cmek.anthropic.errors import AdminApiError, ConflictError
from cmek.gcp.errors import GoogleApiError

SETTLING_SECONDS: Final = [2.0, 4.0, 8.0, 16.0, 30.0]
"""Google's IAM changes take seconds, sometimes minutes, to reach everybody."""


class NotYetError(Exception):
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


async def answer_lost(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001
    """Retry a create whose answer was lost: the next attempt looks before it creates."""
    failure = await _failure(state)
    return isinstance(failure, ConflictError) or (
        isinstance(failure, AdminApiError) and failure.ambiguous
    )
