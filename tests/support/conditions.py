"""The table of what can be wrong beforehand: how it comes about, and what the checks then say.

The tests walk through it and `docs/troubleshooting.md` lists it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from cmek.anthropic_identity import ENCRYPTER_DECRYPTER, MEMBER
from cmek.checks.domain_sharing import LEGACY, MANAGED
from sandbox import seed
from sandbox.google_state import ACCESS_POLICY
from tests.support.staging import EXTERNAL_KEY, FOLDER, KEY, ORGANIZATION, PROJECT, Stage, State

Setup = Callable[[Stage], object]
KMS = "cloudkms.googleapis.com"


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that is wrong, and the check that must say so."""

    name: str
    """What a person would call it."""
    check: str
    status: str
    setup: Setup
    remedy: str = ""
    """A part of the remedy, with the real names in it."""
    evidence: str = ""
    subject: dict[str, Any] = field(default_factory=dict)
    """Changes of what is asked for."""
    also: frozenset[str] = frozenset()
    """Other checks that fail with it."""


def _with_key(*changes: Setup, **fields: Any) -> Setup:
    def setup(stage: Stage) -> None:
        stage.key(**fields)
        for change in changes:
            change(stage)

    return setup


def _constraint(**changes: Any) -> Setup:
    def setup(stage: Stage) -> None:
        for name, value in changes.items():
            setattr(stage.world.kms.constraints, name, value)

    return setup


def _switch(**changes: Any) -> Setup:
    def setup(stage: Stage) -> None:
        for name, value in changes.items():
            setattr(stage.world.switches, name, value)

    return setup


def _google(**changes: Any) -> Setup:
    def setup(stage: Stage) -> None:
        for name, value in changes.items():
            setattr(stage.world.google, name, value)

    return setup


def _stored(**changes: Any) -> Setup:
    def setup(stage: Stage) -> None:
        for name, value in changes.items():
            setattr(stage.stored_key, name, value)

    return setup


def _protection(level: str) -> Setup:
    def setup(stage: Stage) -> None:
        stage.stored_key.version_template.protection_level = level

    return setup


def _workspace(**changes: Any) -> Setup:
    def setup(stage: Stage) -> None:
        workspace = stage.world.admin.workspaces[seed.fixed_id("wrkspc", "PaymentsProd")]
        for name, value in changes.items():
            setattr(workspace, name, value)

    return setup


def _attached(key_name: str) -> Setup:
    def setup(stage: Stage) -> None:
        stage.register(key_name)
        _workspace(external_key_id=EXTERNAL_KEY)(stage)

    return setup


def _custom_constraint(stage: Stage) -> None:
    stage.world.google.custom_constraints = [
        {
            "name": f"{ORGANIZATION}/customConstraints/custom.ourMembers",
            "resourceTypes": ["iam.googleapis.com/AllowPolicy"],
            "methodTypes": ["CREATE", "UPDATE"],
            "actionType": "DENY",
            "condition": "resource.bindings.exists(b, true)",
        }
    ]


def _both(*setups: Setup) -> Setup:
    def setup(stage: Stage) -> None:
        for one in setups:
            one(stage)

    return setup


def _refusal(reason: str) -> Setup:
    def setup(stage: Stage) -> None:
        info = {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": reason,
            "domain": "googleapis.com",
            "metadata": {"service": KMS, "consumer": "projects/999999999999"},
        }
        for call in ("GetLocation", "GetKeyRing", "GetCryptoKey"):
            stage.fault(call, "PERMISSION_DENIED", details=[info])

    return setup


def _exempted(stage: Stage) -> None:
    stage.audit(PROJECT, ["DATA_READ", "DATA_WRITE"], service="allServices", exempted=MEMBER)


def _ingress(**source: Any) -> dict[str, Any]:
    return {
        "ingressFrom": {"sources": [{"accessLevel": "*"}]} | source,
        "ingressTo": {
            "resources": ["*"],
            "operations": [{"serviceName": KMS, "methodSelectors": [{"method": "*"}]}],
        },
    }


ANOTHER_KEY = "projects/acme-kms-prod/locations/us-east5/keyRings/other/cryptoKeys/other"
LOOK_ALIKE = (
    "serviceAccount:anthropic-cmek-client-us@gcp-anthropic-cmek-client.iam.gserviceaccount.com"
)
DELETED = f"deleted:{MEMBER}?uid=100000000000000000001"

