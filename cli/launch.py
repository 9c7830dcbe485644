"""`python -m cli.launch MODULE [ARGUMENT ...]`: as `python -m MODULE`, with a quicker start.

Importing Prefect and Google's libraries makes 190,000 objects that stay. Python's garbage collector
scans them again and again, and once more at exit, and frees almost nothing: that is a quarter of
the processor time of a short process.
"""

from __future__ import annotations

import atexit
import gc
import runpy
import sys
from typing import Final

_NEW_OBJECTS: Final = 50_000
"""Allocations between two collections; Python's default is 700."""


def collect_rarely() -> None:
    """Collect garbage rarely from here on, and not at exit."""
    gc.set_threshold(_NEW_OBJECTS, 20, 50)
    atexit.register(gc.freeze)


def main() -> None:
    """Run the module that the first argument names, with the other arguments."""
    del sys.argv[0]
    collect_rarely()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
