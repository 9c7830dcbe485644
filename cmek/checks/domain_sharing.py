"""Will the organization let us name Anthropic's service account in a policy? Three kinds of rule.

None of them is retroactive: a grant that stands already stays, but no policy that holds it can be
written again. Source: guide, "Troubleshooting";
https://docs.cloud.google.com/organization-policy/domain-restricted-sharing
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from cmek.anthropic_identity import MEMBER, ROLES, SERVICE_ACCOUNT
from cmek.checks.commands import org_policy_page
from cmek.checks.findings import Findings
from cmek.checks.google_models import PolicyRule
from cmek.checks.model import Check, Prerequisite
from cmek.checks.outcome import Answer, Refused, value_of
from cmek.iam_policy import unconditional_roles
from cmek.request import OnboardingRequest

LEGACY: Final = "iam.allowedPolicyMemberDomains"
MANAGED: Final = "iam.managed.allowedPolicyMembers"
ALLOW_POLICY: Final = "iam.googleapis.com/AllowPolicy"
WHO: Final = "whoever has orgpolicy.policy.get on the project (roles/orgpolicy.policyViewer)"

DRS_LEGACY: Final = Prerequisite(
    "drs_legacy",
    "Domain restricted sharing (legacy constraint) admits Anthropic",
    (f"orgpolicy.projects.policies.getEffectivePolicy ({LEGACY})",),
    WHO,
    "Google refuses the grant: the account does not belong to a permitted customer.",
)
DRS_MANAGED: Final = Prerequisite(
    "drs_managed",
    "Domain restricted sharing (managed constraint) admits Anthropic",
    (f"orgpolicy.projects.policies.getEffectivePolicy ({MANAGED})",),
    WHO,
    "Google refuses the grant: the account is not among the allowed members.",
)
DRS_CUSTOM: Final = Prerequisite(
    "drs_custom",
    "No custom constraint on IAM policies stands in the way",
    ("orgpolicy.organizations.customConstraints.list",),
    "an organization policy administrator, who can read the constraint's CEL expression "
    "(roles/orgpolicy.policyViewer on the organization)",
    "A custom constraint may refuse the grant; its expression can only be judged by Google.",
)

Verdict = tuple[bool | None, str]
"""Admitted, refused, or not decidable (None), and why."""


def check_legacy(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """By customer id, which the operator supplies; it can't except a single member."""
    read = findings.google.org_policies.get(LEGACY)
    customer, own = request.permitted_customer_id, findings.google.organization
    remedy = org_policy_page(LEGACY, request.key_name.project)
    remedy += ": allow Anthropic's customer id (ask your Anthropic contact) in this project"
    if not isinstance(read, Answer):
        yield DRS_LEGACY.unknown(read or "not read")
        return
    verdict = _over_rules(read.value.rules, lambda rule: _legacy_rule(rule, customer, own))
    yield _verdict(DRS_LEGACY, verdict, remedy, findings)


def check_managed(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """By member, so that Anthropic's account alone can be allowed."""
    read = findings.google.org_policies.get(MANAGED)
    remedy = org_policy_page(MANAGED, request.key_name.project)
    remedy += f": add {MEMBER} to allowedMemberSubjects"
    if not isinstance(read, Answer):
        yield DRS_MANAGED.unknown(read or "not read")
        return
    own = findings.google.organization
    verdict = _over_rules(read.value.rules, lambda rule: _managed_rule(rule, own))
    yield _verdict(DRS_MANAGED, verdict, remedy, findings)


def check_custom(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """Reported, never judged."""
    read = findings.google.custom_constraints
    if read is None and isinstance(findings.google.ancestors, Answer):
        yield DRS_CUSTOM.passed(f"project {request.key_name.project} is in no organization")
    elif read is None:
        yield DRS_CUSTOM.unknown("the project's organization could not be read")
    elif isinstance(read, Refused):
        yield DRS_CUSTOM.unknown(read)
    else:
        ours = [one for one in read.value if ALLOW_POLICY in one.resource_types]
        if ours:
            named = "; ".join(f"{one.id} ({one.action_type} {one.condition})" for one in ours)
            yield DRS_CUSTOM.unknown(f"not evaluable here: {named}")
        else:
            yield DRS_CUSTOM.passed(f"no custom constraint on {ALLOW_POLICY}")


def is_granted(findings: Findings) -> bool:
    """Whether both grants stand on the key already."""
    policy = value_of(findings.kms.key_policy)
    return policy is not None and unconditional_roles(policy, MEMBER).issuperset(ROLES)


def _legacy_rule(rule: PolicyRule, customer: str | None, own: str | None) -> Verdict:
    if rule.deny_all:
        return False, f"{LEGACY} denies every member"
    allowed = rule.values.allowed_values
    if rule.allow_all or not (allowed or rule.values.denied_values):
        return True, f"{LEGACY} restricts nobody"
    listed = f"{LEGACY} allows {', '.join(allowed)}"
    if customer and customer in {one.removeprefix("is:") for one in allowed}:
        return True, f"{listed}, Anthropic's {customer} among them"
    if _foreign(list(allowed), own):
        return None, f"{listed}; whose members the foreign organization's are is not known"
    if customer is None:
        return False, f"{listed}; Anthropic's customer id was not given, so it is not among them"
    return False, f"{listed}; Anthropic's {customer} is not among them"


def _managed_rule(rule: PolicyRule, own_organization: str | None) -> Verdict:
    if not rule.enforce:
        return True, f"{MANAGED} is not enforced"
    subjects = [str(one) for one in rule.parameters.get("allowedMemberSubjects", [])]
    sets = [str(one) for one in rule.parameters.get("allowedPrincipalSets", [])]
    if MEMBER in subjects:
        return True, f"{MANAGED} lists {SERVICE_ACCOUNT}"
    if MEMBER.casefold() in {one.casefold() for one in subjects}:
        return None, f"{MANAGED} lists {SERVICE_ACCOUNT} in another spelling"
    foreign = _foreign(sets, own_organization)
    if foreign:
        return None, f"{MANAGED} allows {', '.join(foreign)}; whose members those are is not known"
    return False, f"{MANAGED} is enforced and does not list {MEMBER}"


def _foreign(sets: list[str], own: str | None) -> list[str]:
    """Principal sets of organizations other than our own; Anthropic's may be one of them."""
    organizations = [one for one in sets if "organizations/" in one]
    return [one for one in organizations if own is None or not one.endswith(f"/{own}")]


def _over_rules(rules: tuple[PolicyRule, ...], judge: Callable[[PolicyRule], Verdict]) -> Verdict:
    if not rules:
        return True, "not set: the default restricts nobody"
    verdicts = [judge(rule) for rule in rules if rule.condition is None]
    if any(rule.condition is not None for rule in rules):
        return None, "the policy depends on resource tags, which are not evaluated here"
    refused = [verdict for verdict in verdicts if verdict[0] is not True]
    return refused[0] if refused else verdicts[0]


def _verdict(check: Prerequisite, verdict: Verdict, remedy: str, findings: Findings) -> Check:
    admitted, why = verdict
    if admitted:
        return check.passed(why)
    if admitted is None:
        return check.unknown(why, remedy)
    if is_granted(findings):
        return check.warned(f"{why}; the grants stand already, but can't be renewed", remedy)
    return check.failed(why, remedy)
