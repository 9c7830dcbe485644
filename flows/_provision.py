"""Guide steps 1 to 6: everything before an approval is requested. Each step is safe to run again.

A key that Anthropic can't use is diagnosed here as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from cmek.anthropic.models import ExternalKey
from cmek.errors import CmekError
from cmek.evidence.events import validated
from cmek.keys.diagnosis import Failure
from cmek.keys.verdicts import CheckReport
from cmek.onboarding.eligibility import AttachmentStatus, check_eligibility, check_organization
from cmek.onboarding.gate import ValidationProof
from cmek.onboarding.reports import causes_table
from cmek.onboarding.request import OnboardingRequest
from cmek.plain_text import escape
from flows._approval import attempt
from tasks.artifacts import publish
from tasks.attachment import ensure_no_pending_create
from tasks.crypto_key import ensure_crypto_key, ensure_organization_label, wait_for_primary
from tasks.evidence import (
    crypto_key_event,
    grants_event,
    key_ring_event,
    label_event,
    record,
    registration_event,
)
from tasks.grants import ensure_grants
from tasks.key_name import read_key_name
from tasks.key_ring import ensure_key_ring
from tasks.reads import (
    PrerequisitesFailedError,
    check_prerequisites,
    find_causes,
    read_organization,
    read_workspace,
    search_workspace,
)
from tasks.registration import ensure_external_key
from tasks.runs import never_ends_the_run
from tasks.validation import ValidationFailedError, validate_while_settling


class KeyValidationError(CmekError):
    """Anthropic can't use the key; the message has the most likely cause and its remedy."""


async def diagnose_failure(request: OnboardingRequest, failure: Failure, said: str | None) -> str:
    """Diagnose, publish the table of causes, and return the first cause as a sentence.

    Args:
        request: The pinned request.
        failure: Which validation or attach failed.
        said: Anthropic's free text; shown, never interpreted.
    """
    causes = await find_causes(request, failure)
    page = (
        f"# Why Anthropic can't use {escape(request.key_name)}\n\n"
        f"Anthropic said: {escape(said or 'nothing')} "
        f"(request {escape(failure.request_id or 'unknown')})\n\n{causes_table(causes)}"
    )
    # the first cause is in the run's message anyway, so the run does not need the table
    with never_ends_the_run("The table of causes is not published"):
        await publish("diagnosis", request.subject, page, "causes, the most likely first")
    cause = next((cause for cause in causes if cause.verdict != "excluded"), None)
    if cause is None:
        return "every known cause is excluded; see the diagnosis artifact"
    return f"{cause.title} ({cause.verdict}): {cause.why} To fix it: {cause.command}"


@dataclass(frozen=True, slots=True)
class EligibleWorkspace:
    """A workspace that may be onboarded, according to the first reads."""

    request: OnboardingRequest
    """With the id of the workspace if the workspace exists."""
    status: AttachmentStatus
    organization_id: UUID
    current_key: ExternalKey | None = None


@dataclass(frozen=True, slots=True)
class ProvisionedKey:
    """A key that Anthropic can use, registered, and not yet attached."""

    external_key_id: str
    users_before: tuple[str, ...] = ()
    adopting: bool = False
    """The key existed: label, grants and the first validation come after the approval."""


async def read_and_check_workspace(request: OnboardingRequest) -> EligibleWorkspace:
    """Read organization and workspace, and refuse what must not be onboarded.

    Raises:
        WorkspaceNotEligibleError: Says why and what to do.
        CreateOutcomeUnknownError: An earlier create of this workspace may still take effect.
    """
    organization = await read_organization(request.anthropic_block)
    check_organization(request, organization)
    if request.workspace_id is not None:
        reading = await read_workspace(request.anthropic_block, request.workspace_id)
    else:
        found = await search_workspace(request)
        if found is None:
            # an earlier create whose response was lost may still take effect
            await ensure_no_pending_create(request.subject)
            return EligibleWorkspace(request, AttachmentStatus.NEEDS_KEY, organization.id)
        request, reading = request.for_existing(found.workspace.id), found
    status = check_eligibility(request, reading)
    return EligibleWorkspace(request, status, organization.id, reading.current_key)


async def require_prerequisites(request: OnboardingRequest) -> CheckReport:
    """Check all prerequisites; nothing is created while one fails.

    Raises:
        PrerequisitesFailedError: Names each failed check and its remedy.
    """
    report = await check_prerequisites(request)
    if report.failed:
        raise PrerequisitesFailedError(report)
    return report


async def provision(request: OnboardingRequest, organization: UUID) -> ProvisionedKey:
    """Ensure key ring, key, grants, key name and registration, and validate the key.

    Nothing is written to an adopted key before the approval, so it can't be validated here.
    """
    workspace = request.subject
    ring = request.key_name.key_ring_name
    ring_created = await ensure_key_ring(request.kms_block, ring)
    await record(workspace, *key_ring_event(ring, created=ring_created))
    key = await ensure_crypto_key(request, organization, ring_is_new=ring_created)
    await record(workspace, *crypto_key_event(key))
    name = key.key.name
    if key.key.is_pending:
        await wait_for_primary(request.kms_block, name)
    # an adopted key gets its grants only after the approval
    granted = not key.adopting and await ensure_grants(request.kms_block, name)
    await record(workspace, *grants_event(name, written=granted))
    name = await read_key_name(request.kms_block, key.key.name)
    external_key, registered = await ensure_external_key(
        request.anthropic_block, name, request.display_name or request.key_name.crypto_key
    )
    await record(workspace, *registration_event(name, external_key, created=registered))
    if key.adopting:
        return ProvisionedKey(external_key.id, key.users_before, adopting=True)
    await _validate(request, external_key.id, changed=key.created or granted)
    return ProvisionedKey(external_key.id)


async def adopt(
    request: OnboardingRequest,
    organization: UUID,
    external_key_id: str,
    users_before: tuple[str, ...],
) -> None:
    """Guide steps 2, 3 and 6 for a key that existed, once an approval permits it.

    Raises:
        KeyValidationError: Anthropic can't use it.
    """
    key, labelled = await ensure_organization_label(request, organization)
    labelled_event = label_event(key, written=labelled, users_before=users_before)
    await record(request.subject, *labelled_event)
    granted = await ensure_grants(request.kms_block, key.name)
    await record(request.subject, *grants_event(key.name, written=granted))
    await _validate(request, external_key_id, changed=labelled or granted)


async def _validate(request: OnboardingRequest, external_key_id: str, *, changed: bool) -> None:
    changed_at = datetime.now(UTC) if changed else None
    proof = await validate_registered(request, external_key_id, changed_at=changed_at)
    await record(request.subject, validated(external_key_id, f"attempt {attempt()}", proof))


async def validate_registered(
    request: OnboardingRequest, external_key_id: str, *, changed_at: datetime | None
) -> ValidationProof:
    """Validate the external key.

    Args:
        request: The pinned request.
        external_key_id: What to validate.
        changed_at: When this run changed the key or its grants; None if it did not: then there
            is no change of IAM to wait for.

    Raises:
        KeyValidationError: Validation failed; with the most likely cause by our own reads.
    """
    task = validate_while_settling
    if changed_at is None:
        task = task.with_options(retries=0)
    try:
        return await task(request.anthropic_block, external_key_id)
    except ValidationFailedError as error:
        failure = Failure(
            external_key_id=external_key_id,
            granted_at=changed_at,
            request_id=error.proof.request_id,
        )
        cause = await diagnose_failure(request, failure, error.proof.error)
        raise KeyValidationError(f"{error}. Most likely: {cause}") from error
