"""Causes around the key: APIs, billing, perimeter, deny policies, and Anthropic's side."""

from __future__ import annotations

from typing import Final

from cmek.anthropic_identity import SERVICE_ACCOUNT
from cmek.checks.model import Check
from cmek.checks.outcome import Answer, Refused
from cmek.checks.perimeters import check_perimeters
from cmek.checks.project import check_billing, check_kms_api, check_project
from cmek.diagnosis.model import Cause, DiagnosisFacts, KnownCause, Rule

PROJECT: Final = KnownCause(
    "project_inactive", "The project was shut down", "cloudresourcemanager.projects.get"
)
API_OFF: Final = KnownCause(
    "kms_api_off", "The Cloud KMS API was switched off", "serviceusage.services.get, Cloud KMS"
)
BILLING_OFF: Final = KnownCause(
    "billing_off",
    "Billing of the project was switched off",
    "cloudbilling.projects.getBillingInfo, Cloud KMS",
)
PERIMETER: Final = KnownCause(
    "perimeter", "VPC Service Controls keep Anthropic out", "accesscontextmanager, Cloud KMS"
)
DENY_POLICY: Final = KnownCause(
    "deny_policy", "An IAM deny policy or principal access boundary applies", "none of ours"
)
WORKSPACE_POLICY: Final = KnownCause(
    "workspace_policy",
    "The organization's Workspace Policy forbids the key",
    "error code workspace_policy_violation",
)
KEY_PROFILE: Final = KnownCause(
    "key_profile",
    "Key and workspace belong to different user profiles",
    "error code key_profile_mismatch",
)
KEY_CHANGED: Final = KnownCause(
    "external_key_changed",
    "The external key was edited during the attach",
    "error code external_key_changed",
)
ANTHROPIC: Final = KnownCause(
    "anthropic_side", "Trouble on Anthropic's side", "organization.me, external_keys.list"
)

_SETTINGS: Final = "https://platform.claude.com/settings"


def project_inactive(facts: DiagnosisFacts) -> Cause:
    """Shut down after the registration."""
    (check,) = check_project(facts.request, facts.findings)
    return _from_check(PROJECT, check)


def kms_api_off(facts: DiagnosisFacts) -> Cause:
    """Switched off after the registration."""
    (check,) = check_kms_api(facts.request, facts.findings)
    return _from_check(API_OFF, check)


def billing_off(facts: DiagnosisFacts) -> Cause:
    """Switched off after the registration."""
    (check,) = check_billing(facts.request, facts.findings)
    return _from_check(BILLING_OFF, check)


def perimeter(facts: DiagnosisFacts) -> Cause:
    """Proved by the perimeter's own rules, or by one that turned us away as well."""
    (check,) = check_perimeters(facts.request, facts.findings)
    return _from_check(PERIMETER, check)


def deny_policy(facts: DiagnosisFacts) -> Cause:
    """They win over every grant and are not among the policies that we read."""
    return DENY_POLICY.open(
        "deny policies are not read here",
        f"gcloud policy-troubleshoot iam //cloudkms.googleapis.com/{facts.request.key_name} "
        f"--principal-email={SERVICE_ACCOUNT} "
        "--permission=cloudkms.cryptoKeyVersions.useToEncrypt",
    )


def anthropic_side(facts: DiagnosisFacts) -> Cause:
    """What is left when everything that we can read is in order."""
    request = f" with request id {facts.request_id}" if facts.request_id else ""
    command = f"validate again later; if it stays so, write to Anthropic's support{request}"
    if facts.error_code == "external_key_validation_timed_out":
        return ANTHROPIC.open("Anthropic's check of the key did not finish in time", command)
    reads = (facts.findings.anthropic.organization, facts.findings.anthropic.external_keys)
    failing = [one for one in reads if isinstance(one, Refused) and one.status.startswith("5")]
    if failing:
        return ANTHROPIC.proved(str(failing[0]), command)
    answered = all(isinstance(one, Answer) for one in reads)
    state = "the Admin API answers" if answered else "the Admin API does not answer all our reads"
    return ANTHROPIC.open(state, command)


def code_rule(known: KnownCause, code: str, command: str) -> Rule:
    """Proved by a typed attach error, excluded without it."""

    def rule(facts: DiagnosisFacts) -> Cause:
        if facts.error_code == code:
            return known.proved(f"the attach was refused with {code}", command)
        return known.excluded(f"no {code} was answered")

    return rule


workspace_policy: Final = code_rule(
    WORKSPACE_POLICY,
    "workspace_policy_violation",
    f"{_SETTINGS}: an organization admin allows the external key in the Workspace Policy",
)
key_profile: Final = code_rule(
    KEY_PROFILE,
    "key_profile_mismatch",
    "register the key without a user profile, or take a workspace of the same profile",
)
external_key_changed: Final = code_rule(
    KEY_CHANGED, "external_key_changed", "read the external key, validate again, approve again"
)


def _from_check(known: KnownCause, check: Check) -> Cause:
    command = check.remedy or f"ask {check.who_can_tell}"
    if check.status == "fail":
        return known.proved(check.evidence, command)
    if check.status == "unknown":
        return known.open(check.evidence, command)
    return known.excluded(check.evidence)
