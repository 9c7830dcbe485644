"""The Google APIs that only the checks read, all on the sandbox's one HTTP port.

Resource Manager, Cloud Billing, Service Usage, Organization Policy, Access Context Manager and KMS
Inventory, only the methods that the checks call. `served` registers a handler in `METHODS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from google.iam.v1 import policy_pb2
from starlette.routing import Route

from sandbox.errors import (
    GoogleError,
    disabled_info,
    error_info,
    invalid,
    not_found,
    permission_denied,
)
from sandbox.iam import EMPTY_ETAG, allows, read_policy, write_policy
from sandbox.kms.state import PROJECT_IN_PATH, GoogleProject, from_json, to_json
from sandbox.org_policy import OrgConstraints
from sandbox.transport import GoogleCall, HttpMethod, google_endpoint
from sandbox.world import ACCESS_POLICY, Json, World

KMS: Final = "cloudkms.googleapis.com"
GET_PROJECT: Final = "resourcemanager.projects.get"
_ID: Final = f"(?P<project>{PROJECT_IN_PATH})"
PROJECT: Final = f"(?P<resource>projects/{_ID})"
KEY: Final = f"(?P<resource>projects/{_ID}/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+)"
SERVICE_PATH: Final = f"(?P<resource>projects/{_ID}/services/(?P<service>[a-z0-9.-]+))"
CONSTRAINT: Final = "(?P<constraint>[A-Za-z0-9.]+)"
ORGANIZATION: Final = "(?P<resource>organizations/[0-9]+)"

PATHS: Final = (
    "/v1/projects/{project}",
    "/v1/projects/{project}/billingInfo",
    "/v1/projects/{project}/services",
    "/v1/projects/{project}/services/{service}",
    "/v1/projects/{key:path}/protectedResourcesSummary",
    "/v1/accessPolicies{rest:path}",
    "/v2/{rest:path}",
    "/v3/{rest:path}",
)
SERVICES: Final = {
    KMS: "Cloud Key Management Service (KMS) API",
    "accesscontextmanager.googleapis.com": "Access Context Manager API",
    "cloudasset.googleapis.com": "Cloud Asset API",
    "cloudbilling.googleapis.com": "Cloud Billing API",
    "cloudresourcemanager.googleapis.com": "Cloud Resource Manager API",
    "iam.googleapis.com": "Identity and Access Management (IAM) API",
    "iamcredentials.googleapis.com": "IAM Service Account Credentials API",
    "kmsinventory.googleapis.com": "KMS Inventory API",
    "logging.googleapis.com": "Cloud Logging API",
    "monitoring.googleapis.com": "Cloud Monitoring API",
    "orgpolicy.googleapis.com": "Organization Policy API",
    "policytroubleshooter.googleapis.com": "Policy Troubleshooter API",
    "pubsub.googleapis.com": "Cloud Pub/Sub API",
    "serviceusage.googleapis.com": "Service Usage API",
    "storage.googleapis.com": "Cloud Storage API",
    "sts.googleapis.com": "Security Token Service API",
}
"""The APIs that exist here, with their titles; any other is unknown, as at Google."""
GoogleHandler = Callable[[GoogleCall], Json]


@dataclass(frozen=True, kw_only=True)
class GoogleMethod(HttpMethod):
    """A method of a discovery document; the first part of its id names the API."""

    run: GoogleHandler

    def answer(self, call: GoogleCall) -> Json:
        """Run the method. Raises PERMISSION_DENIED when its API is off or the caller may not."""
        service = f"{self.id.partition('.')[0]}.googleapis.com"
        if service in call.world.google.disabled_services:
            first = next(iter(call.world.kms.projects.values()))
            project = _project(call) if "project" in call.names else first
            url = f"https://console.developers.google.com/apis/api/{service}/overview"
            raise GoogleError(
                "PERMISSION_DENIED",
                f"{service} has not been used in project {project.number} before or it is "
                f"disabled. Enable it by visiting {url}?project={project.number} then retry.",
                [disabled_info(service, project.number)],
            )
        if self.permission is not None:
            _require(call, self.permission)
        call.message.update(call.body)
        return self.run(call)


METHODS: Final[list[GoogleMethod]] = []


def served(
    id_: str, http: str, permission: str | None = None
) -> Callable[[GoogleHandler], GoogleHandler]:
    """Register a handler; the first group of the path in `http` is the resource."""

    def enter(run: GoogleHandler) -> GoogleHandler:
        verb, path = http.split()
        method = GoogleMethod(
            id=id_,
            verb=verb,
            path=re.compile(path),
            write=id_.rpartition(".")[2] in WRITES,
            run=run,
            permission=permission,
        )
        METHODS.append(method)
        return run

    return enter


WRITES: Final = {
    "setIamPolicy",
    "setOrgPolicy",
    "enable",
    "disable",
    "undelete",
    "updateBillingInfo",
}


def google_routes(world: World) -> list[Route]:
    """The routes of these APIs. They overlap those of Cloud KMS and must come before them."""
    serve = google_endpoint(
        world, "google", METHODS, GoogleMethod.answer, lambda: world.google.latency_seconds
    )
    return [Route(path, serve, methods=["GET", "POST", "PUT"]) for path in PATHS]


def _project(call: GoogleCall) -> GoogleProject:
    """The project in the path; Google denies access to a project that does not exist."""
    given = call.names["project"]
    project = call.world.kms.project(given)
    if project is None:
        raise _denied(GET_PROJECT, f"projects/{given}")
    return project


def _require(call: GoogleCall, permission: str) -> None:
    verdict = call.caller.verdict(permission)
    if verdict is None and "project" in call.names:
        verdict = allows(call.world, call.caller, permission, f"projects/{_project(call).id}")
    if not verdict:
        raise _denied(permission, call.names.get("resource", "the requested resource"))


def _denied(permission: str, resource: str) -> GoogleError:
    return permission_denied(permission, resource, "iam.googleapis.com")


def _page(call: GoogleCall, items: list[Json], field_name: str) -> Json:
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


@served("cloudresourcemanager.projects.get", f"GET /v3/{PROJECT}", GET_PROJECT)
def get_project(call: GoogleCall) -> Json:
    """State and number, and the direct parent."""
    project = _project(call)
    state = call.world.google.project_states.get(project.id, "ACTIVE")
    parent = {"parent": project.ancestors[0]} if project.ancestors else {}
    return {
        "name": f"projects/{project.number}",
        "projectId": project.id,
        "displayName": project.id,
        "state": state,
    } | parent


@served("cloudresourcemanager.projects.get", f"GET /v1/{PROJECT}", GET_PROJECT)
def get_project_v1(call: GoogleCall) -> Json:
    """The same in the older form, which gcloud reads."""
    project = _project(call)
    shown = {
        "projectId": project.id,
        "projectNumber": project.number,
        "name": project.id,
        "lifecycleState": call.world.google.project_states.get(project.id, "ACTIVE"),
    }
    if not project.ancestors:
        return shown
    kind, number = project.ancestors[0].split("/")
    return shown | {"parent": {"type": kind.removesuffix("s"), "id": number}}


@served(
    "cloudresourcemanager.projects.undelete",
    f"POST /v1/{PROJECT}:undelete",
    "resourcemanager.projects.undelete",
)
def undelete_project(call: GoogleCall) -> Json:
    """Bring back a project whose deletion was requested."""
    call.world.google.project_states.pop(_project(call).id, None)
    return {}


@served("cloudresourcemanager.projects.getAncestry", f"POST /v1/{PROJECT}:getAncestry", GET_PROJECT)
def get_ancestry(call: GoogleCall) -> Json:
    """The project itself, then its folders and its organization."""
    project = _project(call)
    above = [name.split("/") for name in project.ancestors]
    ids = [("project", project.id), *((kind.removesuffix("s"), number) for kind, number in above)]
    return {"ancestor": [{"resourceId": {"type": kind, "id": one}} for kind, one in ids]}


@served("cloudbilling.projects.getBillingInfo", f"GET /v1/{PROJECT}/billingInfo", GET_PROJECT)
def get_billing_info(call: GoogleCall) -> Json:
    """Whether billing is enabled, by the same switch that the sandbox's Cloud KMS checks."""
    project = _project(call).id
    info: Json = {"name": f"projects/{project}/billingInfo", "projectId": project}
    if call.world.switches.billing_enabled:
        account = "billingAccounts/000000-SANDBX-000000"
        info |= {"billingAccountName": account, "billingEnabled": True}
    return info


