"""Signatures of approvals: how many this worker wants, and whether those given are good."""

from __future__ import annotations

from datetime import UTC, datetime

from cmek.onboarding.approval import ApprovalRequest, ApprovalResponse
from cmek.onboarding.request import OnboardingRequest
from cmek.signatures.statement import SignedApproval, UnreadableApprovalError, parse_signed
from cmek.signatures.verification import (
    BadSignatureError,
    Signatures,
    Signers,
    Verified,
    find_signers,
    required_signatures,
    verify,
)
from tasks._uncached_task import uncached_task


@uncached_task(
    name="Who must sign",
    task_run_name="Who must sign",
)
async def signatures_needed(request: OnboardingRequest) -> int:
    """How many approvers must sign; 0 on a worker without signers.

    Raises:
        SignersRefusedError: Signatures are wanted and can't be verified here.
    """
    return required_signatures(find_signers(), request.signatures)


@uncached_task(
    name="Verify signatures",
    task_run_name="Verify signatures",
)
async def verify_signatures(
    approval_request: ApprovalRequest, answer: ApprovalResponse
) -> Signatures:
    """Look at the signers file again and verify each signature; one that is bad is a problem.

    Raises:
        SignersRefusedError: The signers file is gone, or does not count any more.
    """
    signers = find_signers()
    required = required_signatures(signers, approval_request.signatures)
    if not answer.signed_approvals or answer.decision == "reject":
        return Signatures(required)
    if signers is None:
        return Signatures(required, problems=("this worker has no signers to verify it with",))
    try:
        given = parse_signed(answer.signed_approvals)
    except UnreadableApprovalError as error:
        return Signatures(required, problems=(str(error),))
    now = datetime.now(UTC)
    found = [await _verified(one, signers, now) for one in given]
    return Signatures(
        required,
        verified=tuple(one for one in found if isinstance(one, Verified)),
        problems=tuple(one for one in found if isinstance(one, str)),
    )


async def _verified(one: SignedApproval, signers: Signers, now: datetime) -> Verified | str:
    try:
        return await verify(one, signers, at=now)
    except BadSignatureError as error:
        return str(error)
