"""How Prefect runs our tasks: without caching, and which failures it retries.

Those are typed conditions that the clients never retry. Transport errors are retried in one layer
only, the `cmek` clients; retrying them here as well would multiply the attempts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from cmek.anthropic.errors import AdminApiError, ConflictError
from cmek.errors import CmekError
from cmek.gcp.errors import GoogleApiError

P = ParamSpec("P")
R = TypeVar("R")


def uncached_task(
    *,
    name: str,
    task_run_name: str | None = None,
    **options: Any,  # noqa: ANN401 - those of Prefect's own decorator, which checks them
) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Prefect's `task` without old results: after a suspension or Retry it runs again.

    Args:
        name: Name of the task.
        task_run_name: Name of each run, with parameters in braces; by default the task's name.
        options: Anything else that Prefect's `task` takes, such as `retries`.
    """
    return task(
        name=name,
        task_run_name=task_run_name or name,
        cache_policy=NO_CACHE,
        # a stored result names its own serializer, pickle too: reading it back could run code
        persist_result=False,
        **options,
    )


class NotYetError(CmekError):
    """A condition that ends by itself: IAM is still settling, a version is being generated."""


async def _failure(state: State[Any]) -> BaseException | None:
    result = await state.aresult(raise_on_failure=False)
    return result if isinstance(result, BaseException) else None


async def not_yet(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001
    """Retry a condition that ends by itself."""
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
