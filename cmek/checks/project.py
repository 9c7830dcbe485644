"""The project, its billing account, and the APIs that are switched on in it.

Source: guide, "Before you begin".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cmek.checks.commands import enable_api
from cmek.checks.findings import Findings
from cmek.checks.model import Check, CheckSubject, Prerequisite
from cmek.checks.outcome import Answer, Refused

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


def check_project(subject: CheckSubject, findings: Findings) -> Iterator[Check]:
    """Exists, and nobody asked for its deletion."""
    read, project = findings.google.project, subject.key_name.project
    if isinstance(read, Refused):
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
        yield PROJECT.unknown(f"project {project} is in state {state}, which says nothing")


def check_billing(subject: CheckSubject, findings: Findings) -> Iterator[Check]:
    """An open billing account is linked; a refusal by Cloud KMS for billing proves the contrary."""
    project = subject.key_name.project
    remedy = f"gcloud billing projects link {project} --billing-account=BILLING_ACCOUNT_ID"
    read = findings.google.billing
    if isinstance(read, Answer):
        info = read.value
        if info.billing_enabled:
            yield BILLING.passed(f"project {project} pays by {info.billing_account_name}")
        else:
            yield BILLING.failed(f"billing of project {project} is disabled", remedy)
    elif _kms_refused_for("BILLING_DISABLED", findings):
        yield BILLING.failed(f"Cloud KMS refuses project {project}: billing is disabled", remedy)
    else:
        yield BILLING.unknown(read)


def check_kms_api(subject: CheckSubject, findings: Findings) -> Iterator[Check]:
    """Enabled by Service Usage's word, or else by what Cloud KMS itself answered."""
    project = subject.key_name.project
    remedy = enable_api(KMS, project)
    read = findings.google.kms_service
    if isinstance(read, Answer) and read.value.state == "ENABLED":
        yield KMS_API.passed(f"{KMS} is ENABLED in project {project}")
    elif isinstance(read, Answer):
        yield KMS_API.failed(f"{KMS} is {read.value.state} in project {project}", remedy)
    elif _kms_refused_for("SERVICE_DISABLED", findings):
        yield KMS_API.failed(f"Cloud KMS refuses: the API is not enabled ({project})", remedy)
    elif any(isinstance(answer, Answer) for answer in findings.kms.answers):
        yield KMS_API.passed(f"Cloud KMS answered for project {project}")
    else:
        yield KMS_API.unknown(read)


def check_check_apis(subject: CheckSubject, findings: Findings) -> Iterator[Check]:
    """Which of our own reads failed because their API is off: unknown, never a failure."""
    off = {
        one.service: (one.consumer or f"projects/{subject.key_name.project}")
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


def _kms_refused_for(reason: str, findings: Findings) -> bool:
    return any(
        isinstance(answer, Refused) and answer.reason == reason for answer in findings.kms.answers
    )


def _create_project(project: str) -> str:
    return f"gcloud projects create {project}"