CONDITIONS: tuple[Condition, ...] = (
    Condition(
        "project waits for its deletion",
        "project",
        "fail",
        _google(project_states={KEY.project: "DELETE_REQUESTED"}),
        "gcloud projects undelete acme-kms-prod",
    ),
    Condition(
        "billing is off",
        "billing",
        "fail",
        _switch(billing_enabled=False),
        "gcloud billing projects link acme-kms-prod",
    ),
    Condition(
        "billing is off, and only Cloud KMS says so",
        "billing",
        "fail",
        _both(
            _switch(billing_enabled=False),
            _google(disabled_services=["cloudbilling.googleapis.com"]),
        ),
        "gcloud billing projects link acme-kms-prod",
    ),
    Condition(
        "Cloud KMS API is off",
        "kms_api",
        "fail",
        _switch(kms_api_enabled=False),
        "gcloud services enable cloudkms.googleapis.com --project=acme-kms-prod",
    ),
    Condition(
        "Cloud KMS API is off, and only Cloud KMS says so",
        "kms_api",
        "fail",
        _both(
            _switch(kms_api_enabled=False), lambda stage: stage.deny("serviceusage.services.get")
        ),
        "gcloud services enable cloudkms.googleapis.com --project=acme-kms-prod",
    ),
    Condition(
        "Cloud KMS API is off in the caller's quota project",
        "kms_api",
        "fail",
        _refusal("SERVICE_DISABLED"),
        "gcloud services enable cloudkms.googleapis.com --project=999999999999",
        evidence="the caller's quota project 999999999999",
    ),
    Condition(
        "billing is off in the caller's quota project",
        "billing",
        "fail",
        _refusal("BILLING_DISABLED"),
        "gcloud billing projects link 999999999999",
        evidence="the caller's quota project 999999999999",
    ),
    Condition(
        "location is a multi-region",
        "location",
        "fail",
        lambda stage: None,
        "us-east5",
        subject={"location": "us"},
    ),
    Condition(
        "location is mistyped",
        "location",
        "fail",
        lambda stage: None,
        "us-east5",
        subject={"location": "us-east99"},
    ),
    Condition(
        "location has no HSM",
        "location",
        "fail",
        lambda stage: stage.world.kms.locations_without_hsm.add("us-east5"),
        "us-east5",
    ),
    Condition(
        "caller may not create keys",
        "caller_on_project",
        "fail",
        lambda stage: stage.deny("cloudkms.cryptoKeys.create"),
        "gcloud projects add-iam-policy-binding acme-kms-prod",
        evidence="cloudkms.cryptoKeys.create",
    ),
    Condition(
        "caller may not grant on the existing key",
        "caller_on_existing",
        "fail",
        _with_key(lambda stage: stage.deny("cloudkms.cryptoKeys.setIamPolicy")),
        "gcloud kms keys add-iam-policy-binding payments-prod --keyring=anthropic-cmek",
        evidence="cloudkms.cryptoKeys.setIamPolicy",
    ),
    Condition(
        "caller may not create keys in the existing ring",
        "caller_on_existing",
        "fail",
        _both(lambda stage: stage.ring(), lambda stage: stage.deny("cloudkms.cryptoKeys.create")),
        "gcloud kms keyrings add-iam-policy-binding anthropic-cmek",
    ),
    Condition(
        "audit logs are off on every level",
        "audit_logs",
        "fail",
        _google(data_access_logs=[]),
        "https://console.cloud.google.com/iam-admin/audit?project=acme-kms-prod",
    ),
    Condition(
        "only one of the two audit logs is on",
        "audit_logs",
        "fail",
        _google(data_access_logs=["DATA_READ"]),
        "tick Data Read and Data Write",
        evidence="DATA_WRITE",
    ),
    Condition(
        "Anthropic's account is exempted from the audit logs",
        "audit_logs",
        "fail",
        _exempted,
        "Exempted principals",
        evidence="exempted",
    ),
    Condition(
        "domain restricted sharing (legacy) without Anthropic's customer id",
        "drs_legacy",
        "fail",
        _constraint(allowed_policy_member_domains=["C0sandbox"]),
        "iam-allowedPolicyMemberDomains?project=acme-kms-prod",
        evidence="C0sandbox",
    ),
    Condition(
        "domain restricted sharing (legacy) with another customer id than the given one",
        "drs_legacy",
        "fail",
        _constraint(allowed_policy_member_domains=["C0sandbox"]),
        "iam-allowedPolicyMemberDomains",
        subject={"permitted_customer_id": "C0anthropic"},
        evidence="C0anthropic is not among them",
    ),
    Condition(
        "domain restricted sharing (managed) without Anthropic's account",
        "drs_managed",
        "fail",
        _constraint(allowed_member_subjects=["user:ada@example.com"]),
        f"add {MEMBER} to allowedMemberSubjects",
    ),
    Condition(
        "domain restricted sharing (legacy) allows another organization's members",
        "drs_legacy",
        "unknown",
        _constraint(
            allowed_policy_member_domains=["principalSet://iam.googleapis.com/organizations/1"]
        ),
        "iam-allowedPolicyMemberDomains",
    ),
    Condition(
        "domain restricted sharing (managed) allows another organization's members",
        "drs_managed",
        "unknown",
        lambda stage: stage.rules(
            MANAGED,
            {
                "enforce": True,
                "parameters": {
                    "allowedPrincipalSets": [
                        "//cloudresourcemanager.googleapis.com/organizations/567890123456",
                        "//cloudresourcemanager.googleapis.com/organizations/1",
                    ]
                },
            },
        ),
        "iam-managed-allowedPolicyMembers",
        evidence="organizations/1;",
    ),
    Condition(
        "an organization policy depends on tags",
        "drs_legacy",
        "unknown",
        lambda stage: stage.rules(
            LEGACY, {"allowAll": True, "condition": {"expression": "resource.matchTag('a', 'b')"}}
        ),
    ),
    Condition(
        "domain restricted sharing set after the grants",
        "drs_legacy",
        "warn",
        _with_key(_constraint(allowed_policy_member_domains=["C0sandbox"])),
        "iam-allowedPolicyMemberDomains",
    ),
    Condition(
        "custom constraint on IAM policies",
        "drs_custom",
        "unknown",
        _custom_constraint,
        evidence="custom.ourMembers",
    ),
    Condition(
        "organization policy forbids the location",
        "location_policy",
        "fail",
        _constraint(resource_locations=["us-central1", "in:eu-locations"]),
        "gcp-resourceLocations?project=acme-kms-prod: allow us-east5",
    ),
    Condition(
        "organization policy forbids the location of the existing key",
        "location_policy",
        "warn",
        _with_key(_constraint(resource_locations=["us-central1"])),
        "gcp-resourceLocations",
        evidence="rotation will fail",
    ),
    Condition(
        "organization policy names a group of locations that we don't know",
        "location_policy",
        "unknown",
        _constraint(resource_locations=["in:low-carbon-locations"]),
    ),
    Condition(
        "organization policy denies a group of locations that we don't know",
        "location_policy",
        "unknown",
        lambda stage: stage.rules(
            "gcp.resourceLocations", {"values": {"deniedValues": ["in:low-carbon-locations"]}}
        ),
    ),
    Condition(
        "organization policy denies the location",
        "location_policy",
        "fail",
        lambda stage: stage.rules(
            "gcp.resourceLocations", {"values": {"deniedValues": ["in:us-east5-locations"]}}
        ),
        "gcp-resourceLocations",
    ),
    Condition(
        "organization policy forbids the protection level",
        "protection_policy",
        "fail",
        _constraint(allowed_protection_levels=["SOFTWARE"]),
        "cloudkms-allowedProtectionLevels?project=acme-kms-prod: allow HSM",
    ),
    Condition(
        "organization policy asks for a longer destroy delay",
        "destroy_delay_policy",
        "fail",
        _constraint(minimum_destroy_scheduled_duration=timedelta(days=60)),
        "60 days",
    ),
    Condition(
        "nothing forces a version to be disabled before its destruction",
        "disable_before_destroy",
        "warn",
        lambda stage: None,
        "cloudkms-disableBeforeDestroy",
    ),
    Condition(
        "perimeter keeps everybody out of Cloud KMS",
        "perimeter",
        "fail",
        lambda stage: stage.perimeter(),
        "service-perimeter?organizationId=567890123456",
        evidence="vault",
    ),
    Condition(
        "perimeter with an ingress rule for somebody else",
        "perimeter",
        "fail",
        lambda stage: stage.perimeter(
            ingressPolicies=[_ingress(identities=["user:ada@example.com"])]
        ),
        MEMBER,
    ),
    Condition(
        "perimeter with access levels",
        "perimeter",
        "unknown",
        lambda stage: stage.perimeter(accessLevels=[f"{ACCESS_POLICY}/accessLevels/office"]),
        MEMBER,
    ),
    Condition(
        "perimeter in dry run",
        "perimeter",
        "warn",
        lambda stage: stage.perimeter("spec"),
        MEMBER,
    ),
    Condition(
        "existing key signs instead of encrypting",
        "key_purpose",
        "fail",
        _with_key(_stored(purpose="MAC")),
        "another key name than payments-prod",
        evidence="MAC",
        also=frozenset(),
    ),
    Condition(
        "existing key has another protection level",
        "key_protection",
        "fail",
        _with_key(_protection("SOFTWARE")),
        "another key name than payments-prod",
    ),
    Condition(
        "existing key lies in an external key manager",
        "key_origin",
        "fail",
        _with_key(_protection("EXTERNAL")),
        "another key name than payments-prod",
        also=frozenset({"key_protection"}),
    ),
    Condition(
        "existing key is import-only",
        "key_origin",
        "fail",
        _with_key(_stored(import_only=True)),
        "another key name than payments-prod",
    ),
    Condition(
        "existing key has no primary version",
        "key_primary",
        "fail",
        _with_key(skip_version=True),
        "gcloud kms keys versions create --primary --key=payments-prod",
    ),
    Condition(
        "existing key's primary version is disabled",
        "key_primary",
        "fail",
        _with_key(lambda stage: stage.version_state(State.DISABLED)),
        "gcloud kms keys versions enable 1 --key=payments-prod",
    ),
    Condition(
        "existing key's justifications policy allows nothing",
        "key_justifications",
        "fail",
        _with_key(_stored(key_access_justifications_policy={"allowed_access_reasons": []})),
        "--allowed-access-reasons=customer-initiated-access",
    ),
    Condition(
        "existing key's justifications policy lacks customer-initiated access",
        "key_justifications",
        "warn",
        _with_key(
            _stored(
                key_access_justifications_policy={
                    "allowed_access_reasons": ["GOOGLE_INITIATED_SYSTEM_OPERATION"]
                }
            )
        ),
        "--allowed-access-reasons=customer-initiated-access",
    ),
    Condition(
        "existing key protects other systems",
        "key_shared",
        "warn",
        _with_key(
            _google(
                protected_resources={
                    str(KEY): {
                        "resourceCount": "3",
                        "projectCount": 1,
                        "cloudProducts": {"BigQuery": "3"},
                    }
                }
            )
        ),
        evidence="3 resources in 1 projects: BigQuery 3",
    ),
    Condition(
        "Google can't look everywhere for systems under the existing key",
        "key_shared",
        "unknown",
        _with_key(
            _google(
                protected_resources={
                    str(KEY): {
                        "resourceCount": "0",
                        "warnings": [{"warningCode": "INSUFFICIENT_PERMISSIONS_PARTIAL_DATA"}],
                    }
                }
            )
        ),
    ),
    Condition(
        "Anthropic's account may use the whole ring",
        "broader_grants",
        "warn",
        _both(
            lambda stage: stage.ring(),
            lambda stage: stage.grant(KEY.key_ring_name, ENCRYPTER_DECRYPTER),
        ),
        "gcloud kms keyrings remove-iam-policy-binding anthropic-cmek",
    ),
    Condition(
        "Anthropic's account may use all keys of the folder",
        "broader_grants",
        "warn",
        lambda stage: stage.grant(FOLDER, "roles/cloudkms.admin"),
        f"gcloud resource-manager folders remove-iam-policy-binding {FOLDER.rpartition('/')[2]}",
    ),
    Condition(
        "everybody may use the existing key",
        "public_members",
        "fail",
        _with_key(lambda stage: stage.grant(str(KEY), ENCRYPTER_DECRYPTER, "allUsers")),
        "gcloud kms keys remove-iam-policy-binding payments-prod",
        evidence="allUsers",
    ),
    Condition(
        "a look-alike may use the existing key",
        "look_alike_members",
        "fail",
        _with_key(lambda stage: stage.grant(str(KEY), ENCRYPTER_DECRYPTER, LOOK_ALIKE)),
        LOOK_ALIKE,
        evidence=LOOK_ALIKE,
    ),
    Condition(
        "a deleted account stands in the existing key's policy",
        "look_alike_members",
        "warn",
        _with_key(lambda stage: stage.grant(str(KEY), ENCRYPTER_DECRYPTER, DELETED)),
        DELETED,
    ),
    Condition(
        "Admin credential is refused",
        "admin_credential",
        "fail",
        lambda stage: stage.fault("organization.me", 401),
        "Admin API key",
    ),
    Condition(
        "Admin credential belongs to another organization",
        "admin_credential",
        "fail",
        lambda stage: None,
        "Admin API key of organization 00000000-0000-4000-8000-000000000001",
        subject={"expected_organization": UUID("00000000-0000-4000-8000-000000000001")},
    ),
    Condition(
        "external keys are not open to the organization",
        "cmek_reachable",
        "fail",
        lambda stage: stage.fault("external_keys.list", 403),
        "account team",
    ),
    Condition(
        "workspace is archived",
        "workspace",
        "fail",
        _workspace(archived_at="2026-11-01T00:00:00+00:00"),
        "choose another workspace",
    ),
    Condition(
        "workspace does not exist",
        "workspace",
        "fail",
        lambda stage: None,
        "choose another workspace",
        subject={"workspace_id": "wrkspc_01NoSuchWorkspace111111"},
    ),
    Condition(
        "workspace has another key",
        "workspace",
        "fail",
        _attached(ANOTHER_KEY),
        "never be replaced",
        evidence=ANOTHER_KEY,
    ),
    Condition(
        "features stop working",
        "features",
        "warn",
        lambda stage: None,
    ),
    Condition(
        "the workspace may be in use",
        "effect_time",
        "warn",
        lambda stage: None,
    ),
    Condition(
        "nobody can read whether the workspace retains data",
        "retention",
        "unknown",
        lambda stage: None,
    ),
)


