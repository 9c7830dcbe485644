"""Kill a worker and everything that it has started at once, as a power failure would."""

from __future__ import annotations

import contextlib
import os
import signal
from uuid import UUID

import psutil

from cli.local.processes import Child, processes_with
from tests.support.stack import Stack


def executing(run_id: UUID) -> list[int]:
    """The processes that execute a flow run."""
    return processes_with("PREFECT__FLOW_RUN_ID", str(run_id))


def kill_worker(stack: Stack, worker: Child) -> None:
    """Kill the worker and its runs; each has a session of its own, so one signal is not enough."""
    for pid in [worker.process.pid, *descendants(worker.process.pid)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    worker.process.wait(10)
    stack.local.children.remove(worker)


def descendants(ancestor: int) -> list[int]:
    """The processes below another one."""
    try:
        return [child.pid for child in psutil.Process(ancestor).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
