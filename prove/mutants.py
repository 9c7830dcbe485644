"""Run the tests of the gate, the plan and the signature check against every mutant of them.

Each mutant is tried in a fork of a process that has imported the libraries already.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Final

import pytest
from hypothesis import settings

from prove.mutations import Mutant, mutants_of

ROOT: Final = Path(__file__).parents[1]
TESTS: Final = {
    "cmek.gate": ("test_gate.py", "test_gate_new_workspace.py", "test_signatures_gate.py"),
    "cmek.plan": ("test_plan.py", "test_gate.py"),
    "cmek.signatures.statement": ("test_signatures.py", "test_signatures_gate.py", "test_gate.py"),
    "cmek.signatures.signers": ("test_signatures_signers.py", "test_gate.py"),
    "cmek.signatures.keygen": ("test_signatures.py", "test_signatures_signers.py", "test_gate.py"),
    "cmek.signatures.weighing": ("test_signatures_gate.py", "test_gate.py"),
}
"""Module and the unit tests that must notice any change of it."""
EXPLAINED: Final = {
    "70 changed": "the width of an armored signature; OpenSSH reads any",
}
"""Survivors that change nothing that anyone could see: a mutant without its line, and why."""


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


def try_all(workers: int = 2) -> dict[str, object]:
    """How many mutants there are, how many were killed, and the survivors."""
    _warm_up()
    mutants = [one for module in TESTS for one in mutants_of(ROOT, module)]
    running: dict[int, Mutant] = {}
    survivors: list[str] = []
    for number, mutant in enumerate(mutants):
        if not number % 10:
            sys.stderr.write(f"{number} of {len(mutants)} mutants\n")
        if len(running) == workers:
            survivors += _reap(running)
        pid = os.fork()
        if pid == 0:
            _try(mutant)
        running[pid] = mutant
    while running:
        survivors += _reap(running)
    alike = [one for one in survivors if any(known in one for known in EXPLAINED)]
    return {
        "tried": len(mutants) - len(alike),
        "killed": len(mutants) - len(survivors),
        "explained": sorted(alike),
        "survivors": sorted(set(survivors) - set(alike)),
    }


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
    code = 1
    try:
        code = _test(*TESTS[mutant.module])
    finally:
        os._exit(code)


def _warm_up() -> None:
    """Run the tests unmutated: they must pass, and all forks have the libraries then.

    Raises:
        SystemExit: They fail already, so that nothing could be learned.
    """
    with redirect_stdout(sys.stderr):
        code = _test(*sorted({name for names in TESTS.values() for name in names}))
    if code:
        raise SystemExit("the tests fail without any mutant")


def _test(*names: str) -> int:
    settings.register_profile("mutants", max_examples=40, derandomize=True, database=None)
    settings.load_profile("mutants")
    files = [str(ROOT / "tests/cmek" / name) for name in names]
    return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--timeout=20", *files]))


if __name__ == "__main__":
    found = try_all(int(sys.argv[1]) if sys.argv[1:] else 2)
    sys.stdout.write(json.dumps(found) + "\n")
