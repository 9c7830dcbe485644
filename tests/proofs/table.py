"""The table of the proofs: what was tried, what held, and when; printed and stored in the docs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PAGE: Final = Path(__file__).parents[2] / "docs/security.md"
BEGIN: Final = "<!-- written by `python -m tests.proofs --write` -->"
END: Final = "<!-- end -->"
HEAD: Final = "| proof | tried | result | holds | when |\n|---|---|---|---|---|"
PROOFS: Final = (
    "crash points",
    "fault scripts",
    "combinations of faults",
    "schedules",
    "guards taken away",
    "attacks on the gateway",
    "guards of the gateway",
    "attacks by Prefect's API",
    "processes killed",
    "outages",
    "drill",
    "attacks",
    "variants",
    "mutants",
)
"""First cell of each row, in order."""
ATTACKS: Final = (
    "tests/flows/test_approval_attacks.py",
    "tests/flows/test_born_attacks.py",
    "tests/flows/test_signed_approvals.py",
    "tests/flows/test_changes_while_waiting.py",
    "tests/flows/test_signing_command.py",
    "tests/cmek/test_signatures.py",
    "tests/cmek/test_signatures_gate.py",
    "tests/cmek/test_signatures_signers.py",
)
"""Files of tests, each of whose cases is an attack."""


@dataclass(frozen=True, slots=True)
class ProofRow:
    """One line of the table."""

    proof: str
    tried: int
    good: int
    result: str
    """What the good cases did, e.g. `converged`."""
    problems: tuple[str, ...] = ()
    enough: float = 1.0
    """The share that must be good."""

    @property
    def passed(self) -> bool:
        """Whether the proof holds."""
        return self.tried > 0 and self.good >= self.enough * self.tried

    def line(self, when: str) -> str:
        """The row as it is in the table."""
        verdict = "yes" if self.passed else "NO"
        return f"| {self.proof} | {self.tried} | {self.good} {self.result} | {verdict} | {when} |"


def rows_on(page: str) -> dict[str, str]:
    """First cell and line of each row of a page's table.

    Raises:
        ValueError: The page has no table of proofs.
    """
    _, _, rest = page.partition(BEGIN)
    table, end, _ = rest.partition(END)
    if not end:
        raise ValueError(f"the page has no table between {BEGIN} and {END}")
    lines = [line for line in table.strip().splitlines()[2:] if line]
    return {line.split("|")[1].strip(): line for line in lines}


def with_rows(page: str, lines: Iterable[str]) -> str:
    """The page with these rows, replacing older ones of the same proofs; other rows stay."""
    kept = rows_on(page) | {line.split("|")[1].strip(): line for line in lines}
    table = "\n".join([HEAD, *(kept[name] for name in PROOFS if name in kept)])
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"
