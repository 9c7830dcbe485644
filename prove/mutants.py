"""Run the tests of the gate, the plan and the signature check against every mutant of them.

Each mutant is tried in a fork of a process that has imported the libraries already.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Final

import pytest

from prove.mutations import Mutant, mutants_of

ROOT: Final = Path(__file__).parents[1]
MODULES: Final = (
    "cmek.gate",
    "cmek.plan",
    "cmek.signatures.statement",
    "cmek.signatures.signers",
    "cmek.signatures.keygen",
    "cmek.signatures.weighing",
)
TESTS: Final = ("test_gate.py", "test_plan.py", "test_signatures*.py")
EXPLAINED: Final[dict[str, str]] = {}
"""Survivors that change nothing that anyone could see: a part of their name, and why."""


class _Loader(SourceFileLoader):
    def __init__(self, mutant: Mutant) -> None:
        super().__init__(mutant.module, str(mutant.path))
        self._mutant = mutant

    def get_code(self, fullname: str) -> CodeType:
        del fullname
        return compile(self._mutant.tree, str(self._mutant.path), "exec")


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if fullname != self._mutant.module:
            return None
        loader = _Loader(self._mutant)
        return importlib.util.spec_from_file_location(fullname, self._mutant.path, loader=loader)


def try_all(workers: int = 2) -> tuple[int, int, list[str]]:
    """How many mutants there are, how many were killed, and the survivors."""
    _warm_up()
    mutants = [one for module in MODULES for one in mutants_of(ROOT, module)]
    running: dict[int, Mutant] = {}
    survivors: list[str] = []
    for mutant in mutants:
        if len(running) == workers:
            survivors += _reap(running)
        pid = os.fork()
        if pid == 0:
            _try(mutant)
        running[pid] = mutant
    while running:
        survivors += _reap(running)
    return len(mutants), len(mutants) - len(survivors), sorted(survivors)


def _reap(running: dict[int, Mutant]) -> list[str]:
    pid, status = os.wait()
    mutant = running.pop(pid)
    if os.waitstatus_to_exitcode(status) != 0:
        return []
    sys.stderr.write(f"survived: {mutant}\n")
    return [str(mutant)]


def _try(mutant: Mutant) -> None:
    """In the child: exit with what the tests say."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    for name in [name for name in sys.modules if name.partition(".")[0] in {"cmek", "tests"}]:
        del sys.modules[name]
    sys.meta_path.insert(0, _Finder(mutant))
    files = [str(path) for name in TESTS for path in sorted((ROOT / "tests/cmek").glob(name))]
    code = 1
    try:
        code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--timeout=20", *files])
    finally:
        os._exit(int(code))


def _warm_up() -> None:
    importlib.import_module("cmek.gate")  # its libraries, once for all forks


if __name__ == "__main__":
    total, killed, left = try_all()
    found = {"tried": total, "killed": killed, "survivors": left}
    sys.stdout.write(json.dumps(found) + "\n")
