"""Child processes that are always stopped: each with its own group, its log file, a deadline."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TypeVar

import psutil

from cmek.errors import CmekError

T = TypeVar("T")

STOP_SECONDS = 8.0
_POLL_SECONDS = 0.05
_TAIL_LINES = 25
_ENDED = frozenset({psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD})
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StackError(CmekError):
    """The local stack could not be started: says which part, why, and shows its last log lines."""


@dataclass
class Child:
    """A process that leads its own group and writes both outputs to `log`."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended yet."""
        return self.process.poll() is None

    def failure(self, what: str) -> StackError:
        """An error about this child that carries its exit code and the end of its log."""
        code = self.process.poll()
        ended = "" if code is None else f"; it ended with exit code {code}"
        lines = self.log.read_text(errors="replace", encoding="utf-8").splitlines()[-_TAIL_LINES:]
        tail = "\n".join(f"    {line}" for line in lines) or "    (nothing was logged)"
        return StackError(f"{self.name}: {what}{ended}. Last lines of its log:\n{tail}")


def start(  # noqa: PLR0913 - what subprocess needs to know
    name: str,
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    directory: Path,
    log: Path,
    user: str | None = None,
    inherits: Collection[int] = (),
) -> Child:
    """Start a process with exactly this environment, without standard input.

    It has the open files whose numbers it `inherits`, and no others.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # the terminal's Ctrl-C must not reach it: `stop` ends the processes
            start_new_session=True,
            pass_fds=inherits,
            user=user,
            group=None if user is None else pwd.getpwnam(user).pw_gid,
            extra_groups=None if user is None else (),
        )
    return Child(name, process, log)


def start_module(  # noqa: PLR0913 - what `start` needs to know
    name: str,
    arguments: Sequence[str],
    home: Path,
    environment: Mapping[str, str],
    *,
    log: str,
    inherits: Collection[int] = (),
) -> Child:
    """Start a module with these arguments; the home is its directory and holds its log."""
    command = [sys.executable, "-m", "cli.launch", *arguments]
    return start(
        name,
        command,
        environment=environment,
        directory=home,
        log=home / log,
        inherits=inherits,
    )


def poll(
    probe: Callable[[], T | None], *, seconds: float, pause: float = _POLL_SECONDS
) -> T | None:
    """Call `probe` until it returns something; None when it has not in time.

    Args:
        probe: What is called.
        seconds: For how long.
        pause: Seconds between two calls; longer if a call costs a starting server time.
    """
    deadline = time.monotonic() + seconds
    while (found := probe()) is None and time.monotonic() <= deadline:
        time.sleep(pause)
    return found


def wait_for(
    child: Child,
    probe: Callable[[], T | None],
    *,
    what: str,
    seconds: float,
    pause: float = _POLL_SECONDS,
) -> T:
    """Call `probe` until it returns something other than None; the arguments are those of `poll`.

    Raises:
        StackError: the child ended first, or `seconds` passed.
    """

    def found_or_ended() -> T | None:
        found = probe()
        if found is None and not child.is_running:
            raise child.failure(f"ended before {what}")
        return found

    found = poll(found_or_ended, seconds=seconds, pause=pause)
    if found is None:
        raise child.failure(f"not {what} after {seconds:.0f} s")
    return found


def wait_for_exit(child: Child, *, seconds: float) -> None:
    """Wait for a child that does one job.

    Raises:
        StackError: it failed, or did not end in time.
    """
    try:
        code = child.process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise child.failure(f"not finished after {seconds:.0f} s") from None
    if code != 0:
        raise child.failure("failed")


def stop(children: Iterable[Child], *, seconds: float = STOP_SECONDS) -> None:
    """End the children's groups: TERM to all, and KILL to those left when `seconds` have passed.

    When it returns, the other members of the groups have ended, too.
    """
    running = [child for child in children if child.is_running]
    for child in running:
        _signal_group(child.process.pid, signal.SIGTERM)
    deadline = time.monotonic() + seconds
    for child in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.process.wait(timeout=max(0.0, deadline - time.monotonic()))
    for child in running:
        _signal_group(child.process.pid, signal.SIGKILL)
        child.process.wait()
    # Only the leader can be waited for: the rest of its group may still be ending.
    leaders = {child.process.pid for child in running}
    poll(lambda: None if _in_groups(leaders) else True, seconds=STOP_SECONDS)


def processes_with(variable: str, value: str) -> list[int]:
    """Processes of ours with `variable=value` in their environment, without this one.

    A Prefect worker starts each flow run in a session of its own, which outlives the worker's
    group. The environment is what such processes keep.
    """
    found = []
    for process in psutil.process_iter():
        # other users' processes do not show theirs
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(variable) == value:
                found.append(process.pid)
    return found


def kill_orphans(variable: str, value: str) -> None:
    """Kill what `processes_with` finds, until it finds nothing."""

    def none_left() -> bool | None:
        found = processes_with(variable, value)
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return None if found else True

    poll(none_left, seconds=STOP_SECONDS)


@contextlib.contextmanager
def ending_on_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGINT into `SystemExit`, so that `with` blocks clean up.

    Handlers of ours, even where the shell had SIGINT ignored, also give children the default
    handling: ignored signals are inherited by a new program, handled ones are not.
    """
    received: list[int] = []

    def end(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        raise SystemExit(128 + number)

    with _handling(end):
        try:
            yield
        except Exception as error:
            # Code in C may replace what a handler raises: pydantic raises its own error instead.
            if received:
                raise SystemExit(128 + received[-1]) from error
            raise
        if received:  # Python drops what is raised in a finalizer
            raise SystemExit(128 + received[-1])


@contextlib.contextmanager
def ignore_signals() -> Iterator[None]:
    """Ignore SIGTERM and SIGINT during the clean-up, which has its own deadlines."""
    with _handling(signal.SIG_IGN):
        yield


@contextlib.contextmanager
def _handling(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # Python allows no handlers here
        yield
        return
    previous = {number: signal.signal(number, handler) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def _in_groups(leaders: Collection[int]) -> bool:
    # Not by signal 0, which also reaches a zombie: that runs no more, and waits for init.
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if os.getpgid(process.pid) in leaders and process.status() not in _ENDED:
                return True
    return False


def _signal_group(leader: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)
