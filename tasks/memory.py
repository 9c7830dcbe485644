"""What one run must remember across its suspensions, in the run's own result storage.

Only the worker writes there. A task's cached result would do for this, but a look that finds
nothing would be cached as well.
"""

from __future__ import annotations

from typing import TypeVar

from prefect.results import ResultStore, get_result_store
from pydantic import BaseModel, ValidationError

from tasks.this_run import run_id

M = TypeVar("M", bound=BaseModel)


async def remember(name: str, value: BaseModel) -> None:
    """Keep `value` under this run and `name`."""
    await _store().awrite(value.model_dump_json(), key=_key(name))


async def recall(name: str, kind: type[M]) -> M | None:
    """What was kept under `name`; None when nothing was, or it was lost, or another release's."""
    store = _store()
    if not await store.aexists(_key(name)):
        return None
    record = await store.aread(_key(name))
    try:
        return kind.model_validate_json(record.result)
    except ValidationError:
        return None


def _store() -> ResultStore:
    # A flow's own store keeps a result's metadata nowhere, so it could not find it again.
    return get_result_store().model_copy(update={"metadata_storage": None})


def _key(name: str) -> str:
    return f"cmek-{run_id()}-{name}"
