"""Child processes are always ended, and an error shows their log."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.local import processes
from cli.local.processes import Child, StackError

SLEEP = "import signal; print('up', flush=True); signal.pause()"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"
PARENT = (
    "import subprocess, sys;"
    f" subprocess.Popen([sys.executable, '-c', {SLEEP!r}], start_new_session={{apart}});"
    f" {SLEEP}"
)


@pytest.fixture
def children(tmp_path: Path) -> Iterator[list[Child]]:
    """Children that a test starts; they are killed at its end in any case."""
    started: list[Child] = []
    yield started
    processes.stop(started, seconds=0)
    processes.kill_orphans("STACK_TEST", str(tmp_path))


def run(children: list[Child], tmp_path: Path, code: str) -> Child:
    """Start Python code whose environment names the test's directory."""
    child = processes.start(
        "example",
        [sys.executable, "-c", code],
        environment={"STACK_TEST": str(tmp_path)},
        directory=tmp_path,
        log=tmp_path / "example.log",
    )
    children.append(child)
    return child


def wait_up(child: Child, times: int = 1) -> None:
    """Wait until the log has `up` that many times."""
    processes.wait_for(
        child,
        lambda: True if child.log.read_text().count("up") >= times else None,
        what="up",
        seconds=10,
    )


def alive(tmp_path: Path) -> list[int]:
    """The test's processes."""
    return processes.processes_with("STACK_TEST", str(tmp_path))


def test_stopping_ends_the_whole_group(children: list[Child], tmp_path: Path) -> None:
    """A child's own children in its group do not outlive it."""
    child = run(children, tmp_path, PARENT.format(apart=False))
    wait_up(child, times=2)
    assert len(alive(tmp_path)) == 2
    processes.stop([child])
    assert not child.is_running
    assert alive(tmp_path) == []


def test_a_child_that_ignores_term_is_killed_when_the_deadline_has_passed(
    children: list[Child], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets TERM first, and KILL exactly after the given seconds."""
    child = run(children, tmp_path, STUBBORN)
    wait_up(child)
    wait, waits = child.process.wait, list[float | None]()

    def recorded(timeout: float | None = None) -> int:
        waits.append(timeout)
        return wait(timeout)

    monkeypatch.setattr(child.process, "wait", recorded)
    before = time.monotonic()
    processes.stop([child], seconds=0.3)
    assert time.monotonic() - before >= 0.3
    assert waits[0] is not None
    assert waits[0] <= 0.3
    assert child.process.returncode == -signal.SIGKILL


def test_a_stray_in_a_session_of_its_own_is_found_by_its_environment_and_killed(
    children: list[Child], tmp_path: Path
) -> None:
    """A worker's flow runs leave its group, but must not survive."""
    child = run(children, tmp_path, PARENT.format(apart=True))
    wait_up(child, times=2)
    processes.stop([child])
    assert len(alive(tmp_path)) == 1
    processes.kill_orphans("STACK_TEST", str(tmp_path))
    assert alive(tmp_path) == []


def test_a_child_gets_the_given_environment_and_nothing_else(
    children: list[Child], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No variable of ours is inherited."""
    monkeypatch.setenv("ANTHROPIC_ADMIN_KEY", "sk-ant-admin01-NOT-A-REAL-KEY")
    child = run(children, tmp_path, "import os; print(sorted(os.environ))")
    processes.wait_for_exit(child, seconds=10)
    assert "ANTHROPIC" not in child.log.read_text()
    assert "STACK_TEST" in child.log.read_text()


@pytest.mark.parametrize(
    ("code", "seconds", "message"),
    [
        ("print('port is taken'); raise SystemExit(3)", 10, r"ended before ready.* 3\..*port is"),
        (SLEEP, 0.1, r"not ready after 0 s\..*Last lines"),
    ],
)
def test_a_failed_wait_says_why_and_shows_the_log(
    children: list[Child], tmp_path: Path, code: str, seconds: float, message: str
) -> None:
    """The child has ended, and the error has its exit code; or it hangs."""
    child = run(children, tmp_path, code)
    with pytest.raises(StackError, match=rf"(?s)example: {message}"):
        processes.wait_for(child, lambda: None, what="ready", seconds=seconds)


def test_a_job_that_fails_is_an_error(children: list[Child], tmp_path: Path) -> None:
    """Only exit code 0 is success."""
    child = run(children, tmp_path, "raise SystemExit('bad block')")
    with pytest.raises(StackError, match=r"failed(.|\n)*bad block"):
        processes.wait_for_exit(child, seconds=10)


IN_C_CODE = {
    "nowhere": "kill(); print('went on')",
    "a callback of pydantic": (
        "from pydantic import TypeAdapter, PlainSerializer; from typing import Annotated; "
        "TypeAdapter(Annotated[str, PlainSerializer(lambda _: kill())]).dump_json('')"
    ),
    "a finalizer": "One = type('One', (), {'__del__': lambda _: kill()}); one = One(); del one",
}
"""Places in which a signal arrives: C code may replace the handler's exception, or drop it."""


@pytest.mark.parametrize("inside", IN_C_CODE)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_block_and_runs_its_clean_up(number: int, inside: str) -> None:
    """Both signals become an exit through `finally`, which a second signal does not interrupt."""
    code = (
        "import os, signal\nfrom cli.local import processes\n"
        f"def kill(): os.kill(os.getpid(), {int(number)})\n"
        "try:\n"
        "  with processes.ending_on_signals():\n"
        f"    {IN_C_CODE[inside]}\n"
        "finally:\n"
        "  with processes.ignore_signals():\n"
        "    kill()\n"
        "    print('cleaned up')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=30
    )
    assert (ended.stdout, ended.returncode) == ("cleaned up\n", 128 + number)


def test_a_launched_module_is_the_main_one_with_its_own_arguments(tmp_path: Path) -> None:
    """Its exit code is the process's; garbage collection runs more rarely than Python's default."""
    said = "print(__name__, sys.argv[1:], gc.get_threshold()[0] > 700)"
    (tmp_path / "told.py").write_text(f"import gc, sys\n{said}\nsys.exit(7)\n")
    command = [sys.executable, "-m", "cli.launch", "told", "a b", "--c"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (7, "__main__ ['a b', '--c'] True\n"), done.stderr
