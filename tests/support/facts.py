"""Facts, plans, approval requests and responses that pass the gate; tests change one field each."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from cmek.anthropic_identity import ROLES
from cmek.gcp.resources import CryptoKey, KeyVersion
from cmek.keys.verdicts import Check, CheckReport
from cmek.names import organization_label
from cmek.onboarding.approval_request import ApprovalRequest, ApprovalResponse
from cmek.onboarding.gate import GateInput, ValidationProof
from cmek.onboarding.plan import LiveFacts, Plan, build_plan
from cmek.onboarding.request import OnboardingRequest
from cmek.signatures.verification import Signatures

ORGANIZATION = UUID("3f1c9a52-7d4e-4b8a-9c60-2e5d8f7a1b34")
WORKSPACE = "wrkspc_01SandboxFreshOne"
NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
LOADED_AT = 1_000.0
"""Monotonic seconds at which the response was loaded."""

REQUEST = OnboardingRequest(
    workspace_id=WORKSPACE, project_id="acme-kms-prod", requested_by="ada@example.com"
)
RUN_ID = "5d0c4b36-6a1f-4f0e-9a53-0d5f3a3b7c21"
KEY_NAME = str(REQUEST.key_name)


def version(number: int = 1, state: str = "ENABLED") -> KeyVersion:
    """One version of the key."""
    return KeyVersion(
        name=f"{KEY_NAME}/cryptoKeyVersions/{number}",
        state=state,
        protection_level="HSM",
        algorithm="GOOGLE_SYMMETRIC_ENCRYPTION",
    )


def key(**changes: Any) -> CryptoKey:
    """The key as onboarding makes it."""
    label, value = organization_label(ORGANIZATION)
    facts = {
        "name": KEY_NAME,
        "purpose": "ENCRYPT_DECRYPT",
        "algorithm": "GOOGLE_SYMMETRIC_ENCRYPTION",
        "protection_level": "HSM",
        "labels": {label: value},
        "primary": version(),
    }
    return CryptoKey(**(facts | changes))


def facts(**changes: Any) -> LiveFacts:
    """A healthy, registered key, and a workspace without a key."""
    values = {
        "organization_id": ORGANIZATION,
        "workspace_id": WORKSPACE,
        "workspace_name": "Fresh",
        "workspace_archived": False,
        "workspace_external_key_id": None,
        "key": key(),
        "versions": (version(),),
        "granted_roles": frozenset(ROLES),
        "external_key_id": "ekey_01SandboxKeyOne",
        "external_key_name": KEY_NAME,
        "admin_base_url": "https://api.anthropic.com",
        "kms_endpoint": "cloudkms.googleapis.com",
    }
    return LiveFacts(**(values | changes))


def warning(check_id: str, **changes: Any) -> Check:
    """A prerequisite that did not pass."""
    fields = {"id": check_id, "title": check_id, "status": "warn", "evidence": "seen"}
    return Check(**(fields | changes))


def plan(
    of: LiveFacts | None = None,
    request: OnboardingRequest = REQUEST,
    *,
    warnings: tuple[str, ...] = (),
    **report: Any,
) -> Plan:
    """The plan of these facts, with warnings of these checks."""
    seen = {"project_number": "123456789012", "checks": tuple(map(warning, warnings))} | report
    return build_plan(of or facts(), request, CheckReport(**seen))


def approval_request(of: Plan | None = None, **changes: Any) -> ApprovalRequest:
    """An open approval request for the plan."""
    shown = of or plan()
    values = {
        "run_id": RUN_ID,
        "attempt": 1,
        "number": 1,
        "nonce": "0123456789abcdef",
        "plan": shown,
        "digest": shown.digest,
        "requested_at": NOW - timedelta(hours=1),
        "expires_at": NOW + timedelta(days=6),
    }
    return ApprovalRequest(**(values | changes))


def answer(**changes: Any) -> ApprovalResponse:
    """A response that approves the request."""
    values = {
        "decision": "approve",
        "workspace_id": WORKSPACE,
        "approver": "grace@example.com",
        "comment": "fine",
        "plan_digest": plan().digest,
        "acknowledge_warnings": False,
    }
    return ApprovalResponse(**(values | changes))


def gate_input(**changes: Any) -> GateInput:
    """What was read after the response; the gate permits it."""
    values: dict[str, Any] = {
        "facts": facts(),
        "plan": plan(),
        "validation": ValidationProof(
            succeeded=True, started_at=LOADED_AT + 1, error=None, request_id="req_1"
        ),
        "failed_checks": (),
        "response_loaded_at": LOADED_AT,
        "latest_request_number": 1,
        "pinned": REQUEST,
        "signatures": Signatures(required=0),
    }
    return GateInput(**(values | changes))
