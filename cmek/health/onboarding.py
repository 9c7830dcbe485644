"""The first record of a key: what was true when its workspace was attached. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cmek.health.model import Baseline, KeyRecord, Verdict
from cmek.health.reading import UNUSABLE
from cmek.live_facts import LiveFacts


def onboarded(
    facts: LiveFacts, *, users_before: Sequence[str], run_id: str, now: datetime
) -> KeyRecord:
    """The record that later looks compare with.

    Args:
        facts: Read behind the approval, right before the attach.
        users_before: Who could decrypt with an adopted key already.
        run_id: The onboarding run.
        now: Time of the attach.
    """
    baseline = Baseline.of(
        facts.key,
        source="onboarding",
        now=now,
        decrypters=tuple(users_before),
        unusable_versions=tuple(v.id for v in facts.versions if v.state in UNUSABLE),
    )
    return KeyRecord(
        external_key_id=facts.external_key_id,
        key_name=facts.key.name,
        workspaces=(f"{facts.workspace_name} ({facts.workspace_id})",),
        verdict=Verdict.HEALTHY,
        since=now,
        checked_at=now,
        depth="full",
        run_id=run_id,
        reasons=(),
        announced=Verdict.HEALTHY,
        announced_before=Verdict.HEALTHY,
        baseline=baseline,
    )
