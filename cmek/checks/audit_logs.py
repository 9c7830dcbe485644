"""Are Anthropic's uses of the key logged? Data Access audit logs are off by default.

What counts is the union over project, folders and organization and over `allServices` and Cloud
KMS, less the exempted members. Source: guide, "Before you begin";
https://docs.cloud.google.com/logging/docs/audit/configure-data-access
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from google.iam.v1 import policy_pb2

from cmek.anthropic_identity import MEMBER, SERVICE_ACCOUNT
from cmek.checks.commands import CONSOLE
from cmek.checks.findings import Findings
from cmek.checks.model import Check, Prerequisite
from cmek.checks.outcome import Answer
from cmek.checks.project import KMS
from cmek.request import OnboardingRequest

LOG_TYPES: Final = {
    policy_pb2.AuditLogConfig.DATA_READ: "DATA_READ",
    policy_pb2.AuditLogConfig.DATA_WRITE: "DATA_WRITE",
    policy_pb2.AuditLogConfig.ADMIN_READ: "ADMIN_READ",
}
REQUIRED: Final = ("DATA_READ", "DATA_WRITE")

AUDIT_LOGS: Final = Prerequisite(
    "audit_logs",
    "Data Access audit logs are on for Cloud KMS",
    (
        "cloudresourcemanager.projects.getAncestry (v1)",
        "cloudresourcemanager.projects.getIamPolicy (v3)",
        "cloudresourcemanager.folders.getIamPolicy (v3)",
        "cloudresourcemanager.organizations.getIamPolicy (v3)",
    ),
    "whoever has getIamPolicy on project, folders and organization (roles/iam.securityReviewer)",
    "Anthropic's use of the key shows in these logs and nowhere else.",
)


@dataclass(slots=True)
class _Union:
    on: dict[str, list[str]] = field(default_factory=dict)
    """Log type → where it is switched on."""
    exempted: dict[str, set[str]] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)


def check_audit_logs(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """Both types on somewhere, and Anthropic's account exempted nowhere."""
    union = _union(findings)
    page = f"{CONSOLE}/iam-admin/audit?project={request.key_name.project}"
    page += ": Cloud Key Management Service (KMS) API, tick Data Read and Data Write"
    holes = [one for one in REQUIRED if _anthropic_is_exempted(union.exempted.get(one, set()))]
    missing = [one for one in REQUIRED if one not in union.on]
    blind = f"; not readable: {', '.join(union.unreadable)}" if union.unreadable else ""
    if holes:
        yield AUDIT_LOGS.failed(
            f"{SERVICE_ACCOUNT} is exempted from {', '.join(holes)}",
            f"{page}, and remove it under Exempted principals",
        )
    elif missing and union.unreadable:
        yield AUDIT_LOGS.unknown(f"not on where we can read: {', '.join(missing)}{blind}", page)
    elif missing:
        yield AUDIT_LOGS.failed(f"off on every level: {', '.join(missing)}", page)
    else:
        places = "; ".join(f"{one} at {', '.join(union.on[one])}" for one in REQUIRED)
        yield AUDIT_LOGS.passed(f"{places}{_notes(union)}{blind}")


def _union(findings: Findings) -> _Union:
    union = _Union()
    if not isinstance(findings.google.ancestors, Answer):
        union.unreadable.append("folders and organization")
    for level, read in findings.google.policies.items():
        if not isinstance(read, Answer):
            union.unreadable.append(level)
            continue
        for config in read.value.audit_configs:
            if config.service in {"allServices", KMS}:
                _add(union, level, config)
    return union


def _add(union: _Union, level: str, config: policy_pb2.AuditConfig) -> None:
    for log in config.audit_log_configs:
        kind = LOG_TYPES.get(log.log_type)
        if kind is not None:
            union.on.setdefault(kind, []).append(f"{level} ({config.service})")
            union.exempted.setdefault(kind, set()).update(log.exempted_members)


def _anthropic_is_exempted(members: set[str]) -> bool:
    return MEMBER.casefold() in {member.casefold() for member in members}


def _notes(union: _Union) -> str:
    others = sorted({m for one in REQUIRED for m in union.exempted.get(one, set())})
    notes = f"; exempted: {', '.join(others)}" if others else ""
    if "ADMIN_READ" not in union.on:
        notes += "; ADMIN_READ is off, so Anthropic's reads of the key's metadata are not logged"
    return notes
