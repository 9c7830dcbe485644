"""Cleans up after a stack whose owner is gone, however it went. Run as a child process.

The owner holds the other end of standard input. When that closes, because the owner is done or
was killed, what is left of the stack is killed and its home removed.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

from console.processes import STOP_SECONDS, kill_strays


class Guardian:
    """Watches over one home from a process of its own."""

    def __init__(self, home: Path) -> None:
        """Start watching."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "console.guardian", str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def finish(self) -> None:
        """Have the home removed, and wait for that."""
        self._process.communicate(timeout=2 * STOP_SECONDS)


def main(home: Path) -> None:
    """Wait for the owner's end, then clean up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    kill_strays("PREFECT_HOME", str(home / "prefect"))
    shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
