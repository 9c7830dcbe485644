"""The flow run that is executing."""

from __future__ import annotations

from uuid import UUID

from prefect.runtime import flow_run


def run_id() -> UUID:
    """Its id.

    Raises:
        RuntimeError: Outside a flow run.
    """
    known: str | None = flow_run.id
    if known is None:
        raise RuntimeError("outside a flow run")
    return UUID(known)