@served(
    "cloudbilling.projects.updateBillingInfo",
    f"PUT /v1/{PROJECT}/billingInfo",
    "resourcemanager.projects.createBillingAssignment",
)
def update_billing_info(call: GoogleCall) -> Json:
    """Link an account, which is then active; an empty name removes the link."""
    call.world.switches.billing_enabled = bool(call.body.get("billingAccountName"))
    return get_billing_info(call)


@served("serviceusage.services.get", f"GET /v1/{SERVICE_PATH}", "serviceusage.services.get")
def get_service(call: GoogleCall) -> Json:
    """The state of one API: Cloud KMS by its switch, others by `disabled_services`."""
    service = call.names["service"]
    if service not in SERVICES:
        raise _no_such_service(service)
    off = service in call.world.google.disabled_services
    if service == KMS:
        off = not call.world.switches.kms_api_enabled
    parent, state = f"projects/{_project(call).number}", "DISABLED" if off else "ENABLED"
    return {
        "name": f"{parent}/services/{service}",
        "parent": parent,
        "config": {"name": service, "title": SERVICES[service]},
        "state": state,
    }


@served("serviceusage.services.list", f"GET /v1/{PROJECT}/services", "serviceusage.services.list")
def list_services(call: GoogleCall) -> Json:
    """All services that the sandbox knows, or those in one state."""
    wanted = call.query.get("filter", "").removeprefix("state:")
    if wanted not in {"", "ENABLED", "DISABLED"}:
        raise invalid(f"filter '{call.query['filter']}' is not supported: use state:ENABLED.")
    shown = [get_service(_of_service(call, service)) for service in SERVICES]
    return _page(call, [one for one in shown if wanted in {"", one["state"]}], "services")


