"""Organization Policy, Access Context Manager and KMS Inventory, as far as the checks read them."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any, Final

from sandbox.google_calls import PROJECT, Call, Method, page
from sandbox.google_projects import KMS
from sandbox.google_state import ACCESS_POLICY, Json
from sandbox.kms_errors import invalid, not_found
from sandbox.org_constraints import OrgConstraints


def get_effective_policy(call: Call) -> Json:
    """Set rules, or those that say what `OrgConstraints` enforces, or the constraint's default."""
    constraint = call.names["constraint"]
    rules = call.world.google.policy_rules.get(constraint)
    if rules is None:
        rules = _rules(call.world.kms.constraints, constraint)
    name = f"projects/{call.project.number}/policies/{constraint}"
    return {"name": name, "spec": {"rules": rules}}


def _rules(constraints: OrgConstraints, constraint: str) -> list[Json]:
    minimum = constraints.minimum_destroy_scheduled_duration
    lists: dict[str, list[str] | None] = {
        "iam.allowedPolicyMemberDomains": constraints.allowed_policy_member_domains,
        "gcp.resourceLocations": constraints.resource_locations,
        "cloudkms.allowedProtectionLevels": constraints.allowed_protection_levels,
        "cloudkms.minimumDestroyScheduledDuration": _duration(minimum),
    }
    if constraint in lists:
        values = lists[constraint]
        return [{"allowAll": True} if values is None else {"values": {"allowedValues": values}}]
    if constraint == "cloudkms.disableBeforeDestroy":
        return [{"enforce": constraints.disable_before_destroy}]
    if constraint == "iam.managed.allowedPolicyMembers":
        subjects = constraints.allowed_member_subjects
        if subjects is None:
            return [{"enforce": False}]
        return [{"enforce": True, "parameters": {"allowedMemberSubjects": subjects}}]
    raise not_found("Constraint", constraint)


def _duration(minimum: timedelta | None) -> list[str] | None:
    return None if minimum is None else [f"in:{minimum.days}d"]


def list_custom_constraints(call: Call) -> Json:
    """The organization's own constraints."""
    return page(call, call.world.google.custom_constraints, "customConstraints")


def list_access_policies(call: Call) -> Json:
    """The organization's access policies."""
    parent = call.query.get("parent", "")
    if not re.fullmatch(r"organizations/[0-9]+", parent):
        raise invalid("parent: expected organizations/{organization_id}.")
    return page(call, call.world.google.access_policies, "accessPolicies")


def list_perimeters(call: Call) -> Json:
    """Set perimeters and the one that `perimeter_blocks` stands for."""
    policy = call.names["resource"]
    known = {one["name"] for one in call.world.google.access_policies}
    if policy not in known:
        raise not_found("AccessPolicy", policy)
    perimeters = list(call.world.google.perimeters.get(policy, []))
    if policy == ACCESS_POLICY and call.world.kms.constraints.perimeter_blocks != "nobody":
        perimeters.append(_blocking_perimeter(call))
    return page(call, perimeters, "servicePerimeters")


def _blocking_perimeter(call: Call) -> Json:
    numbers = [project.number for project in call.world.kms.projects.values()]
    status: dict[str, Any] = {
        "resources": [f"projects/{number}" for number in numbers],
        "restrictedServices": [KMS],
    }
    return {
        "name": f"{ACCESS_POLICY}/servicePerimeters/sandbox",
        "title": "sandbox",
        "perimeterType": "PERIMETER_TYPE_REGULAR",
        "status": status,
    }


def get_protected_resources(call: Call) -> Json:
    """How many Google Cloud resources the key protects; none unless set."""
    parts = call.names["resource"].split("/")
    name = "/".join(["projects", call.project.id, *parts[2:]])
    if name not in call.world.kms.crypto_keys:
        raise not_found("CryptoKey", name)
    summary = call.world.google.protected_resources.get(name, {"resourceCount": "0"})
    return {"name": f"{name}/protectedResourcesSummary", **summary}


METHODS: Final = (
    Method(
        "orgpolicy.projects.policies.getEffectivePolicy",
        "GET",
        re.compile(
            rf"/v2/(?P<resource>projects/{PROJECT})/policies/(?P<constraint>[A-Za-z0-9.]+)"
            ":getEffectivePolicy"
        ),
        get_effective_policy,
        "orgpolicy.policy.get",
    ),
    Method(
        "orgpolicy.organizations.customConstraints.list",
        "GET",
        re.compile(r"/v2/(?P<resource>organizations/[0-9]+)/customConstraints"),
        list_custom_constraints,
        "orgpolicy.customConstraints.list",
    ),
    Method(
        "accesscontextmanager.accessPolicies.list",
        "GET",
        re.compile(r"/v1/accessPolicies"),
        list_access_policies,
        "accesscontextmanager.policies.list",
    ),
    Method(
        "accesscontextmanager.accessPolicies.servicePerimeters.list",
        "GET",
        re.compile(r"/v1/(?P<resource>accessPolicies/[0-9]+)/servicePerimeters"),
        list_perimeters,
        "accesscontextmanager.servicePerimeters.list",
    ),
    Method(
        "kmsinventory.projects.locations.keyRings.cryptoKeys.getProtectedResourcesSummary",
        "GET",
        re.compile(
            rf"/v1/(?P<resource>projects/{PROJECT}/locations/[^/]+/keyRings/[^/]+"
            r"/cryptoKeys/[^/]+)/protectedResourcesSummary"
        ),
        get_protected_resources,
        "cloudkms.protectedResources.search",
    ),
)
