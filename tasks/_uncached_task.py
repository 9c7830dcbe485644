"""A task whose result is neither cached nor stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE

P = ParamSpec("P")
R = TypeVar("R")


def uncached_task(
    *,
    name: str,
    task_run_name: str,
    **options: Any,  # noqa: ANN401 - those of Prefect's own decorator, which checks them
) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Prefect's `task`, run anew each time: after a suspension or Retry no old result counts.

    Args:
        name: Of the task.
        task_run_name: Of each run, with parameters in braces.
        options: Anything else that Prefect's `task` takes, such as `retries`.
    """
    return task(
        name=name,
        task_run_name=task_run_name,
        cache_policy=NO_CACHE,
        persist_result=False,
        **options,
    )
