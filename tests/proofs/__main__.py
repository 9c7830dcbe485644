"""`make prove`: run all proofs and print one table.

Each proof is a process of its own. Two run at a time, and besides them, from the start, the
variants, which mostly wait. A failed proof does not stop the others. Rows are also written to
`.cmek/proofs.json`, each with its seed, time and seconds; rows of other proofs stay. The exit code
is 1 when a row does not hold.
"""

from __future__ import annotations

import argparse
import json
import re
import secrets
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tests.proofs.table import ATTACKS, HEAD, PAGE, PROOFS, ProofRow, with_rows

KILLED_AT_LEAST: Final = 0.9
SCHEDULES: Final = 1_000
"""At least thirty times what the model needs to notice a missing guard (*guards taken away*).

Each run has its own seeds; `--schedules 10000` takes an hour and a half on two processors."""
WAITING: Final = "variants"
RESULTS: Final = Path(__file__).parents[2] / ".cmek/proofs.json"


class UnfinishedError(Exception):
    """A proof's process ended without a result; its error output is on standard error."""


def main() -> int:
    """Run the chosen proofs, independently of each other; returns 0 when all of them hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.proofs", description=__doc__)
    parser.add_argument("--schedules", type=int, default=SCHEDULES)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--only", nargs="*", choices=PROOFS, default=PROOFS, metavar="PROOF")
    parser.add_argument("--workers", type=int, default=2, help="processes at a time")
    parser.add_argument("--write", action="store_true", help=f"also write the rows to {PAGE.name}")
    options = parser.parse_args()
    write(f"seed {options.seed}")
    started, writing = time.monotonic(), threading.Lock()
    when = f"{datetime.now(UTC):%Y-%m-%d}, seed {options.seed}"
    took: dict[str, int] = {}

    def prove(name: str) -> ProofRow:
        begun = time.monotonic()
        try:
            row = _RUN[name](options)
        except Exception as error:  # noqa: BLE001 - a proof that breaks must not stop the others
            row = ProofRow(name, 0, 0, "finished", (f"{type(error).__name__}: {error}",))
        seconds = round(time.monotonic() - begun)
        took[name] = seconds
        with writing:  # at once, so that a run that is stopped has lost no finished row
            keep(row, options.seed, seconds)
            sys.stderr.write(f"{seconds} s: {row.line(when)}\n")
            if options.write:
                PAGE.write_text(with_rows(PAGE.read_text(), [row.line(when)]))
        return row

    at_once = options.workers + (WAITING in options.only)
    with ThreadPoolExecutor(max_workers=at_once) as pool:
        first = sorted(options.only, key=lambda name: name != WAITING)
        row_of = dict(zip(first, pool.map(prove, first), strict=True))
    rows = [row_of[name] for name in options.only]
    write("\n".join([HEAD, *(row.line(when) for row in rows)]))
    for row in rows:
        for problem in row.problems:
            write(f"\n{row.proof}: {problem}")
    each = ", ".join(f"{row.proof} {took[row.proof]} s" for row in rows)
    write(f"\nseed {options.seed}; {(time.monotonic() - started) / 60:.0f} minutes: {each}")
    return 0 if all(row.passed for row in rows) else 1


def keep(row: ProofRow, seed: int, seconds: int, file: Path = RESULTS) -> None:
    """Write one row, replacing an older one of the same proof; rows of others stay."""
    file.parent.mkdir(exist_ok=True)
    kept: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    facts = {"passed": row.passed, "seed": seed, "seconds": seconds}
    kept[row.proof] = asdict(row) | facts | {"at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}
    file.write_text(json.dumps(kept, indent=2) + "\n")


def schedules(options: argparse.Namespace) -> ProofRow:
    """The model, in two processes with seeds of their own."""
    half = options.schedules // 2
    parts = ((half, options.seed), (options.schedules - half, options.seed + 1))
    with ThreadPoolExecutor(max_workers=min(2, options.workers)) as pool:
        tallies = list(
            pool.map(lambda part: _json("tests.proofs.schedules", *map(str, part)), parts)
        )
    flaky = tuple(found for one in tallies if (found := one.pop("flaky")))
    total = sum(map(Counter, tallies), Counter[str]())
    counts = ", ".join(f"{total[name]} {name}" for name in ("executions", "attach requests"))
    tried, unsafe = total["schedules"], total["unsafe"]
    good = tried - unsafe if tried >= options.schedules else 0
    return ProofRow("schedules", tried, good, f"safe, {unsafe} unsafe ({counts})", flaky)


def attacks(options: argparse.Namespace) -> ProofRow:
    """Attack tests, each a case, with the variants that `make test` leaves out."""
    del options
    return _tested("attacks", "refused", "-m", "prove or not prove", *ATTACKS)


def variants(options: argparse.Namespace) -> ProofRow:
    """The other tests that `make test` leaves out, mostly those of flows on a real server."""
    del options
    others = [f"--ignore={one}" for one in (*ATTACKS, "tests/proofs")]  # rows of their own
    return _tested("variants", "passed", "-m", "prove", *others)


def _tested(proof: str, result: str, *arguments: str) -> ProofRow:
    said = _run("pytest", "-q", "-rsfE", "-p", "no:cacheprovider", *arguments)
    closing = (said.splitlines() or [""])[-1]
    passed, failed, wrong = (_number(closing, word) for word in ("passed", "failed", "error"))
    problems = tuple(line for line in said.splitlines() if line.startswith(("FAILED", "ERROR")))
    skipped = [line for line in said.splitlines() if line.startswith("SKIPPED")]
    # the reason of a failure is printed in full, since to see it again takes an hour
    sys.stderr.write(said if failed or wrong else "".join(f"{proof}: {one}\n" for one in skipped))
    return ProofRow(proof, passed + failed + wrong, passed, result, problems)


def mutants(options: argparse.Namespace) -> ProofRow:
    """Mutants of the gate, the plan and the signature check."""
    found = _json("tests.proofs.mutants", str(options.workers))
    left = tuple(found["survivors"])
    return ProofRow("mutants", found["tried"], found["killed"], "killed", left, KILLED_AT_LEAST)


def _counted(proof: str, result: str, *modules: str) -> Callable[[argparse.Namespace], ProofRow]:
    """A proof whose modules report how many cases they tried, and the problem of each bad one."""

    def prove(options: argparse.Namespace) -> ProofRow:
        with ThreadPoolExecutor(max_workers=min(2, options.workers)) as pool:
            found = list(pool.map(lambda one: _json(*one.split(), str(options.seed)), modules))
        tried = sum(one["tried"] for one in found)
        problems = tuple(problem for one in found for problem in one["problems"])
        medians = {guard: after for one in found for guard, after in one.get("medians", {}).items()}
        after = ", ".join(f"{guard} {number}" for guard, number in medians.items())
        said = f"{result} (median schedules: {after})" if after else result
        return ProofRow(proof, tried, tried - len(problems), said, problems)

    return prove


def prefect_attacks(options: argparse.Namespace) -> ProofRow:
    """What a writer to Prefect's API can attach, on a production machine with a gateway."""
    del options
    found = _json("tests.proofs.prefect_attacks")
    ran, files = len(found["executed"]), found["files"]
    said = f"refused, or signed by name; {ran} payloads executed as the worker, {files} files read"
    problems = tuple(found["problems"])
    tried = found["tried"]
    return ProofRow("attacks by Prefect's API", tried, tried - len(problems), said, problems)


