"""A run's steps, one line each, while it goes."""

from __future__ import annotations

import re
import time
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, TaskRun
from rich.console import Console

from console.runs import task_runs
from console.terminal import printable

_POLL_SECONDS = 0.3
_SUFFIX = re.compile(r"-[0-9a-f]{1,3}$")


class Steps:
    """Prints every task of a run once it has ended; what was restored from a cache is no step."""

    def __init__(self, client: SyncPrefectClient, run_id: UUID, console: Console) -> None:
        self._client = client
        self._run_id = run_id
        self._console = console
        self._shown: set[UUID] = set()

    def follow(self, *, seconds: float) -> FlowRun:
        """Show steps until the run waits for an answer or has ended.

        Raises:
            TimeoutError: neither happened in time; names the state and the step.
        """
        deadline = time.monotonic() + seconds
        with self._console.status("waiting for the worker") as status:
            while True:
                run = self._client.read_flow_run(self._run_id)
                going = self._show_ended()
                if run.state and (run.state.is_paused() or run.state.is_final()):
                    self._show_ended()
                    return run
                if time.monotonic() > deadline:
                    state = run.state.name if run.state else "in no state"
                    raise TimeoutError(f"run {run.name} is {state} after {seconds:.0f} s: {going}")
                status.update(going or "working")
                time.sleep(_POLL_SECONDS)

    def _show_ended(self) -> str:
        going = []
        for task in task_runs(self._client, self._run_id):
            if task.state is None or not task.state.is_final():
                going.append(_title(task))
            elif task.id not in self._shown:
                self._shown.add(task.id)
                self._show(task)
        return ", ".join(going)

    def _show(self, task: TaskRun) -> None:
        state = task.state
        if state is None or state.name == "Cached":
            return
        mark = "[green]✓[/]" if state.is_completed() else "[red]✗[/]"
        seconds = task.total_run_time.total_seconds()
        tries = f", {task.run_count} tries" if task.run_count > 1 else ""
        self._console.print(
            f"  {mark} {_title(task)} [dim]{seconds:.1f} s{tries}[/]", soft_wrap=True
        )
        if not state.is_completed() and state.message:
            self._console.print(f"    {printable(state.message)}")


def _title(task: TaskRun) -> str:
    return printable(_SUFFIX.sub("", task.name))