def _of_service(call: GoogleCall, service: str) -> GoogleCall:
    name = f"/v1/projects/{_project(call).id}/services/{service}"
    match = re.fullmatch(f"/v1/{SERVICE_PATH}", name)
    assert match is not None  # noqa: S101
    return replace(call, match=match)


@served(
    "serviceusage.services.enable",
    f"POST /v1/{SERVICE_PATH}:enable",
    "serviceusage.services.enable",
)
def enable_service(call: GoogleCall) -> Json:
    """Turn an API on; the operation is done at once."""
    return _turned(call, on=True)


@served(
    "serviceusage.services.disable",
    f"POST /v1/{SERVICE_PATH}:disable",
    "serviceusage.services.disable",
)
def disable_service(call: GoogleCall) -> Json:
    """Turn an API off."""
    return _turned(call, on=False)


def _turned(call: GoogleCall, *, on: bool) -> Json:
    service, google = call.names["service"], call.world.google
    if service not in SERVICES:
        raise _no_such_service(service)
    if service == KMS:
        call.world.switches.kms_api_enabled = on
    else:
        others = [one for one in google.disabled_services if one != service]
        google.disabled_services = others if on else [*others, service]
    verb = "Enable" if on else "Disable"
    kind = f"type.googleapis.com/google.api.serviceusage.v1.{verb}ServiceResponse"
    response = {"@type": kind, "service": get_service(call)}
    return {"name": f"operations/sandbox.{verb.lower()}", "done": True, "response": response}


def _no_such_service(service: str) -> GoogleError:
    reason = "SERVICE_CONFIG_NOT_FOUND_OR_PERMISSION_DENIED"
    return GoogleError(
        "PERMISSION_DENIED",
        f"Not found or permission denied for service(s): {service}.",
        [error_info(reason, "serviceusage.googleapis.com", services=service)],
    )


def get_iam_policy(call: GoogleCall) -> Json:
    """The policy set on project, folder or organization itself."""
    resource, version = _resource(call), call.body.get("options", {})
    policy = read_policy(call.world, resource, int(version.get("requestedPolicyVersion", 0)))
    if resource.startswith("projects/") and policy.etag == EMPTY_ETAG:
        logs = [{"logType": kind} for kind in call.world.google.data_access_logs]
        audited = {"service": KMS, "auditLogConfigs": logs}
        policy.audit_configs.append(from_json(policy_pb2.AuditConfig, audited))
    return to_json(policy)


def set_iam_policy(call: GoogleCall) -> Json:
    """Replace that policy."""
    asked = from_json(policy_pb2.Policy, call.body.get("policy", {}))
    number = next(iter(call.world.kms.projects.values())).number
    return to_json(write_policy(call.world, _resource(call), asked, number))


@served(
    "cloudresourcemanager.projects.testIamPermissions", f"POST /v3/{PROJECT}:testIamPermissions"
)
def test_iam_permissions(call: GoogleCall) -> Json:
    """Which of the permissions the caller has on the project; the call itself needs none."""
    project = f"projects/{_project(call).id}"
    asked: list[str] = call.body.get("permissions", [])
    if any("*" in one for one in asked):
        raise invalid("Permission patterns are not supported.")
    held = [one for one in asked if allows(call.world, call.caller, one, project)]
    return {"permissions": held} if held else {}


