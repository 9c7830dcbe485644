"""One call to a Google API of the checks: which method, may the caller, what it answers.

Resource Manager, Cloud Billing and Service Usage, as far as the checks read them.

Organization Policy, Access Context Manager and KMS Inventory, as far as the checks read them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from google.iam.v1 import policy_pb2

from sandbox.errors import GoogleError, error_info, invalid, not_found
from sandbox.google_state import ACCESS_POLICY, Json
from sandbox.iam import EMPTY_ETAG, allows, read_policy, write_policy
from sandbox.identities import Identity
from sandbox.kms.state import Project, from_json, to_json
from sandbox.org_policy import OrgConstraints
from sandbox.world import World

PROJECT: Final = r"(?P<project>[^/:]+)"


@dataclass(frozen=True, slots=True)
class Call:
    """A request that found its method."""

    world: World
    caller: Identity
    names: dict[str, str]
    """The path's parts by name."""
    query: dict[str, str] = field(default_factory=dict)
    body: Json = field(default_factory=dict)

    @property
    def project(self) -> Project:
        """The project in the path.

        Raises:
            GoogleError: PERMISSION_DENIED, as Google says of a project that does not exist.
        """
        given = self.names["project"]
        project = self.world.kms.project(given)
        if project is None:
            raise denied("resourcemanager.projects.get", f"projects/{given}")
        return project


@dataclass(frozen=True, slots=True)
class Method:
    """A method of a discovery document."""

    id: str
    """The discovery id, whose first part names the API."""
    verb: str
    path: re.Pattern[str]
    run: Callable[[Call], Json]
    permission: str | None = None
    write: bool = False

    @property
    def service(self) -> str:
        """`cloudbilling.googleapis.com`."""
        return f"{self.id.partition('.')[0]}.googleapis.com"

    def answer(self, call: Call) -> Json:
        """Run it, if its API is on and the caller may.

        Raises:
            GoogleError: PERMISSION_DENIED with SERVICE_DISABLED, or naming the permission.
        """
        if self.service in call.world.google.disabled_services:
            raise service_disabled(self.service, call)
        if self.permission is not None:
            require(call, self.permission)
        return self.run(call)


def require(call: Call, permission: str) -> None:
    """Refuse a caller who lacks the permission.

    Raises:
        GoogleError: PERMISSION_DENIED naming permission and resource.
    """
    verdict = call.caller.verdict(permission)
    if verdict is None and "project" in call.names:
        verdict = allows(call.world, call.caller, permission, f"projects/{call.project.id}")
    if not verdict:
        raise denied(permission, call.names.get("resource", "the requested resource"))


def denied(permission: str, resource: str) -> GoogleError:
    """The caller lacks `permission`, or there is no such resource."""
    message = f"Permission '{permission}' denied on resource '{resource}' (or it may not exist)."
    info = error_info(
        "IAM_PERMISSION_DENIED", "iam.googleapis.com", permission=permission, resource=resource
    )
    return GoogleError("PERMISSION_DENIED", message, [info])


def service_disabled(service: str, call: Call) -> GoogleError:
    """The API is off in the caller's project."""
    project = next(iter(call.world.kms.projects.values()))
    number = call.project.number if "project" in call.names else project.number
    message = (
        f"{service} has not been used in project {number} before or it is disabled. Enable it by "
        f"visiting https://console.developers.google.com/apis/api/{service}/overview?project="
        f"{number} then retry."
    )
    info = error_info("SERVICE_DISABLED", service=service, consumer=f"projects/{number}")
    return GoogleError("PERMISSION_DENIED", message, [info])


def page(call: Call, items: list[Json], field_name: str) -> Json:
    """One page of a list.

    Raises:
        GoogleError: INVALID_ARGUMENT for a bad size or token.
    """
    try:
        start = int(call.query.get("pageToken") or 0)
        size = int(call.query.get("pageSize") or 0) or call.world.google.page_size
    except ValueError as error:
        raise invalid("Request contains an invalid argument.") from error
    if not 0 <= start <= len(items) or size < 0:
        raise invalid("Request contains an invalid argument.")
    answer: Json = {field_name: items[start : start + size]} if items else {}
    if start + size < len(items):
        answer["nextPageToken"] = str(start + size)
    return answer


KMS: Final = "cloudkms.googleapis.com"


def get_project(call: Call) -> Json:
    """State and number, and the direct parent."""
    project = call.project
    state = call.world.google.project_states.get(project.id, "ACTIVE")
    parent = {"parent": project.ancestors[0]} if project.ancestors else {}
    return {
        "name": f"projects/{project.number}",
        "projectId": project.id,
        "displayName": project.id,
        "state": state,
        **parent,
    }


