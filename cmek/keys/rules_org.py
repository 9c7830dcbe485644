"""Rules about the organization: domain restricted sharing, organization policies, VPC perimeters.

Domain restricted sharing has three forms; each can forbid to name Anthropic's service account in a
policy. None is retroactive: an existing grant stays, but a policy with it can't be written again.
Source: guide, "Troubleshooting";
https://docs.cloud.google.com/organization-policy/domain-restricted-sharing

Organization policies decide whether the key can be created as requested, and whether it can rotate:
if the first two are set after a key was created, it works, but its automatic rotation fails.
Source: https://docs.cloud.google.com/kms/docs/org-policy-constraints,
https://docs.cloud.google.com/kms/docs/control-key-destruction,
https://docs.cloud.google.com/resource-manager/docs/organization-policy/defining-locations

A VPC Service Controls perimeter can refuse Anthropic's calls to Cloud KMS. It is readable at the
organization only; if we may not read it, only Anthropic's validation can tell.
Source: guide, "Troubleshooting"; https://docs.cloud.google.com/vpc-service-controls/docs; the
discovery document accesscontextmanager v1 (ServicePerimeterConfig, IngressPolicy)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from cmek._http import Failed, Ok, ok_value
from cmek.anthropic_identity import MEMBER, SERVICE_ACCOUNT
from cmek.gcp.gcloud import leave_perimeter, org_policy_page, perimeters_page
from cmek.gcp.iam import unconditional_roles
from cmek.gcp.project_apis import (
    IngressFrom,
    IngressPolicy,
    IngressTo,
    PerimeterConfig,
    PolicyRule,
    ServicePerimeter,
)
from cmek.keys.conditions import missing_roles
from cmek.keys.rules_project import KMS
from cmek.keys.snapshot import Findings
from cmek.keys.verdicts import Check, Prerequisite
from cmek.onboarding.request import OnboardingRequest

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
"""Allowed (True), refused (False) or not decidable (None), and why."""


def check_legacy(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """The legacy constraint allows customer ids; Anthropic's comes from the operator's policy."""
    read = findings.google.org_policies.get(LEGACY)
    customer, own = request.permitted_customer_id, findings.google.organization
    remedy = org_policy_page(LEGACY, request.key_name.project)
    remedy += ": allow Anthropic's customer id (ask your Anthropic contact) in this project"
    if not isinstance(read, Ok):
        yield DRS_LEGACY.unknown(read or "not read")
        return
    verdict = _over_rules(read.value.rules, lambda rule: _legacy_rule(rule, customer, own))
    yield _verdict(DRS_LEGACY, verdict, remedy, findings)


def check_managed(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """The managed constraint allows single members, so it can allow Anthropic's account alone."""
    read = findings.google.org_policies.get(MANAGED)
    remedy = org_policy_page(MANAGED, request.key_name.project)
    remedy += f": add {MEMBER} to allowedMemberSubjects"
    if not isinstance(read, Ok):
        yield DRS_MANAGED.unknown(read or "not read")
        return
    own = findings.google.organization
    verdict = _over_rules(read.value.rules, lambda rule: _managed_rule(rule, own))
    yield _verdict(DRS_MANAGED, verdict, remedy, findings)


