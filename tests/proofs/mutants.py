"""Run the tests of the gate, the plan and the signature check against every mutant of them.

mutmut makes and tries the mutants; `tool.mutmut` in pyproject.toml names modules and tests. It
works in a copy of the tree, since it leaves the mutated modules behind.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
NOT_COPIED: Final = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "mutants")
GOOD: Final = ("killed", "timeout", "caught_by_type_check")
"""Results of a mutant that the tests have noticed; one that never ends is noticed too."""


class UntriedError(Exception):
    """mutmut tried nothing: the tests fail without any mutant, or its settings are wrong."""


def try_all(workers: int = 2) -> dict[str, Any]:
    """How many mutants there are, how many were killed, and the survivors.

    Raises:
        UntriedError: mutmut ended before it tried them; its output is on standard error.
    """
    with tempfile.TemporaryDirectory(prefix="cmek-mutants-") as scratch:
        copy = Path(scratch) / "tree"
        shutil.copytree(ROOT, copy, ignore=NOT_COPIED)
        done = _mutmut(copy, "run", "--max-children", str(workers))
        if done.returncode:
            # what follows the spinner, which has drawn its line thousands of times
            sys.stderr.write(done.stdout.rpartition("\r")[2])
            raise UntriedError("mutmut run ended with an error")
        return summary(_mutmut(copy, "results", "--all", "true").stdout)


def summary(results: str) -> dict[str, Any]:
    """The counts in the output of `mutmut results --all true`, one `name: status` a line."""
    found = dict(line.strip().split(": ", 1) for line in results.splitlines() if ": " in line)
    left = sorted(f"{name} {what}" for name, what in found.items() if what not in GOOD)
    return {"tried": len(found), "killed": len(found) - len(left), "survivors": left}


def _mutmut(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mutmut", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )


if __name__ == "__main__":
    found = try_all(int(sys.argv[1]) if sys.argv[1:] else 2)
    sys.stdout.write(json.dumps(found) + "\n")
