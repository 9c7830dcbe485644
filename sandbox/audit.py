"""Cloud Audit Logs: the Admin Activity entry that a successful write leaves.

Source of the shape: https://docs.cloud.google.com/logging/docs/audit/understanding-audit-logs and
https://docs.cloud.google.com/kms/docs/audit-logging (Cloud KMS logs a method by its short name).
"""

from __future__ import annotations

import re
import secrets
from typing import Final

from sandbox.kms.state import canonical_project
from sandbox.transport import ServedCall
from sandbox.world import Json, World

_TYPES: Final = "type.googleapis.com/google."
# Discovery id without version → the method name in the audit log.
_METHODS: Final = {
    "serviceusage.services.enable": "google.api.serviceusage.v1.ServiceUsage.EnableService",
    "serviceusage.services.disable": "google.api.serviceusage.v1.ServiceUsage.DisableService",
    "cloudbilling.projects.updateBillingInfo": "AssignProjectToBillingAccount",
    "cloudresourcemanager.projects.setOrgPolicy": "SetOrgPolicy",
    "cloudresourcemanager.projects.undelete": "UndeleteProject",
}
_KMS_LABELS: Final = re.compile(
    r"projects/(?P<project_id>[^/]+)/locations/(?P<location>[^/]+)"
    r"(?:/keyRings/(?P<key_ring_id>[^/]+)(?:/cryptoKeys/(?P<crypto_key_id>[^/]+)"
    r"(?:/cryptoKeyVersions/(?P<crypto_key_version_id>[^/]+))?)?)?"
)
_LEVELS: Final = {"projects": "project", "folders": "folder", "organizations": "organization"}


def admin_activity(world: World, call: ServedCall, response: Json) -> Json:
    """The log entry of a write that took effect."""
    kms = call.service == "kms"
    service = "cloudkms" if kms else call.name.partition(".")[0]
    method = call.name if kms else _METHODS.get(call.name, "SetIamPolicy")
    # The request of a create does not hold the new resource's full name; its response does.
    made = str(response.get("name", "")) if call.name.startswith("Create") else ""
    resource = canonical_project(world, made or call.resource)
    iam = method == "SetIamPolicy"
    package = "iam.v1" if iam else "cloud.kms.v1"
    permission = call.permission or _policy_permission(resource)
    now = world.clock.now().isoformat().replace("+00:00", "Z")
    identity = world.identities.by_name.get(call.caller)
    parts = resource.split("/")
    log = f"{'/'.join(parts[:2])}/logs/cloudaudit.googleapis.com%2Factivity"
    return {
        "insertId": secrets.token_hex(8),
        "logName": log,
        "severity": "NOTICE",
        "timestamp": now,
        "receiveTimestamp": now,
        "resource": _monitored(resource, kms=kms),
        "protoPayload": {
            "@type": f"{_TYPES}cloud.audit.AuditLog",
            "serviceName": f"{service}.googleapis.com",
            "methodName": method,
            "resourceName": resource,
            "authenticationInfo": {"principalEmail": identity.email if identity else call.caller},
            "authorizationInfo": [
                {"resource": resource, "permission": permission, "granted": True}
            ],
            "requestMetadata": {"callerIp": "127.0.0.1"},
            "request": {"@type": f"{_TYPES}{package}.{call.name}Request"} | call.message
            if kms
            else call.message,
            "response": response,
            "status": {},
        },
    }


def _monitored(resource: str, *, kms: bool) -> Json:
    """The monitored resource of the entry."""
    match = _KMS_LABELS.fullmatch(resource) if kms else None
    if match is not None:
        labels = {name: value for name, value in match.groupdict().items() if value}
        return {"type": _kms_kind(labels), "labels": labels}
    kind, id_, *rest = resource.split("/")
    level = _LEVELS[kind]
    return {
        "type": "audited_resource" if rest else level,
        "labels": {f"{level}_id": id_},
    }


def _kms_kind(labels: dict[str, str]) -> str:
    if "crypto_key_version_id" in labels:
        return "cloudkms_cryptokeyversion"
    return "cloudkms_cryptokey" if "crypto_key_id" in labels else "cloudkms_keyring"


def _policy_permission(resource: str) -> str:
    collection = resource.split("/")[-2]
    return f"cloudkms.{collection}.setIamPolicy"
