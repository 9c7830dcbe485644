"""Rules about the project: its state, billing, APIs, the caller's permissions, and audit logs.

Source: guide, "Before you begin".

The caller must be allowed to do what the flow will do, both before anything exists and on what
exists already. `testIamPermissions` shows the caller's permissions only, never Anthropic's. Source:
guide, "Before you begin" (roles/cloudkms.admin or equal).

Data Access audit logs record Anthropic's use of the key, and are off by default. The effective
setting is the union over project, folders and organization and over `allServices` and Cloud KMS,
without the exempted members. Source: guide, "Before you begin";
https://docs.cloud.google.com/logging/docs/audit/configure-data-access
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from google.iam.v1 import policy_pb2

from cmek._http import Failed, Ok, Result, ok_value
from cmek.anthropic_identity import MEMBER, SERVICE_ACCOUNT
from cmek.gcp.gcloud import CONSOLE, enable_api, make_admin
from cmek.keys.snapshot import Findings
from cmek.keys.verdicts import Check, Prerequisite
from cmek.onboarding.request import OnboardingRequest

KMS: Final = "cloudkms.googleapis.com"

PROJECT: Final = Prerequisite(
    "project",
    "Project exists and is active",
    ("cloudresourcemanager.projects.get (v3)",),
    "whoever has resourcemanager.projects.get on the project (roles/browser)",
    "Nothing can be made in a project that is missing or waits for its deletion.",
)
BILLING: Final = Prerequisite(
    "billing",
    "Billing is enabled",
    ("cloudbilling.projects.getBillingInfo",),
    "whoever has resourcemanager.projects.get on the project, with the Cloud Billing API on "
    "in the quota project",
    "Cloud KMS refuses every call of a project without an open billing account.",
)
KMS_API: Final = Prerequisite(
    "kms_api",
    "Cloud KMS API is enabled",
    ("serviceusage.services.get",),
    "whoever has serviceusage.services.get on the project (roles/serviceusage.serviceUsageViewer)",
    "Without it neither we nor Anthropic can call the key.",
)
CHECK_APIS: Final = Prerequisite(
    "check_apis",
    "APIs that these checks read are enabled",
    ("every read of the other checks",),
    "the same checks, once the named APIs are enabled in the quota project",
    "A check whose API is off can say nothing; onboarding itself does not need these APIs.",
)


def check_project(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """The project exists and is not about to be deleted."""
    read, project = findings.google.project, request.key_name.project
    if isinstance(read, Failed):
        if read.status == "NOT_FOUND":
            yield PROJECT.failed(f"project {project} does not exist", _create_project(project))
            return
        yield PROJECT.unknown(read)
        return
    state, number = read.value.state, read.value.number
    if state == "ACTIVE":
        yield PROJECT.passed(f"project {project} (number {number}) is ACTIVE")
    elif state == "DELETE_REQUESTED":
        yield PROJECT.failed(f"project {project} is {state}", f"gcloud projects undelete {project}")
    else:
        yield PROJECT.unknown(f"project {project} is in state {state}, which is not known here")


def check_billing(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """An open billing account is linked, and Cloud KMS refused no call for its lack."""
    read, refused = findings.google.billing, _kms_refusal("BILLING_DISABLED", findings)
    if isinstance(read, Ok) and not read.value.billing_enabled:
        evidence = f"billing of project {request.key_name.project} is disabled"
        yield BILLING.failed(evidence, _link_billing(request.key_name.project))
    elif refused is not None:
        project = _consumer(refused, request, findings)
        yield BILLING.failed(f"{_whose(project, request)}: {refused}", _link_billing(project))
    elif isinstance(read, Ok):
        account = read.value.billing_account_name
        yield BILLING.passed(f"project {request.key_name.project} pays by {account}")
    else:
        yield BILLING.unknown(read)


def check_kms_api(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """The API is enabled according to Service Usage, or according to Cloud KMS itself.

    It must also be enabled in the caller's quota project, which only a refusal names.
    """
    project = request.key_name.project
    read, refused = findings.google.kms_service, _kms_refusal("SERVICE_DISABLED", findings)
    if isinstance(read, Ok) and read.value.state != "ENABLED":
        remedy = enable_api(KMS, project)
        yield KMS_API.failed(f"{KMS} is {read.value.state} in project {project}", remedy)
    elif refused is not None:
        where = _consumer(refused, request, findings)
        yield KMS_API.failed(f"{_whose(where, request)}: {refused}", enable_api(KMS, where))
    elif isinstance(read, Ok):
        yield KMS_API.passed(f"{KMS} is ENABLED in project {project}")
    elif any(isinstance(answer, Ok) for answer in findings.kms.answers):
        yield KMS_API.passed(f"Cloud KMS answered for project {project}")
    else:
        yield KMS_API.unknown(read)


def check_check_apis(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """Our own reads that were refused because their API is disabled: unknown, never a failure."""
    off = {
        one.service: (one.consumer or f"projects/{request.key_name.project}")
        for one in findings.refusals
        if one.is_api_off and one.service and one.service != KMS
    }
    if off:
        commands = {enable_api(name, off[name].partition("/")[2]) for name in off}
        yield CHECK_APIS.unknown(
            f"not enabled, so the checks that read them are unknown: {', '.join(sorted(off))}",
            " && ".join(sorted(commands)),
        )
    else:
        yield CHECK_APIS.passed("no check was refused because its API is off")


def _kms_refusal(reason: str, findings: Findings) -> Failed | None:
    refusals = (one for one in findings.kms.answers if isinstance(one, Failed))
    return next((one for one in refusals if one.reason == reason), None)


def _consumer(refused: Failed, request: OnboardingRequest, findings: Findings) -> str:
    """The project that Google refused: the key's as an id, another one as a number."""
    named = (refused.consumer or "").removeprefix("projects/")
    own = {"", findings.google.project_number, request.key_name.project}
    return request.key_name.project if named in own else named


