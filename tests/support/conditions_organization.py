"""What can be wrong with audit logs, organization policies and perimeters."""

from __future__ import annotations

from datetime import timedelta

from cmek.anthropic_identity import MEMBER
from cmek.keys.rules_org import LEGACY, MANAGED
from sandbox.world import ACCESS_POLICY
from tests.support.condition_setups import (
    Blind,
    Condition,
    both,
    constraint,
    custom_constraint,
    deny,
    exempted,
    google,
    ingress,
    with_key,
)

ORGANIZATION_CONDITIONS: tuple[Condition, ...] = (
    Condition(
        "audit logs are off on every level",
        "audit_logs",
        "fail",
        google(data_access_logs=[]),
        "https://console.cloud.google.com/iam-admin/audit?project=acme-kms-prod",
    ),
    Condition(
        "only one of the two audit logs is on",
        "audit_logs",
        "fail",
        google(data_access_logs=["DATA_READ"]),
        "tick Data Read and Data Write",
        evidence="DATA_WRITE",
    ),
    Condition(
        "Anthropic's account is exempted from the audit logs",
        "audit_logs",
        "fail",
        exempted,
        "Exempted principals",
        evidence="exempted",
    ),
    Condition(
        "domain restricted sharing (legacy) without Anthropic's customer id",
        "drs_legacy",
        "fail",
        constraint(allowed_policy_member_domains=["C0sandbox"]),
        "iam-allowedPolicyMemberDomains?project=acme-kms-prod",
        evidence="C0sandbox",
    ),
    Condition(
        "domain restricted sharing (legacy) with another customer id than the given one",
        "drs_legacy",
        "fail",
        constraint(allowed_policy_member_domains=["C0sandbox"]),
        "iam-allowedPolicyMemberDomains",
        subject={"permitted_customer_id": "C0anthropic"},
        evidence="C0anthropic is not among them",
    ),
    Condition(
        "domain restricted sharing (managed) without Anthropic's account",
        "drs_managed",
        "fail",
        constraint(allowed_member_subjects=["user:ada@example.com"]),
        f"add {MEMBER} to allowedMemberSubjects",
    ),
    Condition(
        "domain restricted sharing (legacy) allows another organization's members",
        "drs_legacy",
        "unknown",
        constraint(
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
        with_key(constraint(allowed_policy_member_domains=["C0sandbox"])),
        "iam-allowedPolicyMemberDomains",
    ),
    Condition(
        "custom constraint on IAM policies",
        "drs_custom",
        "unknown",
        custom_constraint,
        evidence="custom.ourMembers",
    ),
    Condition(
        "organization policy forbids the location",
        "location_policy",
        "fail",
        constraint(resource_locations=["us-central1", "in:eu-locations"]),
        "gcp-resourceLocations?project=acme-kms-prod: allow us-east5",
    ),
    Condition(
        "organization policy forbids the location of the existing key",
        "location_policy",
        "warn",
        with_key(constraint(resource_locations=["us-central1"])),
        "gcp-resourceLocations",
        evidence="rotation will fail",
    ),
    Condition(
        "organization policy names a group of locations that we don't know",
        "location_policy",
        "unknown",
        constraint(resource_locations=["in:low-carbon-locations"]),
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
        constraint(allowed_protection_levels=["SOFTWARE"]),
        "cloudkms-allowedProtectionLevels?project=acme-kms-prod: allow HSM",
    ),
    Condition(
        "organization policy asks for a longer destroy delay",
        "destroy_delay_policy",
        "fail",
        constraint(minimum_destroy_scheduled_duration=timedelta(days=60)),
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
            ingressPolicies=[ingress(identities=["user:ada@example.com"])]
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
)

ORGANIZATION_BLIND: tuple[Blind, ...] = (
    Blind(
        "audit_logs",
        both(google(data_access_logs=[]), deny("resourcemanager.organizations.getIamPolicy")),
    ),
    Blind("drs_legacy", deny("orgpolicy.policy.get")),
    Blind("drs_managed", deny("orgpolicy.policy.get")),
    Blind("drs_custom", deny("orgpolicy.customConstraints.list")),
    Blind("drs_custom", deny("resourcemanager.projects.get")),
    Blind("location_policy", deny("orgpolicy.policy.get")),
    Blind("protection_policy", deny("orgpolicy.policy.get")),
    Blind("destroy_delay_policy", deny("orgpolicy.policy.get")),
    Blind("disable_before_destroy", deny("orgpolicy.policy.get")),
    Blind("perimeter", deny("accesscontextmanager.policies.list")),
    Blind("perimeter", deny("accesscontextmanager.servicePerimeters.list")),
)
"""Those of its checks whose reads can be refused, and how: the check is then `unknown`."""