for _kind, _path in (
    ("projects", PROJECT),
    ("folders", "(?P<resource>folders/[0-9]+)"),
    ("organizations", ORGANIZATION),
):
    for _verb, _handler in (("getIamPolicy", get_iam_policy), ("setIamPolicy", set_iam_policy)):
        # gcloud uses version 1 for projects
        for _version in ("v1", "v3") if _kind == "projects" else ("v3",):
            served(
                f"cloudresourcemanager.{_kind}.{_verb}",
                f"POST /{_version}/{_path}:{_verb}",
                f"resourcemanager.{_kind}.{_verb}",
            )(_handler)


def _resource(call: GoogleCall) -> str:
    if "project" in call.names:
        return f"projects/{_project(call).id}"
    return call.names["resource"]


@served(
    "orgpolicy.projects.policies.getEffectivePolicy",
    f"GET /v2/{PROJECT}/policies/{CONSTRAINT}:getEffectivePolicy",
    "orgpolicy.policy.get",
)
def get_effective_policy(call: GoogleCall) -> Json:
    """The rules in `policy_rules`, else those of `OrgConstraints` or the constraint's default."""
    constraint = call.names["constraint"]
    rules = call.world.google.policy_rules.get(constraint)
    if rules is None:
        rules = _rules(call.world.kms.constraints, constraint)
    name = f"projects/{_project(call).number}/policies/{constraint}"
    return {"name": name, "spec": {"rules": rules}}


@served(
    "orgpolicy.projects.policies.get",
    f"GET /v2/{PROJECT}/policies/{CONSTRAINT}",
    "orgpolicy.policy.get",
)
def get_policy(call: GoogleCall) -> Json:
    """A policy set on the project itself (`policy_rules`); the organization sets the others."""
    constraint = call.names["constraint"]
    rules = call.world.google.policy_rules.get(constraint)
    if rules is None:
        raise not_found("Policy", f"projects/{_project(call).number}/policies/{constraint}")
    return _policy(f"projects/{_project(call).number}", constraint, rules)


@served(
    "orgpolicy.projects.policies.list", f"GET /v2/{PROJECT}/policies", "orgpolicy.policies.list"
)
def list_policies(call: GoogleCall) -> Json:
    """The policies that are set on the project itself."""
    parent = f"projects/{_project(call).number}"
    rules = call.world.google.policy_rules
    return _page(call, [_policy(parent, name, rules[name]) for name in sorted(rules)], "policies")


@served(
    "orgpolicy.organizations.policies.list",
    f"GET /v2/{ORGANIZATION}/policies",
    "orgpolicy.policies.list",
)
def list_organization_policies(call: GoogleCall) -> Json:
    """The policies in `OrgConstraints` that are not the default."""
    constraints = call.world.kms.constraints
    default = OrgConstraints()
    every = [(name, _rules(constraints, name)) for name in CONSTRAINTS]
    enforced = [(name, rules) for name, rules in every if rules != _rules(default, name)]
    policies = [_policy(call.names["resource"], name, rules) for name, rules in enforced]
    return _page(call, policies, "policies")


def _policy(parent: str, constraint: str, rules: list[Json]) -> Json:
    return {"name": f"{parent}/policies/{constraint}", "spec": {"rules": rules}}


@served(
    "cloudresourcemanager.projects.getEffectiveOrgPolicy",
    f"POST /v1/{PROJECT}:getEffectiveOrgPolicy",
    "orgpolicy.policy.get",
)
def get_effective_org_policy(call: GoogleCall) -> Json:
    """The same in the older form, which `gcloud resource-manager org-policies` reads."""
    constraint = str(call.body.get("constraint", "")).removeprefix("constraints/")
    rules = call.world.google.policy_rules.get(constraint)
    (rule, *_) = rules or _rules(call.world.kms.constraints, constraint)
    shown: Json = {"constraint": f"constraints/{constraint}"}
    if "enforce" in rule:
        return shown | {"booleanPolicy": {"enforced": True} if rule["enforce"] else {}}
    if rule.get("allowAll"):
        return shown | {"listPolicy": {"allValues": "ALLOW"}}
    return shown | {"listPolicy": rule.get("values", {"allValues": "DENY"})}


@served(
    "cloudresourcemanager.projects.setOrgPolicy",
    f"POST /v1/{PROJECT}:setOrgPolicy",
    "orgpolicy.policy.set",
)
def set_org_policy(call: GoogleCall) -> Json:
    """Enforce `cloudkms.disableBeforeDestroy` or not, as gcloud's `enable-enforce` does."""
    policy: Json = call.body.get("policy", {})
    constraint = str(policy.get("constraint", "")).removeprefix("constraints/")
    if constraint != "cloudkms.disableBeforeDestroy":
        raise invalid(f"The sandbox sets no policy for {constraint}.")
    enforced = bool(policy.get("booleanPolicy", {}).get("enforced"))
    call.world.kms.constraints.disable_before_destroy = enforced
    return policy