def _whose(project: str, request: OnboardingRequest) -> str:
    own = project == request.key_name.project
    return f"project {project}" if own else f"the caller's quota project {project}"


def _link_billing(project: str) -> str:
    return f"gcloud billing projects link {project} --billing-account=BILLING_ACCOUNT_ID"


def _create_project(project: str) -> str:
    return f"gcloud projects create {project}"


ON_KEY: Final = (
    "cloudkms.cryptoKeys.get",
    "cloudkms.cryptoKeys.update",
    "cloudkms.cryptoKeys.getIamPolicy",
    "cloudkms.cryptoKeys.setIamPolicy",
    "cloudkms.cryptoKeyVersions.list",
)
ON_RING: Final = ("cloudkms.cryptoKeys.create", *ON_KEY)
ON_PROJECT: Final = (
    "cloudkms.locations.get",
    "cloudkms.keyRings.get",
    "cloudkms.keyRings.create",
    *ON_RING,
)
"""The permissions that onboarding needs in a project where nothing exists yet."""

CALLER_ON_PROJECT: Final = Prerequisite(
    "caller_on_project",
    "Caller may make key ring, key and grants",
    ("cloudresourcemanager.projects.testIamPermissions (v3)",),
    "whoever administers IAM of the project",
    "The run would stop half-way, with a key ring that stays behind.",
)
CALLER_ON_EXISTING: Final = Prerequisite(
    "caller_on_existing",
    "Caller may use the ring or key that exists",
    ("cloudkms TestIamPermissions on the ring and on the key",),
    "whoever administers IAM of the key ring",
    "Rights may be given, or denied, on the ring or the key alone.",
)


def check_caller_on_project(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """All permissions on the project; if the ring exists, those on the ring decide instead."""
    project, read = request.key_name.project, findings.google.project_permissions
    if isinstance(read, Failed):
        yield CALLER_ON_PROJECT.unknown(read)
        return
    ring_exists = ok_value(findings.kms.key_ring) is not None
    needed = ("cloudkms.locations.get",) if ring_exists else ON_PROJECT
    missing = [one for one in needed if one not in read.value]
    if missing:
        yield CALLER_ON_PROJECT.failed(
            f"missing on project {project}: {', '.join(missing)}",
            make_admin(f"projects/{project}", findings.google.caller),
        )
    else:
        note = "; the key ring exists, its own rights count" if ring_exists else ""
        yield CALLER_ON_PROJECT.passed(f"all granted on project {project}: {len(needed)}{note}")


def check_caller_on_existing(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """The caller's permissions on an existing key, else on an existing ring."""
    key = request.key_name
    if isinstance(findings.kms.key_ring, Failed) and ok_value(findings.kms.key) is None:
        yield CALLER_ON_EXISTING.unknown(findings.kms.key_ring)
    elif isinstance(findings.kms.key, Failed):
        yield CALLER_ON_EXISTING.unknown(findings.kms.key)
    elif ok_value(findings.kms.key) is not None:
        remedy = make_admin(str(key), findings.google.caller)
        yield _judge(str(key), findings.kms.key_permissions, ON_KEY, remedy)
    elif ok_value(findings.kms.key_ring) is not None:
        remedy = make_admin(key.key_ring_name, findings.google.caller)
        yield _judge(key.key_ring_name, findings.kms.ring_permissions, ON_RING, remedy)
    else:
        yield CALLER_ON_EXISTING.passed(f"{key.key_ring_name} does not exist yet")


def _judge(
    resource: str, read: Result[frozenset[str]] | None, needed: tuple[str, ...], remedy: str
) -> Check:
    if not isinstance(read, Ok):
        return CALLER_ON_EXISTING.unknown(read or f"rights on {resource} were not read")
    missing = [one for one in needed if one not in read.value]
    if missing:
        return CALLER_ON_EXISTING.failed(f"missing on {resource}: {', '.join(missing)}", remedy)
    return CALLER_ON_EXISTING.passed(f"all granted on {resource}: {len(needed)}")


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
    """For each log type: the levels at which it is enabled."""
    exempted: dict[str, set[str]] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)


def check_audit_logs(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """Both log types are enabled at some level, and Anthropic's account is exempted at none."""
    union = _union(findings)
    page = f"{CONSOLE}/iam-admin/audit?project={request.key_name.project}"
    page += ": Cloud Key Management Service (KMS) API, tick Data Read and Data Write"
    holes = [one for one in REQUIRED if _anthropic_is_exempted(union.exempted.get(one, set()))]
    missing = [one for one in REQUIRED if one not in union.on]
    blind = f"; not readable: {', '.join(union.unreadable)}" if union.unreadable else ""
    if holes:  # an exemption hides Anthropic's calls even when the logs are enabled
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
    if not isinstance(findings.google.ancestors, Ok):
        union.unreadable.append("folders and organization")
    for level, read in findings.google.policies.items():
        if not isinstance(read, Ok):
            union.unreadable.append(level)
            continue
        for config in read.value.audit_configs:
            # a setting is inherited and can't be switched off below, so the levels add up
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