def get_ancestry(call: Call) -> Json:
    """The project itself, then its folders and its organization."""
    project = call.project
    above = [name.split("/") for name in project.ancestors]
    ids = [("project", project.id), *((kind.removesuffix("s"), number) for kind, number in above)]
    return {"ancestor": [{"resourceId": {"type": kind, "id": one}} for kind, one in ids]}


def get_billing_info(call: Call) -> Json:
    """Enabled by the switch that Cloud KMS obeys too."""
    name = f"projects/{call.project.id}"
    info: Json = {"name": f"{name}/billingInfo", "projectId": call.project.id}
    if call.world.switches.billing_enabled:
        info |= {
            "billingAccountName": "billingAccounts/000000-SANDBX-000000",
            "billingEnabled": True,
        }
    return info


def get_service(call: Call) -> Json:
    """Cloud KMS by its switch, others unless they are listed as off."""
    service = call.names["service"]
    off = service in call.world.google.disabled_services
    if service == KMS:
        off = not call.world.switches.kms_api_enabled
    return {
        "name": f"projects/{call.project.number}/services/{service}",
        "parent": f"projects/{call.project.number}",
        "state": "DISABLED" if off else "ENABLED",
    }


def get_iam_policy(call: Call) -> Json:
    """The policy set on project, folder or organization itself."""
    resource, version = _resource(call), call.body.get("options", {})
    policy = read_policy(call.world, resource, int(version.get("requestedPolicyVersion", 0)))
    if resource.startswith("projects/") and policy.etag == EMPTY_ETAG:
        policy.audit_configs.append(_default_audit_config(call))
    return to_json(policy)


def set_iam_policy(call: Call) -> Json:
    """Replace it."""
    asked = from_json(policy_pb2.Policy, call.body.get("policy", {}))
    number = next(iter(call.world.kms.projects.values())).number
    return to_json(write_policy(call.world, _resource(call), asked, number))


def test_iam_permissions(call: Call) -> Json:
    """Which of the permissions the caller has on the project; needs none itself."""
    project = f"projects/{call.project.id}"
    asked: list[str] = call.body.get("permissions", [])
    if any("*" in one for one in asked):
        raise invalid("Permission patterns are not supported.")
    held = [one for one in asked if allows(call.world, call.caller, one, project)]
    return {"permissions": held} if held else {}


def _resource(call: Call) -> str:
    if "project" in call.names:
        return f"projects/{call.project.id}"
    return call.names["resource"]


def _default_audit_config(call: Call) -> policy_pb2.AuditConfig:
    return policy_pb2.AuditConfig(
        service=KMS,
        audit_log_configs=[
            policy_pb2.AuditLogConfig(log_type=policy_pb2.AuditLogConfig.LogType.Value(kind))
            for kind in call.world.google.data_access_logs
        ],
    )


_V3 = rf"/v3/(?P<resource>projects/{PROJECT})"
_FOLDER = r"/v3/(?P<resource>folders/[0-9]+)"
_ORGANIZATION = r"/v3/(?P<resource>organizations/[0-9]+)"
_MANAGER = "cloudresourcemanager"

PROJECT_METHODS: Final = (
    Method(
        f"{_MANAGER}.projects.get",
        "GET",
        re.compile(_V3),
        get_project,
        "resourcemanager.projects.get",
    ),
    Method(
        f"{_MANAGER}.projects.getAncestry",
        "POST",
        re.compile(rf"/v1/(?P<resource>projects/{PROJECT}):getAncestry"),
        get_ancestry,
        "resourcemanager.projects.get",
    ),
    *(
        Method(
            f"{_MANAGER}.{kind}.{verb}",
            "POST",
            re.compile(f"{path}:{verb}"),
            run,
            f"resourcemanager.{kind}.{verb}",
            write=verb == "setIamPolicy",
        )
        for kind, path in (
            ("projects", _V3),
            ("folders", _FOLDER),
            ("organizations", _ORGANIZATION),
        )
        for verb, run in (("getIamPolicy", get_iam_policy), ("setIamPolicy", set_iam_policy))
    ),
    Method(
        f"{_MANAGER}.projects.testIamPermissions",
        "POST",
        re.compile(f"{_V3}:testIamPermissions"),
        test_iam_permissions,
    ),
    Method(
        "cloudbilling.projects.getBillingInfo",
        "GET",
        re.compile(rf"/v1/(?P<resource>projects/{PROJECT})/billingInfo"),
        get_billing_info,
        "resourcemanager.projects.get",
    ),
    Method(
        "serviceusage.services.get",
        "GET",
        re.compile(rf"/v1/(?P<resource>projects/{PROJECT})/services/(?P<service>[a-z0-9.]+)"),
        get_service,
        "serviceusage.services.get",
    ),
)


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


ORGANIZATION_METHODS: Final = (
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
