"""The project, its billing account, and the APIs that are switched on in it.

Source: guide, "Before you begin".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cmek.checks.commands import enable_api
from cmek.checks.findings import Findings
from cmek.checks.model import Check, Prerequisite
from cmek.checks.outcome import Answer, Refused
from cmek.request import OnboardingRequest

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
    """Exists, and nobody asked for its deletion."""
    read, project = findings.google.project, request.key_name.project
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


def check_billing(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """An open billing account is linked; a refusal by Cloud KMS for billing proves the contrary."""
    read, refused = findings.google.billing, _kms_refusal("BILLING_DISABLED", findings)
    if isinstance(read, Answer) and not read.value.billing_enabled:
        evidence = f"billing of project {request.key_name.project} is disabled"
        yield BILLING.failed(evidence, _link_billing(request.key_name.project))
    elif refused is not None:
        project = _consumer(refused, request, findings)
        yield BILLING.failed(f"{_whose(project, request)}: {refused}", _link_billing(project))
    elif isinstance(read, Answer):
        account = read.value.billing_account_name
        yield BILLING.passed(f"project {request.key_name.project} pays by {account}")
    else:
        yield BILLING.unknown(read)


def check_kms_api(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """Enabled by Service Usage's word and by what Cloud KMS itself answered.

    Google counts the caller's quota project, too, and names it only in the refusal.
    """
    project = request.key_name.project
    read, refused = findings.google.kms_service, _kms_refusal("SERVICE_DISABLED", findings)
    if isinstance(read, Answer) and read.value.state != "ENABLED":
        remedy = enable_api(KMS, project)
        yield KMS_API.failed(f"{KMS} is {read.value.state} in project {project}", remedy)
    elif refused is not None:
        where = _consumer(refused, request, findings)
        yield KMS_API.failed(f"{_whose(where, request)}: {refused}", enable_api(KMS, where))
    elif isinstance(read, Answer):
        yield KMS_API.passed(f"{KMS} is ENABLED in project {project}")
    elif any(isinstance(answer, Answer) for answer in findings.kms.answers):
        yield KMS_API.passed(f"Cloud KMS answered for project {project}")
    else:
        yield KMS_API.unknown(read)


def check_check_apis(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """Which of our own reads failed because their API is off: unknown, never a failure."""
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


def _kms_refusal(reason: str, findings: Findings) -> Refused | None:
    refusals = (one for one in findings.kms.answers if isinstance(one, Refused))
    return next((one for one in refusals if one.reason == reason), None)


def _consumer(refused: Refused, request: OnboardingRequest, findings: Findings) -> str:
    """The project that Google refused: the key's by its id, another one by its number."""
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
