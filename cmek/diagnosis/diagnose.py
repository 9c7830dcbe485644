"""The ranked list of causes. Pure."""

from __future__ import annotations

from typing import Final

from cmek.diagnosis import grant_causes, key_causes, label_causes, outer_causes
from cmek.diagnosis.model import Cause, DiagnosisFacts, KnownCause, Rule

TABLE: Final[tuple[tuple[KnownCause, Rule], ...]] = (
    (outer_causes.WORKSPACE_POLICY, outer_causes.workspace_policy),
    (outer_causes.KEY_PROFILE, outer_causes.key_profile),
    (outer_causes.KEY_CHANGED, outer_causes.external_key_changed),
    (outer_causes.PROJECT, outer_causes.project_inactive),
    (outer_causes.API_OFF, outer_causes.kms_api_off),
    (outer_causes.BILLING_OFF, outer_causes.billing_off),
    (key_causes.EXTERNAL_GONE, key_causes.external_key_gone),
    (key_causes.OTHER_NAME, key_causes.other_key_name),
    (key_causes.KEY_DELETED, key_causes.key_deleted),
    (key_causes.LOCATION, key_causes.wrong_location),
    (key_causes.PURPOSE, key_causes.wrong_purpose),
    *key_causes.PRIMARY,
    (label_causes.MISSING, label_causes.label_missing),
    (label_causes.OTHER, label_causes.label_other_organization),
    (label_causes.SPELLING, label_causes.label_spelling),
    (grant_causes.CONDITIONAL, grant_causes.grant_conditional),
    (grant_causes.WRONG_MEMBER, grant_causes.grant_wrong_member),
    (grant_causes.SHARING, grant_causes.domain_sharing),
    (grant_causes.ENCRYPTER, grant_causes.encrypter_missing),
    (grant_causes.VIEWER_MISSING, grant_causes.viewer_missing),
    (grant_causes.WRONG_LEVEL, grant_causes.grant_wrong_level),
    (key_causes.JUSTIFICATIONS, key_causes.justifications),
    (grant_causes.UNSETTLED, grant_causes.iam_settling),
    (outer_causes.PERIMETER, outer_causes.perimeter),
    (key_causes.OUTSIDE, key_causes.outside_backend),
    (outer_causes.DENY_POLICY, outer_causes.deny_policy),
    (outer_causes.ANTHROPIC, outer_causes.anthropic_side),
)
"""Most telling first: what explains the others stands before them."""

_ORDER: Final = {"proved": 0, "open": 1, "excluded": 2}


def diagnose(facts: DiagnosisFacts) -> tuple[Cause, ...]:
    """Every known cause: proved ones first, then open ones, most likely first, then the rest."""
    causes = [rule(facts) for _, rule in TABLE]
    return tuple(sorted(causes, key=lambda cause: _ORDER[cause.verdict]))