_IN_PROCESS: Final = "tests.proofs.crash_and_fault"
_RED_TEAM: Final = "tests.proofs.red_team"
_RUN: Final[dict[str, Callable[[argparse.Namespace], ProofRow]]] = {
    "crash points": _counted("crash points", "converged", f"{_IN_PROCESS} crashes"),
    "fault scripts": _counted(
        "fault scripts", "survived", f"{_IN_PROCESS} faults", f"{_IN_PROCESS} more-faults"
    ),
    "combinations of faults": _counted(
        "combinations of faults", "survived", f"{_IN_PROCESS} combinations"
    ),
    "schedules": schedules,
    "guards taken away": _counted(
        "guards taken away",
        "noticed by the model, each under 19 of 20 seeds",
        "tests.proofs.weakened",
    ),
    "attacks on the gateway": _counted(
        "attacks on the gateway", "refused, or signed by name", f"{_RED_TEAM} attacks"
    ),
    "guards of the gateway": _counted(
        "guards of the gateway", "noticed, each under 19 of 20 seeds", f"{_RED_TEAM} guards"
    ),
    "attacks by Prefect's API": prefect_attacks,
    "processes killed": _counted("processes killed", "converged", "tests.proofs.kills"),
    "outages": _counted("outages", "converged", "tests.proofs.outages"),
    "drill": _counted("drill", "times measured, within their limits", "tests.proofs.drill"),
    "attacks": attacks,
    "variants": variants,
    "mutants": mutants,
}


def _json(*arguments: str) -> dict[str, Any]:
    last = _run(*arguments).strip().splitlines()[-1:]
    try:
        found: dict[str, Any] = json.loads(last[0])
    except (IndexError, ValueError):
        raise UnfinishedError(f"{' '.join(arguments)} ended without a result") from None
    return found


def _run(module: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "cli.launch", module, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.stdout


def _number(closing: str, word: str) -> int:
    found = re.search(rf"(\d+) {word}", closing)
    return int(found[1]) if found else 0


def write(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
