"""The ranked list of causes. Pure.

Read what the diagnosis needs: the checks' reads and the external key. Writes nothing.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cmek._http import try_read
from cmek.anthropic.client import AdminApi
from cmek.gcp.kms import CloudKms
from cmek.gcp.project_apis import GoogleReads
from cmek.keys import rules_anthropic as outer_causes
from cmek.keys import rules_iam as grant_causes
from cmek.keys import rules_key as key_causes
from cmek.keys import rules_key as label_causes
from cmek.keys.reader import Clients, read_findings
from cmek.keys.rules import Cause, CauseRule, DiagnosisFacts, KnownCause
from cmek.onboarding.request import OnboardingRequest

CAUSES: Final[tuple[tuple[KnownCause, CauseRule], ...]] = (
    (outer_causes.WORKSPACE_POLICY, outer_causes.workspace_policy),
    (outer_causes.KEY_PROFILE, outer_causes.key_profile),
    (outer_causes.KEY_CHANGED, outer_causes.external_key_changed),
    (outer_causes.PROJECT, outer_causes.project_inactive),
    (outer_causes.API_OFF, outer_causes.kms_api_off),
    (outer_causes.BILLING_OFF, outer_causes.billing_off),
    (key_causes.EXTERNAL_GONE, key_causes.external_key_gone),
    (key_causes.OTHER_NAME, key_causes.other_key_name),
    (key_causes.KEY_DELETED, key_causes.key_deleted),
    (key_causes.WRONG_LOCATION, key_causes.location_cause),
    (key_causes.WRONG_PURPOSE, key_causes.wrong_purpose),
    *key_causes.PRIMARY_CAUSES,
    (label_causes.MISSING, label_causes.label_missing_cause),
    (label_causes.OTHER, label_causes.label_other_organization),
    (label_causes.SPELLING, label_causes.label_spelling),
    (grant_causes.CONDITIONAL, grant_causes.grant_conditional_cause),
    (grant_causes.WRONG_MEMBER, grant_causes.grant_wrong_member),
    (grant_causes.SHARING, grant_causes.domain_sharing),
    (grant_causes.ENCRYPTER, grant_causes.encrypter_missing),
    (grant_causes.VIEWER_MISSING, grant_causes.viewer_missing),
    (grant_causes.WRONG_LEVEL, grant_causes.grant_wrong_level),
    (key_causes.JUSTIFICATIONS_DENY, key_causes.justifications),
    (grant_causes.IAM_PROPAGATION, grant_causes.iam_propagation),
    (outer_causes.PERIMETER, outer_causes.perimeter),
    (key_causes.EXTERNAL_KEY_MANAGER, key_causes.external_key_manager),
    (outer_causes.DENY_POLICY, outer_causes.deny_policy),
    (outer_causes.ANTHROPIC, outer_causes.anthropic_side),
)
"""Most telling first: what explains the others stands before them."""

_ORDER: Final = {"proved": 0, "open": 1, "excluded": 2}


def diagnose(facts: DiagnosisFacts) -> tuple[Cause, ...]:
    """Every known cause: proved ones first, then open ones, most likely first, then the rest."""
    causes = [rule(facts) for _, rule in CAUSES]
    return tuple(sorted(causes, key=lambda cause: _ORDER[cause.verdict]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What is known about the failed validation or attach."""

    external_key_id: str | None = None
    """The external key that failed, if one is registered."""
    granted_at: datetime | None = None
    """When the newest grant was written, if that is known."""
    error_code: str | None = None
    """Of the refused attach, if it was one."""
    request_id: str | None = None


async def gather_facts(
    request: OnboardingRequest,
    failure: Failure,
    *,
    admin: AdminApi,
    kms: CloudKms,
    google: GoogleReads,
) -> DiagnosisFacts:
    """Ask everybody again, after a failure; what is refused leaves its causes open."""
    key_id = failure.external_key_id
    async with asyncio.TaskGroup() as group:
        findings = group.create_task(read_findings(request, Clients(admin, kms, google)))
        external = (
            group.create_task(try_read(admin.external_keys.retrieve(key_id))) if key_id else None
        )
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
