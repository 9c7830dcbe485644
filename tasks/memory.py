"""What one run must remember across its suspensions, in the run's own result storage.

Only the worker writes there. A task's cached result would do for this, but a look that finds
nothing would be cached as well.

A file is emptied before it is written, so a full disk or a kill can leave a torn one. Everything
is therefore written twice, one after the other: one of the two is whole at any moment.
"""

from __future__ import annotations

from typing import Final, TypeVar

from prefect.results import ResultStore, get_result_store
from pydantic import BaseModel

from tasks.this_run import run_id

M = TypeVar("M", bound=BaseModel)
_NEXT: Final = ".next"


async def remember(name: str, value: BaseModel) -> None:
    """Keep `value` under this run and `name`; when that fails, what was kept before stays."""
    for key in (_key(name, _NEXT), _key(name)):
        await _store().awrite(value.model_dump_json(), key=key)


async def recall(name: str, kind: type[M]) -> M | None:
    """What was kept under `name`; None when nothing was, or it was lost, or another release's."""
    return await _read(_key(name), kind) or await _read(_key(name, _NEXT), kind)


async def _read(key: str, kind: type[M]) -> M | None:
    store = _store()
    if not await store.aexists(key):
        return None
    try:
        record = await store.aread(key)
        return kind.model_validate_json(record.result)
    except (ValueError, TypeError):  # torn, or not ours: pydantic's errors are ValueErrors
        return None


def _store() -> ResultStore:
    # A flow's own store keeps a result's metadata nowhere, so it could not find it again.
    return get_result_store().model_copy(update={"metadata_storage": None})


def _key(name: str, which: str = "") -> str:
    return f"cmek-{run_id()}-{name}{which}"
