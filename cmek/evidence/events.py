"""The events of an onboarding, each with one form, and the marks on key and workspace. Pure.

A label on the key names the workspace that depends on it; a tag on the workspace names the record
of its onboarding. Google's usage tracking does not see Anthropic's use: without the label an
essential key would look unused.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Final, Literal

from pydantic import JsonValue
from pydantic_core import to_jsonable_python

from cmek.evidence.record import Chain, Event, EvidenceEntry
from cmek.keys.verdicts import CheckReport
from cmek.onboarding.approval_request import ApprovalRequest, ApprovalResponse
from cmek.onboarding.gate import Permit, Refusal, ValidationProof
from cmek.onboarding.request import OnboardingRequest
from cmek.tags import EVIDENCE_TAG

Service = Literal["cloud-kms", "anthropic-admin"]
KMS: Final = "cloud-kms"
ADMIN: Final = "anthropic-admin"
PACKAGES: Final = (
    "cmek",
    "prefect",
    "prefect-gcp",
    "google-cloud-kms",
    "google-api-core",
    "google-auth",
    "grpcio",
    "httpx",
    "pydantic",
    "stamina",
)


def started(request: OnboardingRequest, versions: Mapping[str, str]) -> Event:
    """The pinned request, its requester, and the versions of the software."""
    return Event(
        kind="started",
        subject=request.subject,
        body={
            "request": request.model_dump(mode="json"),
            "requested_by": request.requested_by,
            "versions": dict(versions),
        },
    )


def checked(report: CheckReport, stage: str) -> Event:
    """All prerequisites; `stage` says when: `attempt 1`, or the key of an approval request."""
    return Event(kind="prerequisites", subject=stage, body=report.model_dump(mode="json"))


def approval_requested(approval_request: ApprovalRequest) -> Event:
    """The plan, its digest, and when the approval request expires."""
    body = approval_request.model_dump(mode="json")
    return Event(kind="approval_request", subject=approval_request.key, body=body)


def approval_response_received(
    approval_request: ApprovalRequest, response: ApprovalResponse
) -> Event:
    """The approver's decision about a digest; the name is unverified."""
    body = response.model_dump(mode="json")
    return Event(kind="approval_response", subject=approval_request.key, body=body)


def validated(external_key_id: str, stage: str, proof: ValidationProof) -> Event:
    """One validation by Anthropic."""
    return Event(
        kind="validation",
        subject=f"{external_key_id} {stage}",
        body={"succeeded": proof.succeeded, "error": proof.error, "request_id": proof.request_id},
    )


def gate_decision(
    approval_request: ApprovalRequest,
    stage: str,
    proof: ValidationProof,
    report: CheckReport,
    verdict: Permit | Refusal,
) -> tuple[Event, ...]:
    """What was read again after a response, and what the gate decided.

    Args:
        approval_request: The approval request of the response.
        stage: Which try to attach with this response it is.
        proof: The validation after the response.
        report: The prerequisites after the response.
        verdict: The gate's.
    """
    body: dict[str, JsonValue] = {"verdict": "permit", "reasons": [], "signers": []}
    if isinstance(verdict, Refusal):
        reasons = [reason.text for reason in verdict.reasons]
        body |= {"verdict": verdict.kind, "reasons": [*reasons]}
    else:
        body["signers"] = list(verdict.signers)
    return (
        checked(report, stage),
        validated(approval_request.plan.external_key_id, stage, proof),
        Event(kind="gate_decision", subject=stage, body=body),
    )


def is_permit(entry: EvidenceEntry) -> bool:
    """Whether the entry is a decision of the gate that allows an attach."""
    return (
        entry.kind == "gate_decision"
        and isinstance(entry.body, dict)
        and entry.body.get("verdict") == "permit"
    )


def permit_unused(stage: str, why: str) -> Event:
    """No attach came of a permit, for certain: nothing was sent, or it was refused."""
    return not_written(_ATTACH, stage, why)


_ATTACH: Final = "attach"


def open_permits(entries: Iterable[EvidenceEntry]) -> list[EvidenceEntry]:
    """The permits after which a key was attached, or may have been."""
    entries = list(entries)
    unused = {(one.run, one.subject) for one in entries if one.kind == "write_skipped"}
    return [
        one
        for one in entries
        if is_permit(one) and (one.run, f"{_ATTACH} {one.subject}") not in unused
    ]


def may_still_take_effect(chain: Chain, since: datetime) -> bool:
    """Whether an attach that was permitted after `since` has no known outcome."""
    done = {one.run for one in chain.entries if one.kind == "attached"}
    permits = open_permits(chain.entries)
    return any(one.at > since and one.run not in done for one in permits)


def failed(error: BaseException, stage: str) -> Event:
    """The run ended with this error."""
    return Event(
        kind="failed", subject=stage, body={"error": type(error).__name__, "message": str(error)}
    )


def wrote(  # noqa: PLR0913 - one argument a fact that an auditor asks for
    service: Service,
    action: str,
    resource: str,
    *,
    before: object,
    after: object,
    request_id: str | None = None,
    which: str = "",
) -> Event:
    """One write to a service.

    Args:
        service: The service.
        action: The API's method, such as `CreateCryptoKey`.
        resource: Full name or id.
        before: The state before; None when there was nothing.
        after: The state after, from the response or read back.
        request_id: Of the response; Cloud KMS over gRPC gives none.
        which: Tells it from other writes of the same kind to the same resource in one run.
    """
    return Event(
        kind="write",
        subject=" ".join(filter(None, (action, resource, which))),
        body={
            "service": service,
            "action": action,
            "resource": resource,
            "request_id": request_id,
            "before": to_jsonable_python(before),
            "after": to_jsonable_python(after),
        },
    )


def not_written(action: str, resource: str, why: str) -> Event:
    """A write that did not happen, such as a label, without which an onboarding succeeds."""
    return Event(
        kind="write_skipped",
        subject=f"{action} {resource}",
        body={"action": action, "resource": resource, "why": why},
    )


def attached(workspace_id: str, outcome: object, seen: object) -> Event:
    """The attach and its read-back; this entry's hash is on the workspace and in the report."""
    body = to_jsonable_python({"attach": outcome, "read_back": seen})
    return Event(kind="attached", subject=workspace_id, body=body)


def software_versions() -> dict[str, str]:
    """Versions of Python and of `PACKAGES`; `absent` for one that is not installed."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def with_evidence_tag(tags: Mapping[str, str], entry_hash: str) -> dict[str, str] | None:
    """All tags and ours; None when the workspace has ours already: it is written once.

    The other tags are included, since it is not documented whether an update replaces all tags.
    """
    if EVIDENCE_TAG in tags:
        return None
    return dict(tags) | {EVIDENCE_TAG: entry_hash}