@dataclass(frozen=True, slots=True)
class Blind:
    """A check that can't be answered, and why."""

    check: str
    setup: Setup


def _deny(*permissions: str, key: bool = False) -> Setup:
    def setup(stage: Stage) -> None:
        if key:
            stage.key()
        stage.deny(*permissions)

    return setup


def _no_location(stage: Stage) -> None:
    stage.fault("GetLocation", "PERMISSION_DENIED")


READ_KMS = ("cloudkms.keyRings.get", "cloudkms.cryptoKeys.get")

BLIND: tuple[Blind, ...] = (
    Blind("project", _deny("resourcemanager.projects.get")),
    Blind("billing", _deny("resourcemanager.projects.get")),
    Blind("kms_api", _both(_deny("serviceusage.services.get", *READ_KMS), _no_location)),
    Blind("check_apis", _google(disabled_services=["orgpolicy.googleapis.com"])),
    Blind("location", _no_location),
    Blind("caller_on_project", _google(disabled_services=["cloudresourcemanager.googleapis.com"])),
    Blind("caller_on_existing", _deny("cloudkms.keyRings.get")),
    Blind("caller_on_existing", _deny("cloudkms.cryptoKeys.get", key=True)),
    Blind(
        "audit_logs",
        _both(_google(data_access_logs=[]), _deny("resourcemanager.organizations.getIamPolicy")),
    ),
    Blind("drs_legacy", _deny("orgpolicy.policy.get")),
    Blind("drs_managed", _deny("orgpolicy.policy.get")),
    Blind("drs_custom", _deny("orgpolicy.customConstraints.list")),
    Blind("drs_custom", _deny("resourcemanager.projects.get")),
    Blind("location_policy", _deny("orgpolicy.policy.get")),
    Blind("protection_policy", _deny("orgpolicy.policy.get")),
    Blind("destroy_delay_policy", _deny("orgpolicy.policy.get")),
    Blind("disable_before_destroy", _deny("orgpolicy.policy.get")),
    Blind("perimeter", _deny("accesscontextmanager.policies.list")),
    Blind("perimeter", _deny("accesscontextmanager.servicePerimeters.list")),
    Blind("key_purpose", _deny("cloudkms.cryptoKeys.get", key=True)),
    Blind("key_protection", _deny("cloudkms.cryptoKeys.get", key=True)),
    Blind("key_origin", _deny("cloudkms.cryptoKeys.get", key=True)),
    Blind("key_primary", _deny("cloudkms.cryptoKeys.get", key=True)),
    Blind("key_justifications", _deny("cloudkms.cryptoKeys.get", key=True)),
    Blind("key_shared", _deny("cloudkms.protectedResources.search", key=True)),
    Blind("broader_grants", _deny("resourcemanager.projects.getIamPolicy")),
    Blind("public_members", _deny("cloudkms.cryptoKeys.getIamPolicy", key=True)),
    Blind("look_alike_members", _deny("cloudkms.keyRings.getIamPolicy", key=True)),
    Blind("admin_credential", lambda stage: stage.fault("organization.me")),
    Blind("cmek_reachable", lambda stage: stage.fault("external_keys.list")),
    Blind("workspace", lambda stage: stage.fault("workspaces.retrieve", 403)),
    Blind("retention", lambda stage: None),
)
"""Each check's `unknown` path. `features` and `effect_time` read nothing, so they have none."""