def check_custom(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """Custom constraints are reported, never judged: only Google can evaluate their expressions."""
    read = findings.google.custom_constraints
    if read is None and isinstance(findings.google.ancestors, Ok):
        yield DRS_CUSTOM.passed(f"project {request.key_name.project} is in no organization")
    elif read is None:
        yield DRS_CUSTOM.unknown("the project's organization could not be read")
    elif isinstance(read, Failed):
        yield DRS_CUSTOM.unknown(read)
    else:
        ours = [one for one in read.value if ALLOW_POLICY in one.resource_types]
        if ours:
            named = "; ".join(f"{one.id} ({one.action_type} {one.condition})" for one in ours)
            yield DRS_CUSTOM.unknown(f"not evaluable here: {named}")
        else:
            yield DRS_CUSTOM.passed(f"no custom constraint on {ALLOW_POLICY}")


def is_granted(findings: Findings) -> bool:
    """Whether both grants are already on the key."""
    policy = ok_value(findings.kms.key_policy)
    return policy is not None and not missing_roles(unconditional_roles(policy, MEMBER))


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
        # it is not known whether Google ignores case here
        return None, f"{MANAGED} lists {SERVICE_ACCOUNT} in another spelling"
    foreign = _foreign(sets, own_organization)
    if foreign:
        return None, f"{MANAGED} allows {', '.join(foreign)}; whose members those are is not known"
    return False, f"{MANAGED} is enforced and does not list {MEMBER}"


def _foreign(sets: list[str], own: str | None) -> list[str]:
    """Principal sets of organizations other than our own; one of them may be Anthropic's."""
    organizations = [one for one in sets if "organizations/" in one]
    return [one for one in organizations if own is None or not one.endswith(f"/{own}")]


def _over_rules(rules: tuple[PolicyRule, ...], judge: Callable[[PolicyRule], Verdict]) -> Verdict:
    if not rules:
        return True, "not set: the default restricts nobody"
    verdicts = [judge(rule) for rule in rules if rule.condition is None]
    if any(rule.condition is not None for rule in rules):
        return None, "the policy depends on resource tags, which are not evaluated here"
    # every rule must allow the member
    not_allowed = [verdict for verdict in verdicts if verdict[0] is not True]
    return not_allowed[0] if not_allowed else verdicts[0]


def _verdict(check: Prerequisite, verdict: Verdict, remedy: str, findings: Findings) -> Check:
    admitted, why = verdict
    if admitted:
        return check.passed(why)
    if admitted is None:
        return check.unknown(why, remedy)
    if is_granted(findings):
        return check.warned(f"{why}; the grants exist already, but can't be renewed", remedy)
    return check.failed(why, remedy)


LOCATIONS: Final = "gcp.resourceLocations"
PROTECTION: Final = "cloudkms.allowedProtectionLevels"
MINIMUM_DELAY: Final = "cloudkms.minimumDestroyScheduledDuration"
DISABLE_FIRST: Final = "cloudkms.disableBeforeDestroy"
US_GROUPS: Final = ("in:us-locations", "in:northamerica-locations")


def _effective(constraint: str) -> tuple[str, ...]:
    return (f"orgpolicy.projects.policies.getEffectivePolicy ({constraint})",)


LOCATION_POLICY: Final = Prerequisite(
    "location_policy",
    "Organization policy allows the location",
    _effective(LOCATIONS),
    WHO,
    "Google refuses to make the ring there, or later to rotate the key.",
)
PROTECTION_POLICY: Final = Prerequisite(
    "protection_policy",
    "Organization policy allows the protection level",
    _effective(PROTECTION),
    WHO,
    "Google refuses to make the key, or later to rotate it.",
)
DELAY_POLICY: Final = Prerequisite(
    "destroy_delay_policy",
    "Organization policy allows the destroy delay",
    _effective(MINIMUM_DELAY),
    WHO,
    "Google refuses to make a key whose versions could be destroyed sooner.",
)
DISABLE_POLICY: Final = Prerequisite(
    "disable_before_destroy",
    "A version must be disabled before it can be destroyed",
    _effective(DISABLE_FIRST),
    WHO,
    "Recommended: without it one command schedules the loss of all data under a version.",
)


def check_location_policy(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """The policy's values name the location, or a value group that certainly contains it."""
    location = request.key_name.location
    read = findings.google.org_policies.get(LOCATIONS)
    remedy = f"{org_policy_page(LOCATIONS, request.key_name.project)}: allow {location}"
    if not isinstance(read, Ok):
        yield LOCATION_POLICY.unknown(read or "not read")
        return
    allowed = _list_verdict(read.value.rules, lambda value: _covers(value, location))
    yield _judge_org_policy(
        LOCATION_POLICY, allowed, f"{LOCATIONS} and {location}", remedy, findings
    )


def check_protection_policy(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """The policy allows the requested protection level."""
    level = request.protection_level
    read = findings.google.org_policies.get(PROTECTION)
    remedy = f"{org_policy_page(PROTECTION, request.key_name.project)}: allow {level}"
    if not isinstance(read, Ok):
        yield PROTECTION_POLICY.unknown(read or "not read")
        return
    allowed = _list_verdict(read.value.rules, lambda value: value.removeprefix("is:") == level)
    yield _judge_org_policy(
        PROTECTION_POLICY, allowed, f"{PROTECTION} and {level}", remedy, findings
    )


def check_delay_policy(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """The delay of a new key is not below the minimum; that of an existing key can't change."""
    asked = timedelta(days=request.destroy_delay_days)
    read = findings.google.org_policies.get(MINIMUM_DELAY)
    if not isinstance(read, Ok):
        yield DELAY_POLICY.unknown(read or "not read")
        return
    values = [value for rule in read.value.rules for value in rule.values.allowed_values]
    days = [_days(value) for value in values]
    known = [one for one in days if one is not None]
    if None in days or any(rule.condition for rule in read.value.rules):
        yield DELAY_POLICY.unknown(f"{MINIMUM_DELAY} is {values}, which is not understood here")
    elif known and asked < min(known) and _makes_a_key(findings):
        yield DELAY_POLICY.failed(
            f"{MINIMUM_DELAY} is {min(known).days} days, asked for {asked.days}",
            f"ask for a destroy delay of {min(known).days} days or more",
        )
    else:
        minimum = f"{min(known).days} days" if known else "not set"
        yield DELAY_POLICY.passed(f"{MINIMUM_DELAY} is {minimum}, asked for {asked.days} days")


def check_disable_policy(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """A recommended protection; onboarding works without it."""
    read = findings.google.org_policies.get(DISABLE_FIRST)
    if not isinstance(read, Ok):
        yield DISABLE_POLICY.unknown(read or "not read")
    elif any(rule.enforce and rule.condition is None for rule in read.value.rules):
        yield DISABLE_POLICY.passed(f"{DISABLE_FIRST} is enforced")
    else:
        yield DISABLE_POLICY.warned(
            f"{DISABLE_FIRST} is not enforced",
            f"{org_policy_page(DISABLE_FIRST, request.key_name.project)}: turn enforcement on",
        )


def _covers(value: str, location: str) -> bool | None:
    """Whether a value includes the location; None for a group whose members are not known here."""
    plain = value.removeprefix("is:")
    if plain in {location, f"in:{location}-locations"} or plain in US_GROUPS:
        return True
    # groups of other regions and continents certainly do not include a US region
    if plain.startswith("in:") and not re.fullmatch(
        r"in:(?:[a-z]+-[a-z]+[0-9]+|eu|europe|asia|africa|australia|southamerica|me|ca)-locations",
        plain,
    ):
        return None
    return False


def _list_verdict(
    rules: tuple[PolicyRule, ...], covers: Callable[[str], bool | None]
) -> bool | None:
    if any(rule.condition is not None for rule in rules):
        return None
    if any(rule.deny_all for rule in rules):
        return False
    denied = [covers(value) for rule in rules for value in rule.values.denied_values]
    if True in denied:
        return False
    allowed = [covers(value) for rule in rules for value in rule.values.allowed_values]
    if None in denied:
        return None
    if not allowed or True in allowed:
        return True
    return None if None in allowed else False


def _judge_org_policy(
    check: Prerequisite, allowed: bool | None, what: str, remedy: str, findings: Findings
) -> Check:
    if allowed is None:
        return check.unknown(f"{what}: the policy's values can't be evaluated here", remedy)
    if allowed:
        return check.passed(f"{what}: allowed")
    if _makes_a_key(findings):
        return check.failed(f"{what}: not allowed", remedy)
    return check.warned(f"{what}: not allowed; the key exists, but its rotation will fail", remedy)


def _makes_a_key(findings: Findings) -> bool:
    return ok_value(findings.kms.key) is None


def _days(value: str) -> timedelta | None:
    match = re.fullmatch(r"(?:in:|is:)?([0-9]+)d", value)
    return timedelta(days=int(match[1])) if match else None


PERIMETER: Final = Prerequisite(
    "perimeter",
    "VPC Service Controls lets Anthropic reach Cloud KMS",
    (
        "accesscontextmanager.accessPolicies.list",
        "accesscontextmanager.accessPolicies.servicePerimeters.list",
    ),
    "an Access Context Manager reader on the organization "
    "(roles/accesscontextmanager.policyReader); in the end Anthropic's validation",
    "Google turns Anthropic's calls away at the perimeter, whatever IAM says.",
)
INGRESS: Final = (
    f"add an ingress rule for {MEMBER} to {KMS} (all sources), or an access level for "
    "Anthropic's outbound addresses 160.79.104.0/21"
)

Admission = bool | None
"""Admitted (True), refused (False) or not decidable (None)."""


def check_perimeters(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """Fails also if a perimeter refused our own read, since an onboarding then can't go on."""
    refused, rules = refused_by_perimeter(findings), judge_perimeters(request, findings)
    if refused is None:
        yield rules
        return
    also = f"Unless the perimeter lets Anthropic in already, also {INGRESS}"
    if rules.status == "fail" and rules.remedy:
        also = rules.remedy
    yield PERIMETER.failed(
        "a perimeter refused our own read; whether it admits Anthropic, only its rules can show "
        f"({rules.evidence}): {refused}",
        f"perimeter administrator: add an ingress rule for {findings.google.caller} to {KMS}. "
        f"{also}",
    )


def judge_perimeters(request: OnboardingRequest, findings: Findings) -> Check:
    """By what the perimeters around the project list; whom Google refused does not count."""
    organization, number = findings.google.organization, findings.google.project_number
    if isinstance(findings.google.ancestors, Ok) and organization is None:
        return PERIMETER.passed(f"project {request.key_name.project} is in no organization")
    if (refused := _first_refusal(findings)) is not None:
        return PERIMETER.unknown(refused)
    if number is None or organization is None:
        return PERIMETER.unknown("the project's number or organization could not be read")
    lineage = (f"projects/{number}", *(ok_value(findings.google.ancestors) or ()))
    return _by_rules(_regular(findings), lineage, perimeters_page(organization))


def refused_by_perimeter(findings: Findings) -> Failed | None:
    """A read of Cloud KMS that a perimeter refused to us; it may still admit Anthropic."""
    return next(
        (one for one in findings.kms.answers if isinstance(one, Failed) and one.is_perimeter),
        None,
    )


def _first_refusal(findings: Findings) -> Failed | None:
    reads = (
        findings.google.ancestors,
        findings.google.access_policies,
        *findings.google.perimeters,
    )
    return next((read for read in reads if isinstance(read, Failed)), None)


def _regular(findings: Findings) -> list[ServicePerimeter]:
    every = [one for read in findings.google.perimeters for one in ok_value(read) or ()]
    # a bridge only connects perimeters; it restricts no service
    return [one for one in every if one.perimeter_type != "PERIMETER_TYPE_BRIDGE"]


@dataclass(frozen=True, slots=True)
class _Enclosure:
    """A perimeter with the project or a folder above it as a member: in force, or in dry run."""

    perimeter: ServicePerimeter
    members: tuple[str, ...]
    """The project and folders above it that the perimeter lists, nearest first."""
    config: PerimeterConfig
    is_dry_run_spec: bool
    admits: Admission

    @property
    def restricts(self) -> bool:
        """Whether it restricts Cloud KMS."""
        return KMS in self.config.restricted_services

    def __str__(self) -> str:
        title, (nearest, *_) = self.perimeter.title or self.perimeter.name, self.members
        return title if nearest.startswith("projects/") else f"{title} (around {nearest})"


def _enclosures(
    perimeters: list[ServicePerimeter], lineage: tuple[str, ...], *, dry_run: bool
) -> list[_Enclosure]:
    """Those around the project, nearest first; without an explicit spec the dry run is as in force.

    Args:
        perimeters: Regular ones.
        lineage: The project, its folders and its organization, nearest first.
        dry_run: Whether as their dry run would make them.
    """
    found = []
    for one in perimeters:
        is_spec = dry_run and one.use_explicit_dry_run_spec
        config = one.spec if is_spec else one.status
        members = tuple(name for name in lineage if name in config.resources)
        if members:
            admits = _admits(config, lineage)
            found.append(_Enclosure(one, members, config, is_spec, admits))
    return sorted(found, key=lambda one: lineage.index(one.members[0]))


def _nearest(around: list[_Enclosure]) -> list[_Enclosure]:
    """Only the perimeter of the nearest member applies; dry runs are ranked apart in the same way.

    Source: https://docs.cloud.google.com/vpc-service-controls/docs/folder-membership
    """
    return [one for one in around if one.members[0] == around[0].members[0]]


def _by_rules(perimeters: list[ServicePerimeter], lineage: tuple[str, ...], page: str) -> Check:
    around = _enclosures(perimeters, lineage, dry_run=False)
    restricting = [one for one in _nearest(around) if one.restricts]
    # one perimeter that refuses is enough, whatever the others admit
    if shut := [one for one in restricting if one.admits is False]:
        return PERIMETER.failed(
            f"perimeter {_listed(shut)} restricts {KMS} and does not let Anthropic in",
            _way_in(page, around),
        )
    if unclear := [one for one in restricting if one.admits is None]:
        return PERIMETER.unknown(
            f"perimeter {_listed(unclear)} restricts {KMS}; whether its access levels or "
            "ingress rules admit Anthropic is not decidable here",
            _way_in(page, around),
        )
    planned = _enclosures(perimeters, lineage, dry_run=True)
    if doubtful := [one for one in _nearest(planned) if one.restricts and not one.admits]:
        refuses = any(one.admits is False for one in doubtful)
        effect = "not let Anthropic in" if refuses else "perhaps not let Anthropic in"
        return PERIMETER.warned(
            f"dry run of perimeter {_listed(doubtful)} would restrict {KMS} and {effect}",
            _way_in(page, planned),
        )
    if restricting:
        return PERIMETER.passed(f"perimeter {_listed(restricting)} lets Anthropic in")
    if any(one.restricts for one in around):
        nearest = f"{_listed(_nearest(around))}, the nearest around {lineage[0]}"
        return PERIMETER.passed(f"perimeter {nearest}, does not restrict {KMS}")
    return PERIMETER.passed(f"no perimeter around {lineage[0]} restricts {KMS}")


def _listed(found: list[_Enclosure]) -> str:
    return ", ".join(str(one) for one in found)


def _way_in(page: str, around: list[_Enclosure]) -> str:
    """An ingress rule, or out of every perimeter that is in the way: outer ones apply next."""
    leave = [one for one in around if one.restricts and not one.admits]
    members = dict.fromkeys(name for one in leave for name in one.members)
    what = " and ".join(
        "the project" if name.startswith("projects/") else f"{name} with every project below it"
        for name in members
    )
    commands = [
        leave_perimeter(one.perimeter.name, one.members, dry_run=one.is_dry_run_spec)
        for one in leave
    ]
    return f"{page}: {INGRESS}. Or exclude {what}: {' && '.join(commands)}"


def _admits(config: PerimeterConfig, lineage: tuple[str, ...]) -> Admission:
    rules = [_rule_admits(rule, lineage) for rule in config.ingress_policies]
    if True in rules:
        return True
    # an access level may contain Anthropic's addresses: its definition is not read here
    return None if None in rules or config.access_levels else False


def _rule_admits(rule: IngressPolicy, lineage: tuple[str, ...]) -> Admission:
    """All parts must match: one that does not is enough for False, one undecidable for None."""
    parts = (
        not {"*", *lineage}.isdisjoint(rule.ingress_to.resources),
        _names_anthropic(rule.ingress_from),
        # an access level, a network or an organization as the source may be Anthropic's
        any(one.access_level == "*" for one in rule.ingress_from.sources) or None,
        _allows_kms(rule.ingress_to),
    )
    if False in parts:
        return False
    return None if None in parts else True


def _names_anthropic(source: IngressFrom) -> Admission:
    if source.identity_type in {"ANY_IDENTITY", "ANY_SERVICE_ACCOUNT"}:
        return True
    listed = source.identity_type in {"", "IDENTITY_TYPE_UNSPECIFIED"}
    if listed and MEMBER in source.identities:
        return True
    if all(_is_another(one) for one in source.identities):
        # a type that Google adds later may include service accounts
        return False if listed or source.identity_type == "ANY_USER_ACCOUNT" else None
    return None


def _is_another(identity: str) -> bool:
    """A single other account. Groups and principal sets may contain Anthropic's account."""
    single = identity.startswith(("user:", "serviceAccount:", "principal://"))
    # it is not known whether Google ignores case here
    return single and SERVICE_ACCOUNT not in identity.casefold()


def _allows_kms(target: IngressTo) -> Admission:
    """A rule has operations or roles; which permissions a role has is not read here."""
    operations = [one for one in target.operations if one.service_name in {"*", KMS}]
    if target.roles:
        return None
    if not operations:
        return False
    every = any(
        one.service_name == "*" or any(each.get("method") == "*" for each in one.method_selectors)
        for one in operations
    )
    # of which methods and permissions Anthropic needs there is no list
    return every or None
