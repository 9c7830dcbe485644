"""`make prove`: run all proofs and print one table.

Each proof is a process of its own; two run at a time. Exit code 1 when one found something.
"""

from __future__ import annotations

import argparse
import json
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

ATTACKS: Final = (
    "tests/flows/test_approval_attacks.py",
    "tests/flows/test_signed_approvals.py",
    "tests/flows/test_changes_while_waiting.py",
    "tests/flows/test_signing_command.py",
    "tests/cmek/test_signatures.py",
    "tests/cmek/test_signatures_gate.py",
    "tests/cmek/test_signatures_signers.py",
)
KILLED_AT_LEAST: Final = 0.9


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    proof: str
    tried: int
    good: int
    word: str
    problems: tuple[str, ...] = ()
    enough: float = 1.0

    @property
    def passed(self) -> bool:
        """Whether nothing was found."""
        return self.tried > 0 and self.good >= self.enough * self.tried

    def __str__(self) -> str:
        verdict = "yes" if self.passed else "NO"
        return f"| {self.proof} | {self.tried} | {self.good} {self.word} | {verdict} |"


def main() -> int:
    """Run what was asked for; 0 when all of it holds."""
    parser = argparse.ArgumentParser(prog="python -m prove", description=__doc__)
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--only", nargs="*", choices=sorted(PROOFS), default=sorted(PROOFS))
    options = parser.parse_args()
    started = time.monotonic()
    with ThreadPoolExecutor(max_workers=2) as pool:
        chosen = [(name, half) for name in options.only for half in PROOFS[name]]
        rows = list(pool.map(lambda one: one[1](options), chosen))
    write(f"# {datetime.now(UTC):%Y-%m-%d}, seed {options.seed}\n")
    write("| proof | tried | result | holds |\n|---|---|---|---|")
    for row in rows:
        write(str(row))
    for row in rows:
        for problem in row.problems:
            write(f"\n{row.proof}: {problem}")
    write(f"\n{(time.monotonic() - started) / 60:.0f} minutes")
    return 0 if all(row.passed for row in rows) else 1


def crashes(options: argparse.Namespace) -> Row:
    """Every outside call, without a server."""
    del options
    return _all_good("crash points, converged", _json("prove.crash_and_fault", "crashes"))


def faults(options: argparse.Namespace) -> Row:
    """Every fault at every call."""
    del options
    return _all_good("fault scripts, survived", _json("prove.crash_and_fault", "faults"))


def kills(options: argparse.Namespace) -> Row:
    """Real processes and a real server."""
    del options
    return _all_good("processes killed (SIGKILL), converged", _json("prove.kills"))


def schedules_a(options: argparse.Namespace) -> Row:
    """The first half of the schedules."""
    return _schedules(options.schedules // 2, options.seed)


def schedules_b(options: argparse.Namespace) -> Row:
    """The other half."""
    return _schedules(options.schedules - options.schedules // 2, options.seed + 1)


def attacks(options: argparse.Namespace) -> Row:
    """Attack tests, each a case."""
    del options
    said = _run("-m", "pytest", "-q", "-p", "no:cacheprovider", *ATTACKS)
    passed, failed = (_number(said, word) for word in ("passed", "failed"))
    problems = tuple(line for line in said.splitlines() if line.startswith("FAILED"))
    return Row("attacks, refused", passed + failed, passed, "refused", problems)


def mutants(options: argparse.Namespace) -> Row:
    """Mutants of the gate, the plan and the signature check."""
    del options
    found = _json("prove.mutants")
    left = tuple(found["survivors"])
    return Row("mutants", found["tried"], found["killed"], "killed", left, KILLED_AT_LEAST)


def _schedules(count: int, seed: int) -> Row:
    tally = _json("prove.schedules", str(count), str(seed))
    tried, unsafe = tally["schedules"], tally["unsafe"]
    told = ", ".join(f"{tally.get(n, 0)} {n}" for n in ("executions", "attach requests", "Crashed"))
    name = f"schedules (seed {seed}: {told}), safe"
    return Row(name, tried, tried - unsafe, f"safe, {unsafe} unsafe")


def _all_good(proof: str, found: Mapping[str, Any]) -> Row:
    problems = tuple(found["problems"])
    name, _, word = proof.partition(", ")
    return Row(name, found["tried"], found["tried"] - len(problems), word, problems)


def _json(*arguments: str) -> dict[str, Any]:
    last = _run("-m", *arguments).strip().splitlines()[-1:]
    try:
        found: dict[str, Any] = json.loads(last[0])
    except (IndexError, ValueError):
        raise SystemExit(f"{' '.join(arguments)} ended without a result; run it alone") from None
    return found


def _run(*arguments: str) -> str:
    done = subprocess.run(  # noqa: S603 - this interpreter and our own modules
        [sys.executable, *arguments], stdout=subprocess.PIPE, text=True, check=False
    )
    return done.stdout


def _number(said: str, word: str) -> int:
    found = re.findall(rf"(\d+) {word}", said)
    return int(found[-1]) if found else 0


def write(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


PROOFS: Final = {
    "attacks": (attacks,),
    "crashes": (crashes,),
    "faults": (faults,),
    "kills": (kills,),
    "mutants": (mutants,),
    "schedules": (schedules_a, schedules_b),
}

if __name__ == "__main__":
    raise SystemExit(main())
