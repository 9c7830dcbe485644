"""Organization policies that decide whether the key can be made as asked, and stay rotatable.

Set after a key was made, the first two leave it working but make its automatic rotation fail.
Source: https://docs.cloud.google.com/kms/docs/org-policy-constraints,
https://docs.cloud.google.com/kms/docs/control-key-destruction,
https://docs.cloud.google.com/resource-manager/docs/organization-policy/defining-locations
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Final

from cmek.checks.commands import org_policy_page
from cmek.checks.domain_sharing import WHO
from cmek.checks.findings import Findings
from cmek.checks.google_models import PolicyRule
from cmek.checks.model import Check, Prerequisite
from cmek.checks.outcome import Answer, value_of
from cmek.request import OnboardingRequest

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
    """Single locations and the value groups that surely hold a US region."""
    location = request.key_name.location
    read = findings.google.org_policies.get(LOCATIONS)
    remedy = f"{org_policy_page(LOCATIONS, request.key_name.project)}: allow {location}"
    if not isinstance(read, Answer):
        yield LOCATION_POLICY.unknown(read or "not read")
        return
    allowed = _list_verdict(read.value.rules, lambda value: _covers(value, location))
    yield _judge(LOCATION_POLICY, allowed, f"{LOCATIONS} and {location}", remedy, findings)


def check_protection_policy(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """The level that is asked for is among the allowed ones."""
    level = request.protection_level
    read = findings.google.org_policies.get(PROTECTION)
    remedy = f"{org_policy_page(PROTECTION, request.key_name.project)}: allow {level}"
    if not isinstance(read, Answer):
        yield PROTECTION_POLICY.unknown(read or "not read")
        return
    allowed = _list_verdict(read.value.rules, lambda value: value.removeprefix("is:") == level)
    yield _judge(PROTECTION_POLICY, allowed, f"{PROTECTION} and {level}", remedy, findings)


def check_delay_policy(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """The delay of a new key is not below the minimum; an existing key's can't change anyway."""
    asked = timedelta(days=request.destroy_delay_days)
    read = findings.google.org_policies.get(MINIMUM_DELAY)
    if not isinstance(read, Answer):
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
    """A protection that Google offers; onboarding works without it."""
    read = findings.google.org_policies.get(DISABLE_FIRST)
    if not isinstance(read, Answer):
        yield DISABLE_POLICY.unknown(read or "not read")
    elif any(rule.enforce and rule.condition is None for rule in read.value.rules):
        yield DISABLE_POLICY.passed(f"{DISABLE_FIRST} is enforced")
    else:
        yield DISABLE_POLICY.warned(
            f"{DISABLE_FIRST} is not enforced",
            f"{org_policy_page(DISABLE_FIRST, request.key_name.project)}: turn enforcement on",
        )


def _covers(value: str, location: str) -> bool | None:
    """Whether a value names the location; None for a group whose members are not known here."""
    plain = value.removeprefix("is:")
    if plain in {location, f"in:{location}-locations"} or plain in US_GROUPS:
        return True
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


def _judge(
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
    return value_of(findings.kms.key) is None


def _days(value: str) -> timedelta | None:
    match = re.fullmatch(r"(?:in:|is:)?([0-9]+)d", value)
    return timedelta(days=int(match[1])) if match else None
