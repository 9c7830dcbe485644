"""Read what the diagnosis needs: the checks' reads and the external key. Writes nothing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime

from cmek.admin_api import AdminApi
from cmek.checks.google_reads import GoogleReads
from cmek.checks.outcome import attempt
from cmek.checks.reading import Clients, read_findings
from cmek.cloud_kms import CloudKms
from cmek.diagnosis.model import DiagnosisFacts
from cmek.request import OnboardingRequest


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
            group.create_task(attempt(admin.external_keys.retrieve(key_id))) if key_id else None
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
