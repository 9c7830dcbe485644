"""The shape of a rule: a pure function from a reading to the reasons that it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from cmek.health.model import Reason, Severity, Verdict
from cmek.health.reading import KeyReading

Part = Literal["name", "key", "versions", "policy"]
"""What a rule needs to have been read; the registered name always is."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule's function says; the rule itself adds its name, level and benchmark."""

    says: str
    commands: tuple[str, ...] = ()
    subject: str = ""
    since: datetime | None = None
    final_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, and the test that it runs on a reading whose part was read."""

    id: str
    means: Verdict
    severity: Severity
    part: Part
    look: Callable[[KeyReading], Iterator[Finding]]
    benchmark: str | None = None

    def judge(self, reading: KeyReading) -> Iterator[Reason]:
        """The reasons that this rule gives."""
        for finding in self.look(reading):
            yield Reason(
                rule=self.id,
                means=self.means,
                severity=self.severity,
                benchmark=self.benchmark,
                says=finding.says,
                subject=finding.subject,
                commands=finding.commands,
                since=finding.since,
                final_at=finding.final_at,
            )
