"""The `cmek` command as a user runs it: as a process, with or without a terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from cli.main import LazyCommand, command, main

CMEK = str(Path(sys.executable).with_name("cmek"))
SECONDS = 200


def leaf_commands() -> dict[str, Any]:
    """Every command that is not a group, by its full name, such as `policy show`."""
    found: dict[str, Any] = {}
    for name, one in command.commands.items():
        assert isinstance(one, LazyCommand)
        loaded = one.load()
        below = getattr(loaded, "commands", None)
        found |= {f"{name} {each}": below[each] for each in below} if below else {name: loaded}
    return found


def exit_code(*arguments: str) -> int:
    """Run `cmek` in this process; returns its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """A user's environment with an empty home and nothing else of this machine."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "TMPDIR": str(home),
        "PREFECT_HOME": str(home / "prefect"),
        "LANG": "C.UTF-8",
        "DO_NOT_TRACK": "1",
        **{name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
        **more,
    }


def cmek(
    *arguments: str, environment: Mapping[str, str], directory: Path
) -> subprocess.CompletedProcess[str]:
    """Run `cmek` to its end, without a terminal."""
    return subprocess.run(
        [CMEK, *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        cwd=directory,
        timeout=SECONDS,
        stdin=subprocess.DEVNULL,
    )


def cmek_in_terminal(
    arguments: Sequence[str],
    replies: Sequence[tuple[str, str]],
    *,
    environment: Mapping[str, str],
    directory: Path,
) -> tuple[int, str]:
    """Run `cmek` in a terminal and type each reply when its question appears: `in_terminal`."""
    return in_terminal([CMEK, *arguments], replies, environment=environment, directory=directory)


def in_terminal(
    command: Sequence[str],
    replies: Sequence[tuple[str, str]],
    *,
    environment: Mapping[str, str],
    directory: Path,
) -> tuple[int, str]:
    """Run a command in a terminal of its own and type each reply when its question appears.

    Args:
        command: Program and arguments.
        replies: Pairs of a text to wait for on the screen and the reply to type then, in order.
        environment: Its environment.
        directory: Its working directory.

    Returns:
        The exit code and all that was on the screen.
    """
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", *command],  # so that `/dev/tty` is this terminal
        env={**environment, "TERM": "xterm", "COLUMNS": "200"},
        cwd=directory,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    try:
        screen = _converse(process, ours, list(replies))
        return process.wait(10), screen
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _converse(process: subprocess.Popen[bytes], ours: int, replies: list[tuple[str, str]]) -> str:
    screen, seen = "", 0
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if replies and replies[0][0] in screen[seen:]:
            seen = len(screen)
            os.write(ours, f"{replies.pop(0)[1]}\n".encode())
        ready, _, _ = select.select([ours], [], [], 0.2)
        chunk = b""
        with contextlib.suppress(OSError):  # a closed terminal, once the process has ended
            chunk = os.read(ours, 65536) if ready else b""
        screen += chunk.decode(errors="replace")
        if process.poll() is not None and not chunk:
            return screen
    raise AssertionError(f"cmek did not end; screen:\n{screen}\nstill to type: {replies}")