CONSTRAINTS: Final = (
    "cloudkms.allowedProtectionLevels",
    "cloudkms.disableBeforeDestroy",
    "cloudkms.minimumDestroyScheduledDuration",
    "gcp.resourceLocations",
    "iam.allowedPolicyMemberDomains",
    "iam.managed.allowedPolicyMembers",
)


def _rules(constraints: OrgConstraints, constraint: str) -> list[Json]:
    minimum = constraints.minimum_destroy_scheduled_duration
    lists: dict[str, list[str] | None] = {
        "iam.allowedPolicyMemberDomains": constraints.allowed_policy_member_domains,
        "gcp.resourceLocations": constraints.resource_locations,
        "cloudkms.allowedProtectionLevels": constraints.allowed_protection_levels,
        "cloudkms.minimumDestroyScheduledDuration": [f"in:{minimum.days}d"] if minimum else None,
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


@served(
    "orgpolicy.organizations.customConstraints.list",
    f"GET /v2/{ORGANIZATION}/customConstraints",
    "orgpolicy.customConstraints.list",
)
def list_custom_constraints(call: GoogleCall) -> Json:
    """The organization's own constraints."""
    return _page(call, call.world.google.custom_constraints, "customConstraints")


@served(
    "accesscontextmanager.accessPolicies.list",
    "GET /v1/accessPolicies",
    "accesscontextmanager.policies.list",
)
def list_access_policies(call: GoogleCall) -> Json:
    """The organization's access policies."""
    parent = call.query.get("parent", "")
    if not re.fullmatch(r"organizations/[0-9]+", parent):
        raise invalid("parent: expected organizations/{organization_id}.")
    return _page(call, call.world.google.access_policies, "accessPolicies")


@served(
    "accesscontextmanager.accessPolicies.servicePerimeters.list",
    "GET /v1/(?P<resource>accessPolicies/[0-9]+)/servicePerimeters",
    "accesscontextmanager.servicePerimeters.list",
)
def list_perimeters(call: GoogleCall) -> Json:
    """Set perimeters, or the one that `perimeter_blocks` stands for."""
    policy = call.names["resource"]
    known = {one["name"] for one in call.world.google.access_policies}
    if policy not in known:
        raise not_found("AccessPolicy", policy)
    perimeters = list(call.world.google.perimeters.get(policy, []))
    blocks = call.world.kms.constraints.perimeter_blocks
    if policy == ACCESS_POLICY and not perimeters and blocks != "nobody":
        numbers = [project.number for project in call.world.kms.projects.values()]
        resources = [f"projects/{number}" for number in numbers]
        status: Json = {"resources": resources, "restrictedServices": [KMS]}
        if blocks == "all_but_anthropic":
            status["ingressPolicies"] = [_ingress(call.world.identities.anthropic.member)]
        blocking = {
            "name": f"{ACCESS_POLICY}/servicePerimeters/sandbox",
            "title": "sandbox",
            "perimeterType": "PERIMETER_TYPE_REGULAR",
            "status": status,
        }
        perimeters.append(blocking)
    return _page(call, perimeters, "servicePerimeters")


def _ingress(member: str) -> Json:
    """The rule that lets a member in to Cloud KMS from everywhere."""
    operations = [{"serviceName": KMS, "methodSelectors": [{"method": "*"}]}]
    return {
        "ingressFrom": {"identities": [member], "sources": [{"accessLevel": "*"}]},
        "ingressTo": {"resources": ["*"], "operations": operations},
    }


@served(
    "kmsinventory.projects.locations.keyRings.cryptoKeys.getProtectedResourcesSummary",
    f"GET /v1/{KEY}/protectedResourcesSummary",
    "cloudkms.protectedResources.search",
)
def get_protected_resources(call: GoogleCall) -> Json:
    """How many Google Cloud resources the key protects; none unless set."""
    scope = call.query.get("fallbackScope", "FALLBACK_SCOPE_PROJECT")
    if scope not in {"FALLBACK_SCOPE_UNSPECIFIED", "FALLBACK_SCOPE_PROJECT"}:
        raise invalid(f"Invalid value at 'fallback_scope' (TYPE_ENUM), \"{scope}\"")
    parts = call.names["resource"].split("/")
    name = "/".join(["projects", _project(call).id, *parts[2:]])
    if name not in call.world.kms.crypto_keys:
        raise not_found("CryptoKey", name)
    summary = call.world.google.protected_resources.get(name, {"resourceCount": "0"})
    return {"name": f"{name}/protectedResourcesSummary", **summary}
