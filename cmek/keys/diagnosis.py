"""The diagnosis of a failed validation or attach: read everything again, then rank the causes.

Source: https://platform.claude.com/docs/en/manage-claude/cmek-troubleshooting
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cmek._http import try_read
from cmek.keys import rules_anthropic, rules_iam, rules_key, rules_versions
from cmek.keys.reader import Clients, read_findings
from cmek.keys.rules import Cause, CauseRule, DiagnosisFacts, KnownCause
from cmek.onboarding.request import OnboardingRequest

CAUSES: Final[tuple[tuple[KnownCause, CauseRule], ...]] = (
    (rules_anthropic.WORKSPACE_POLICY, rules_anthropic.workspace_policy),
    (rules_anthropic.KEY_PROFILE, rules_anthropic.key_profile),
    (rules_anthropic.KEY_CHANGED, rules_anthropic.external_key_changed),
    (rules_anthropic.PROJECT, rules_anthropic.project_inactive),
    (rules_anthropic.API_OFF, rules_anthropic.kms_api_off),
    (rules_anthropic.BILLING_OFF, rules_anthropic.billing_off),
    (rules_key.EXTERNAL_GONE, rules_key.external_key_gone),
    (rules_key.OTHER_NAME, rules_key.other_key_name),
    (rules_key.KEY_DELETED, rules_key.key_deleted),
    (rules_key.WRONG_LOCATION, rules_key.location_cause),
    (rules_key.WRONG_PURPOSE, rules_key.wrong_purpose),
    *rules_versions.PRIMARY_CAUSES,
    (rules_key.LABEL_MISSING, rules_key.label_missing_cause),
    (rules_key.OTHER, rules_key.label_other_organization),
    (rules_key.SPELLING, rules_key.label_spelling),
    (rules_iam.CONDITIONAL, rules_iam.grant_conditional_cause),
    (rules_iam.WRONG_MEMBER, rules_iam.grant_wrong_member),
    (rules_iam.SHARING, rules_iam.domain_sharing),
    (rules_iam.ENCRYPTER, rules_iam.encrypter_missing),
    (rules_iam.VIEWER_MISSING, rules_iam.viewer_missing),
    (rules_iam.WRONG_LEVEL, rules_iam.grant_wrong_level),
    (rules_key.JUSTIFICATIONS_DENY, rules_key.justifications),
    (rules_iam.IAM_PROPAGATION, rules_iam.iam_propagation),
    (rules_anthropic.PERIMETER, rules_anthropic.perimeter),
    (rules_key.EXTERNAL_KEY_MANAGER, rules_key.external_key_manager),
    (rules_anthropic.DENY_POLICY, rules_anthropic.deny_policy),
    (rules_anthropic.ANTHROPIC, rules_anthropic.anthropic_side),
)
"""In order of rank: a cause that explains others comes before them."""

_ORDER: Final = {"proved": 0, "open": 1, "excluded": 2}


def diagnose(facts: DiagnosisFacts) -> tuple[Cause, ...]:
    """Every known cause: proved, then open, then excluded ones, each in order of rank."""
    causes = [rule(facts) for _, rule in CAUSES]
    # a stable sort, so that `CAUSES` gives the order among equals
    return tuple(sorted(causes, key=lambda cause: _ORDER[cause.verdict]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What is known about the failed validation or attach."""

    external_key_id: str | None = None
    """The external key that failed; None when none is registered."""
    granted_at: datetime | None = None
    """When the newest grant was written; None when not known."""
    error_code: str | None = None
    """Of a refused attach."""
    request_id: str | None = None


async def gather_facts(
    request: OnboardingRequest, failure: Failure, clients: Clients
) -> DiagnosisFacts:
    """Read everything again after a failure; a cause stays open if its read was refused."""
    key_id = failure.external_key_id
    async with asyncio.TaskGroup() as group:
        findings = group.create_task(read_findings(request, clients))
        read = try_read(clients.admin.external_keys.retrieve(key_id)) if key_id else None
        external = group.create_task(read) if read else None
    return DiagnosisFacts(
        request=request,
        findings=findings.result(),
        external_key_id=key_id,
        external_key=external.result() if external else None,
        granted_at=failure.granted_at,
        now=datetime.now(UTC),
        error_code=failure.error_code,
        request_id=failure.request_id,
    )
