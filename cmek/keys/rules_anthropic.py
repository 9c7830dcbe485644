"""Rules about Anthropic's side: credential, organization, CMEK, workspace, what no API shows.

Also the causes of a failed validation that are not about the key itself: APIs, billing, perimeter,
deny policies, and trouble at Anthropic.

Source: https://platform.claude.com/docs/en/manage-claude/cmek and …/admin-api
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cmek._http import Failed, Ok, Result
from cmek.anthropic.models import Workspace
from cmek.anthropic_identity import SERVICE_ACCOUNT
from cmek.keys.rules import Cause, CauseRule, DiagnosisFacts, KnownCause
from cmek.keys.rules_org import check_perimeters, judge_perimeters, refused_by_perimeter
from cmek.keys.rules_project import check_billing, check_kms_api, check_project
from cmek.keys.snapshot import Findings
from cmek.keys.verdicts import Check, Prerequisite
from cmek.onboarding.request import (
    USUAL_LIMIT,
    OnboardingRequest,
    same_name_workspaces,
    shown_workspaces,
)

KEYS_PAGE: Final = "https://platform.claude.com/settings/admin-keys"
WHO: Final = "an admin of the Anthropic organization"

CREDENTIAL: Final = Prerequisite(
    "admin_credential",
    "Admin credential works, for the right organization",
    ("organization.me",),
    WHO,
    "Without it no key can be registered; with another organization's, the wrong one would be.",
)
CMEK: Final = Prerequisite(
    "cmek_reachable",
    "External keys can be read with this credential",
    ("external_keys.list (one page)",),
    f"{WHO}, or Anthropic's account team, which switches CMEK on",
    "CMEK is switched on for an organization by Anthropic's account team.",
)
WORKSPACE: Final = Prerequisite(
    "workspace",
    "Workspace is live and free for this key",
    (
        "workspaces.retrieve",
        "external_keys.retrieve (when the workspace has a key)",
        "workspaces.list (instead, for a new one)",
    ),
    WHO,
    "A workspace takes one key, once; an archived one takes none.",
)
RETENTION: Final = Prerequisite(
    "retention",
    "Workspace retains data",
    (),
    f"{WHO}, in the Console under the workspace's privacy settings",
    "A key needs a workspace that retains data; attaching locks that setting.",
)
FEATURES: Final = Prerequisite(
    "features",
    "Features that stop working are accepted",
    (),
    "the approver",
    "Console Playground; structured outputs on some models; zero data retention; webhooks of the "
    "default workspace.",
)
EFFECT: Final = Prerequisite(
    "effect_time",
    "Delay in a workspace that is in use is accepted",
    (),
    f"{WHO}, from the workspace's usage: the approver acknowledges it",
    "A used workspace takes up to a day; what was stored before stays as it is.",
)


_NEW_CREDENTIAL: Final = (
    f"{KEYS_PAGE}: make an Admin API key and put it into the block, or with a gateway into its "
    "admin_key_file"
)


def check_credential(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """A refused credential fails; an Admin API that does not respond is unknown."""
    read = findings.anthropic.organization
    if isinstance(read, Failed):
        if read.status in {"401", "403"}:
            yield CREDENTIAL.failed(str(read), _NEW_CREDENTIAL)
        else:
            yield CREDENTIAL.unknown(read)
        return
    found = f"organization {read.value.id} ({read.value.name})"
    expected = request.expected_organization
    if expected is not None and read.value.id != expected:
        yield CREDENTIAL.failed(
            f"{found}, expected {expected}",
            f"{KEYS_PAGE}: use an Admin API key of organization {expected}",
        )
    else:
        yield CREDENTIAL.passed(found)


def check_cmek(_: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """External keys can be listed; whether an attach is allowed shows only when it is sent."""
    read = findings.anthropic.external_keys
    if isinstance(read, Ok):
        yield CMEK.passed("external keys can be listed")
    elif read.status == "401":
        yield CMEK.failed(str(read), _NEW_CREDENTIAL)
    elif read.status in {"400", "403", "404"}:
        yield CMEK.failed(
            str(read), "ask your Anthropic account team to switch CMEK on for the organization"
        )
    else:
        yield CMEK.unknown(read)


def check_workspace(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """Not archived, and without a key or with this one; for a new workspace: the name is free."""
    if request.create_workspace is not None:
        yield _new(request.create_workspace, findings.anthropic.workspaces)
        return
    read = findings.anthropic.workspace or Failed("NOT_ASKED", "no workspace is named")
    another = "choose another workspace, or make one"
    if isinstance(read, Failed):
        if read.status == "404":
            yield WORKSPACE.failed(f"{request.workspace_id}: {read}", another)
        else:
            yield WORKSPACE.unknown(read)
        return
    workspace = read.value
    named = f"{workspace.id} ({workspace.name})"
    if workspace.is_archived:
        yield WORKSPACE.failed(f"{named} was archived at {workspace.archived_at}", another)
    elif workspace.external_key_id is None:
        yield WORKSPACE.passed(f"{named} is live and has no key")
    else:
        yield _attached(request, findings, named, workspace.external_key_id)


def _new(name: str, read: Result[tuple[Workspace, ...]] | None) -> Check:
    if not isinstance(read, Ok):
        return WORKSPACE.unknown(read or f"whether the name {name!r} is free was not read")
    taken = same_name_workspaces(read.value, name)
    if taken:
        return WORKSPACE.failed(
            f"{name!r} is taken, or looks like: {shown_workspaces(taken)}",
            "onboard that one by its id, or choose another name",
        )
    live = f"the name {name!r} is free among {len(read.value)} live workspaces"
    if len(read.value) > USUAL_LIMIT:  # `>`: the default workspace is in the list, not in the limit
        return WORKSPACE.warned(
            f"{live}, and an organization has at most {USUAL_LIMIT} unless Anthropic raised that",
            "archive one that nobody needs, or ask your Anthropic account team",
        )
    return WORKSPACE.passed(live)


def _attached(request: OnboardingRequest, findings: Findings, named: str, key_id: str) -> Check:
    read = findings.anthropic.workspace_key
    if not isinstance(read, Ok):
        return WORKSPACE.unknown(read or f"{named} has {key_id}, which was not read")
    name = read.value.gcp_key_name
    if name == str(request.key_name):
        return WORKSPACE.passed(f"{named} has this key already: {key_id}")
    return WORKSPACE.failed(
        f"{named} has another key, {key_id}: {name or 'not a Google Cloud key'}",
        "make a new workspace; a workspace's key can never be replaced",
    )


def check_acknowledged(request: OnboardingRequest, _: Findings) -> Iterator[Check]:
    """What no API shows: a person must acknowledge it before the attach."""
    yield RETENTION.unknown("No API shows it")
    yield FEATURES.warned(FEATURES.why)
    if request.create_workspace is not None:
        yield EFFECT.passed(f"{request.workspace} is covered from its first request on")
    else:
        yield EFFECT.warned(EFFECT.why)


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
    """The project was shut down, probably after the registration."""
    (check,) = check_project(facts.request, facts.findings)
    return _from_check(PROJECT, check)


def kms_api_off(facts: DiagnosisFacts) -> Cause:
    """The API was disabled, probably after the registration."""
    (check,) = check_kms_api(facts.request, facts.findings)
    return _from_check(API_OFF, check)


def billing_off(facts: DiagnosisFacts) -> Cause:
    """Billing was disabled, probably after the registration."""
    (check,) = check_billing(facts.request, facts.findings)
    return _from_check(BILLING_OFF, check)


def perimeter(facts: DiagnosisFacts) -> Cause:
    """Proved by the rules of a perimeter only; open if a perimeter refused our own read."""
    cause = _from_check(PERIMETER, judge_perimeters(facts.request, facts.findings))
    if cause.verdict == "proved" or refused_by_perimeter(facts.findings) is None:
        return cause
    (check,) = check_perimeters(facts.request, facts.findings)
    return PERIMETER.open(check.evidence, check.remedy or f"ask {check.who_can_tell}")


def deny_policy(facts: DiagnosisFacts) -> Cause:
    """Always open: deny policies override every grant, and are not read here."""
    # `gcloud policy-troubleshoot iam` knows nothing of deny policies
    troubleshoot = (
        "gcloud policy-intelligence troubleshoot-policy iam "
        f"//cloudkms.googleapis.com/{facts.request.key_name} --principal-email={SERVICE_ACCOUNT}"
    )
    return DENY_POLICY.open(
        "deny policies are not read here",
        " && ".join(f"{troubleshoot} --permission=cloudkms.{one}" for one in _USED),
    )


_USED: Final = (
    "cryptoKeyVersions.useToEncrypt",
    "cryptoKeyVersions.useToDecrypt",
    "cryptoKeys.get",
)
"""The permissions by which Anthropic uses a key."""


def anthropic_side(facts: DiagnosisFacts) -> Cause:
    """The last cause, when everything that we can read is in order; never excluded."""
    request = f" with request id {facts.request_id}" if facts.request_id else ""
    command = f"validate again later; if it stays so, write to Anthropic's support{request}"
    if facts.error_code == "external_key_validation_timed_out":
        return ANTHROPIC.open("Anthropic's check of the key did not finish in time", command)
    reads = (facts.findings.anthropic.organization, facts.findings.anthropic.external_keys)
    failing = [one for one in reads if isinstance(one, Failed) and one.status.startswith("5")]
    if failing:
        return ANTHROPIC.proved(str(failing[0]), command)
    answered = all(isinstance(one, Ok) for one in reads)
    state = "the Admin API answers" if answered else "the Admin API does not answer all our reads"
    return ANTHROPIC.open(state, command)


def code_rule(known: KnownCause, code: str, command: str) -> CauseRule:
    """A rule whose cause is proved by this error code of a refused attach, else excluded."""

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
