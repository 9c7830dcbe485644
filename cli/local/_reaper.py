"""Clean up after a stack whose owner has ended, in whatever way. Run as a child process.

The owner holds the other end of standard input. When that closes, because the owner is done or
was killed, the remaining processes are killed and the folders are removed.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

from cli.local import postgres
from cli.local.processes import STOP_SECONDS, StackError, kill_orphans


class Reaper:
    """Cleans up one stack from a process of its own: its home and the folder of its PostgreSQL."""

    def __init__(self, home: Path, database: Path | None = None) -> None:
        """Start it."""
        self._folders = [str(one) for one in (home, database) if one is not None]
        self._process = subprocess.Popen(
            # -P: not the modules of the folder in which a person has started the stack
            [sys.executable, "-P", "-m", "cli.local._reaper", *self._folders],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def finish(self) -> None:
        """Have the folders removed, and wait for that.

        Raises:
            StackError: they may still be there, and PostgreSQL may still run.
        """
        self._process.communicate(timeout=2 * STOP_SECONDS)
        if self._process.returncode:
            raise StackError(f"not everything was cleaned up: look at {', '.join(self._folders)}")


def main(home: Path, database: Path | None = None) -> None:
    """Wait for the owner's end, then clean up."""
    # a signal to all processes must not end the one that cleans up after them
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    if database is not None:
        postgres.stop(database)
    kill_orphans("PREFECT_HOME", str(home / "prefect"))
    for folder in (home, database):
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
