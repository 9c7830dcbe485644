"""Organization policies and the service perimeter of the sandbox's organization.

None means that the constraint is not set. Sources:
https://docs.cloud.google.com/organization-policy/domain-restricted-sharing,
https://docs.cloud.google.com/kms/docs/org-policy-constraints
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from sandbox.errors import GoogleError, precondition

ACME_CUSTOMER = "C0sandbox"
ANTHROPIC_CUSTOMER = "C0anthropic"


class OrgConstraints(BaseModel):
    """What the organization forbids, to every caller."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    allowed_policy_member_domains: list[str] | None = None
    """`iam.allowedPolicyMemberDomains`: customer ids whose members a policy may name."""
    allowed_member_subjects: list[str] | None = None
    """`iam.managed.allowedPolicyMembers`: members (`serviceAccount:…`) that a policy may name."""
    resource_locations: list[str] | None = None
    """`gcp.resourceLocations`: `us-east5` or value groups such as `in:us-locations`."""
    allowed_protection_levels: list[str] | None = None
    """`cloudkms.allowedProtectionLevels`: `HSM`, `SOFTWARE`, …"""
    minimum_destroy_scheduled_duration: timedelta | None = None
    """`cloudkms.minimumDestroyScheduledDuration`."""
    disable_before_destroy: bool = False
    """`cloudkms.disableBeforeDestroy`: only a disabled version may be scheduled for destruction."""
    perimeter_blocks: Literal["nobody", "anthropic", "all_but_anthropic", "everybody"] = "nobody"
    """Whom VPC Service Controls keeps away from Cloud KMS."""
    customers: dict[str, str] = Field(
        default_factory=lambda: {
            "example.com": ACME_CUSTOMER,
            "acme-kms-prod.iam.gserviceaccount.com": ACME_CUSTOMER,
            "gcp-anthropic-cmek-clients.iam.gserviceaccount.com": ANTHROPIC_CUSTOMER,
        }
    )
    """Which customer id a member's domain belongs to."""

    def check_members(self, members: set[str], project_number: str) -> None:
        """Raise FAILED_PRECONDITION, naming each forbidden member, also those of the old policy."""
        refused = sorted(member for member in members if self._is_outsider(member))
        if refused:
            raise _outsiders("constraints/iam.allowedPolicyMemberDomains", refused, project_number)
        subjects = self.allowed_member_subjects
        if subjects is not None and (refused := sorted(members - set(subjects))):
            raise _outsiders(
                "constraints/iam.managed.allowedPolicyMembers", refused, project_number
            )

    def _is_outsider(self, member: str) -> bool:
        if self.allowed_policy_member_domains is None:
            return False
        domain = member.rpartition("@")[2] or member
        return self.customers.get(domain) not in self.allowed_policy_member_domains

    def allows_location(self, location: str) -> bool:
        """Whether `gcp.resourceLocations` allows new resources there."""
        if self.resource_locations is None:
            return True
        area = location.partition("-")[0]
        names = {location, f"in:{location}-locations", f"in:{area}-locations"}
        return not names.isdisjoint(self.resource_locations)

    def check_location(self, location: str, what: str, project_number: str) -> None:
        """Raise FAILED_PRECONDITION for a resource in a forbidden location."""
        if not self.allows_location(location):
            problem = f" attempting to create a {what} in [{location}]."
            raise _violation("gcp.resourceLocations", problem, project_number)

    def allows_protection_level(self, level: str) -> bool:
        """Whether `cloudkms.allowedProtectionLevels` allows new versions of this level."""
        return self.allowed_protection_levels is None or level in self.allowed_protection_levels

    def check_protection_level(self, level: str, project_number: str) -> None:
        """Raise FAILED_PRECONDITION for a forbidden protection level."""
        if not self.allows_protection_level(level):
            problem = f": protection level {level} is not allowed."
            raise _violation("cloudkms.allowedProtectionLevels", problem, project_number)

    def check_destroy_duration(self, duration: timedelta, project_number: str) -> None:
        """Raise FAILED_PRECONDITION for a destruction delay below the organization's minimum."""
        minimum = self.minimum_destroy_scheduled_duration
        if minimum is not None and duration < minimum:
            problem = f": the minimum is {minimum}, the request has {duration}."
            raise _violation("cloudkms.minimumDestroyScheduledDuration", problem, project_number)


def _violation(name: str, problem: str, project_number: str) -> GoogleError:
    constraint, subject = f"constraints/{name}", f"orgpolicy:projects/{project_number}"
    message = f"Constraint {constraint} violated for [{subject}]{problem}"
    detail = precondition(constraint, subject, message)
    return GoogleError("FAILED_PRECONDITION", message, [detail])


def _outsiders(constraint: str, members: list[str], project_number: str) -> GoogleError:
    users = (member.partition(":")[2] or member for member in members)
    texts = (f"User {user} is not in permitted organization." for user in users)
    return GoogleError(
        "FAILED_PRECONDITION",
        "One or more users named in the policy do not belong to a permitted customer, "
        "perhaps due to an organization policy.",
        [precondition(constraint, f"orgpolicy:projects/{project_number}", *texts)],
    )
