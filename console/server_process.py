"""`python -m console.server_process`: Prefect's server on SQLite, without standing still for 60 s.

Python's cyclic collector works in whatever thread it strikes. A forgotten `sqlite3.Cursor` that it
frees waits for its connection's lock; when that connection waits for SQLite's write lock, whose
holder waits for the event loop, and the collector has struck in the event loop, nothing moves until
SQLite's time to wait is over. So it has a thread of its own here, which alone waits.
"""

from __future__ import annotations

import gc
import itertools
import runpy
import sys
import threading
import time
from typing import Final

_EVERY_SECONDS: Final = 1.0
_FULL_EVERY: Final = 60
"""Turns after which old objects are looked at, too."""


def collect_aside() -> None:
    """Let nothing but a thread of its own collect cyclic garbage, for the rest of the process."""
    gc.disable()
    threading.Thread(target=_collect, name="garbage collector", daemon=True).start()


def _collect() -> None:
    for turn in itertools.count(1):
        time.sleep(_EVERY_SECONDS)
        gc.collect(1 if turn % _FULL_EVERY else 2)


if __name__ == "__main__":
    collect_aside()
    sys.argv = ["prefect", "server", "start"]
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)
