"""A task without Prefect's engine."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from prefect.states import Failed
from prefect.tasks import Task


class Plain:
    """A task without its engine: the function, and its typed retries without their delays."""

    def __init__(self, task: Task[..., Any], retries: int | None = None) -> None:
        self.task = task
        self.fn = task.fn
        self.retries = task.retries if retries is None else retries

    def with_options(self, *, retries: int) -> Plain:
        """The same as a task's method."""
        return Plain(self.task, retries)

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function again while its task would be retried."""
        for left in reversed(range((self.retries or 0) + 1)):
            try:
                return await self.fn(*args, **kwargs)
            except Exception as error:
                if not left or not await self._may_retry(error):
                    raise
        raise AssertionError("a last attempt answers or raises")

    async def _may_retry(self, error: Exception) -> bool:
        condition = self.task.retry_condition_fn
        if condition is None:
            return True
        verdict = condition(self.task, None, Failed(data=error))  # type: ignore[arg-type]
        return bool(await verdict) if isinstance(verdict, Awaitable) else bool(verdict)
