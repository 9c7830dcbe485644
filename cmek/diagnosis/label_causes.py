"""Causes that lie in the organization label.

Source: https://platform.claude.com/docs/en/manage-claude/cmek-google-cloud-kms
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from cmek.checks.commands import on_key
from cmek.diagnosis.key_causes import without_key
from cmek.diagnosis.model import Cause, DiagnosisFacts, KnownCause
from cmek.names import organization_label

PREFIX: Final = "anthropic-org-"
READS: Final = "GetCryptoKey, organization.me"

MISSING: Final = KnownCause("label_missing", "The organization label is missing", READS)
OTHER: Final = KnownCause("label_other_organization", "The label is another organization's", READS)
SPELLING: Final = KnownCause(
    "label_spelling", "The label is not in lower case, or its value is not `true`", READS
)


def label_missing(facts: DiagnosisFacts) -> Cause:
    """No label of any organization."""
    return _judge(facts, MISSING, lambda labels, _: not _organizations(labels))


def label_other_organization(facts: DiagnosisFacts) -> Cause:
    """Labels of other organizations only."""
    return _judge(
        facts,
        OTHER,
        lambda labels, ours: bool(_organizations(labels)) and not _spelled_otherwise(labels, ours),
    )


def label_spelling(facts: DiagnosisFacts) -> Cause:
    """Ours, but in another spelling."""
    return _judge(facts, SPELLING, _spelled_otherwise)


def _judge(
    facts: DiagnosisFacts, known: KnownCause, proves: Callable[[Mapping[str, str], str], bool]
) -> Cause:
    key, organization = facts.key, facts.organization_id
    if organization is None:
        return known.open("the organization's UUID could not be read", "try again later")
    label, value = organization_label(organization)
    command = on_key(facts.request.key_name, "update", f"--update-labels={label}={value}")
    if key is None:
        return without_key(facts, known, command)
    if key.labels.get(label) == value:
        return known.excluded(f"the key has {label}={value}")
    found = ", ".join(f"{name}={one}" for name, one in sorted(key.labels.items())) or "none"
    why = f"the key's labels: {found}; needed: {label}={value}"
    return known.proved(why, command) if proves(key.labels, label) else known.excluded(why)


def _organizations(labels: Mapping[str, str]) -> list[str]:
    return [name for name in labels if name.casefold().startswith(PREFIX)]


def _spelled_otherwise(labels: Mapping[str, str], ours: str) -> bool:
    return ours in {name.casefold() for name in labels}
