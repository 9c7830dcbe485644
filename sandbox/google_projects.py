"""Resource Manager, Cloud Billing and Service Usage, as far as the checks read them."""

from __future__ import annotations

import re
from typing import Final

from google.iam.v1 import policy_pb2

from sandbox.google_calls import PROJECT, Call, Method
from sandbox.google_state import Json
from sandbox.iam_access import allows
from sandbox.iam_policies import EMPTY_ETAG, read_policy, write_policy
from sandbox.kms_errors import invalid
from sandbox.kms_messages import from_json, to_json

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

METHODS: Final = (
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
