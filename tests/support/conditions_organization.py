"""Faults of audit logs, organization policies and perimeters."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from cmek.anthropic_identity import MEMBER, ROLES
from cmek.keys.rules_org import LEGACY, MANAGED
from sandbox.world import ACCESS_POLICY
from tests.support.condition_setups import (
    Blind,
    ExpectedCause,
    ExpectedCheck,
    Setup,
    Situation,
    both,
    constraint,
    custom_constraint,
    deny,
    exempted,
    google,
    ingress,
    nothing,
)
from tests.support.staging import FOLDER, NUMBER, Stage

_POLICY = ACCESS_POLICY.removeprefix("accessPolicies/")


def _sharing(stage: Stage) -> None:
    for role in ROLES:
        stage.revoke(role)
    stage.world.kms.constraints.allowed_policy_member_domains = ["C0sandbox"]


def _folder_perimeter(stage: Stage) -> None:
    stage.perimeter(resources=[FOLDER])
    stage.world.kms.constraints.perimeter_blocks = "anthropic"


def _refusing(**rule: Any) -> Setup:
    """A perimeter with this ingress rule, which does not let Anthropic in."""

    def setup(stage: Stage) -> None:
        stage.perimeter(ingressPolicies=[ingress(**rule)])
        stage.world.kms.constraints.perimeter_blocks = "anthropic"

    return setup


ORGANIZATION_CONDITIONS: tuple[Situation, ...] = (
    Situation(
        "audit logs are off on every level",
        google(data_access_logs=[]),
        ExpectedCheck(
            "audit_logs",
            "fail",
            "https://console.cloud.google.com/iam-admin/audit?project=acme-kms-prod",
        ),
    ),
    Situation(
        "only one of the two audit logs is on",
        google(data_access_logs=["DATA_READ"]),
        ExpectedCheck("audit_logs", "fail", "tick Data Read and Data Write", evidence="DATA_WRITE"),
    ),
    Situation(
        "Anthropic's account is exempted from the audit logs",
        exempted,
        ExpectedCheck("audit_logs", "fail", "Exempted principals", evidence="exempted"),
    ),
    Situation(
        "domain restricted sharing (legacy) without Anthropic's customer id",
        constraint(allowed_policy_member_domains=["C0sandbox"]),
        ExpectedCheck(
            "drs_legacy",
            "fail",
            "iam-allowedPolicyMemberDomains?project=acme-kms-prod",
            evidence="C0sandbox",
        ),
    ),
    Situation(
        "domain restricted sharing (legacy) with another customer id than the given one",
        constraint(allowed_policy_member_domains=["C0sandbox"]),
        ExpectedCheck(
            "drs_legacy",
            "fail",
            "iam-allowedPolicyMemberDomains",
            subject={"permitted_customer_id": "C0anthropic"},
            evidence="C0anthropic is not among them",
        ),
    ),
    Situation(
        "domain restricted sharing (managed) without Anthropic's account",
        constraint(allowed_member_subjects=["user:ada@example.com"]),
        ExpectedCheck("drs_managed", "fail", f"add {MEMBER} to allowedMemberSubjects"),
    ),
    Situation(
        "domain restricted sharing (legacy) allows another organization's members",
        constraint(
            allowed_policy_member_domains=["principalSet://iam.googleapis.com/organizations/1"]
        ),
        ExpectedCheck("drs_legacy", "unknown", "iam-allowedPolicyMemberDomains"),
    ),
    Situation(
        "domain restricted sharing (managed) allows another organization's members",
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
        ExpectedCheck(
            "drs_managed",
            "unknown",
            "iam-managed-allowedPolicyMembers",
            evidence="organizations/1;",
        ),
    ),
    Situation(
        "an organization policy depends on tags",
        lambda stage: stage.rules(
            LEGACY, {"allowAll": True, "condition": {"expression": "resource.matchTag('a', 'b')"}}
        ),
        ExpectedCheck("drs_legacy", "unknown"),
    ),
    Situation(
        "domain restricted sharing set after the grants",
        both(lambda stage: stage.key(), constraint(allowed_policy_member_domains=["C0sandbox"])),
        ExpectedCheck("drs_legacy", "warn", "iam-allowedPolicyMemberDomains"),
    ),
    Situation(
        "domain restricted sharing removed the grants",
        _sharing,
        cause=ExpectedCause(
            "domain_sharing", "iam-allowedPolicyMemberDomains?project=acme-kms-prod"
        ),
    ),
    Situation(
        "custom constraint on IAM policies",
        custom_constraint,
        ExpectedCheck("drs_custom", "unknown", evidence="custom.ourMembers"),
    ),
    Situation(
        "organization policy forbids the location",
        constraint(resource_locations=["us-central1", "in:eu-locations"]),
        ExpectedCheck(
            "location_policy", "fail", "gcp-resourceLocations?project=acme-kms-prod: allow us-east5"
        ),
    ),
    Situation(
        "organization policy forbids the location of the existing key",
        both(lambda stage: stage.key(), constraint(resource_locations=["us-central1"])),
        ExpectedCheck(
            "location_policy", "warn", "gcp-resourceLocations", evidence="rotation will fail"
        ),
    ),
    Situation(
        "organization policy names a group of locations that we don't know",
        constraint(resource_locations=["in:low-carbon-locations"]),
        ExpectedCheck("location_policy", "unknown"),
    ),
    Situation(
        "organization policy denies a group of locations that we don't know",
        lambda stage: stage.rules(
            "gcp.resourceLocations", {"values": {"deniedValues": ["in:low-carbon-locations"]}}
        ),
        ExpectedCheck("location_policy", "unknown"),
    ),
    Situation(
        "organization policy denies the location",
        lambda stage: stage.rules(
            "gcp.resourceLocations", {"values": {"deniedValues": ["in:us-east5-locations"]}}
        ),
        ExpectedCheck("location_policy", "fail", "gcp-resourceLocations"),
    ),
    Situation(
        "organization policy forbids the protection level",
        constraint(allowed_protection_levels=["SOFTWARE"]),
        ExpectedCheck(
            "protection_policy",
            "fail",
            "cloudkms-allowedProtectionLevels?project=acme-kms-prod: allow HSM",
        ),
    ),
    Situation(
        "organization policy asks for a longer destroy delay",
        constraint(minimum_destroy_scheduled_duration=timedelta(days=60)),
        ExpectedCheck("destroy_delay_policy", "fail", "60 days"),
    ),
    Situation(
        "nothing forces a version to be disabled before its destruction",
        nothing,
        ExpectedCheck("disable_before_destroy", "warn", "cloudkms-disableBeforeDestroy"),
    ),
    Situation(
        "perimeter keeps everybody out of Cloud KMS",
        lambda stage: stage.perimeter(),
        ExpectedCheck(
            "perimeter", "fail", "service-perimeter?organizationId=567890123456", evidence="vault"
        ),
    ),
    Situation(
        "a perimeter refuses Anthropic's calls",
        constraint(perimeter_blocks="anthropic"),
        cause=ExpectedCause("perimeter", "service-perimeter?organizationId=567890123456"),
    ),
    Situation(
        "a perimeter refuses everybody's calls",
        constraint(perimeter_blocks="everybody"),
        cause=ExpectedCause("perimeter", MEMBER),
    ),
    Situation(
        "a perimeter lets Anthropic in, but refuses our own calls",
        constraint(perimeter_blocks="all_but_anthropic"),
        ExpectedCheck(
            "perimeter",
            "fail",
            "add an ingress rule for user:CALLER",
            evidence="(perimeter sandbox lets Anthropic in)",
        ),
    ),
    Situation(
        "a perimeter whose rules may not be read refuses our own calls",
        both(
            constraint(perimeter_blocks="everybody"),
            deny("accesscontextmanager.policies.list"),
        ),
        ExpectedCheck(
            "perimeter",
            "fail",
            "Unless the perimeter lets Anthropic in already",
            evidence="a perimeter refused our own read",
        ),
    ),
    Situation(
        "perimeter with an ingress rule for somebody else",
        lambda stage: stage.perimeter(
            ingressPolicies=[ingress(identities=["user:ada@example.com"])]
        ),
        ExpectedCheck("perimeter", "fail", MEMBER),
    ),
    Situation(
        "perimeter with an ingress rule for a group",
        _refusing(identities=["group:vendors@example.com"]),
        ExpectedCheck("perimeter", "unknown", MEMBER),
        ExpectedCause("perimeter", MEMBER, "open"),
    ),
    Situation(
        "perimeter with an ingress rule for IAM roles",
        _refusing(identities=[MEMBER], to={"resources": ["*"], "roles": list(ROLES)}),
        ExpectedCheck("perimeter", "unknown", MEMBER),
        ExpectedCause("perimeter", MEMBER, "open"),
    ),
    Situation(
        "perimeter with an ingress rule for another project",
        _refusing(identities=[MEMBER], to=ingress()["ingressTo"] | {"resources": ["projects/1"]}),
        ExpectedCheck("perimeter", "fail", MEMBER),
        ExpectedCause("perimeter", MEMBER),
    ),
    Situation(
        "perimeter that lets Anthropic in, and a dry run of it that does not",
        both(
            lambda stage: stage.perimeter(ingressPolicies=[ingress(identities=[MEMBER])]),
            lambda stage: stage.perimeter("spec"),
        ),
        ExpectedCheck(
            "perimeter",
            "warn",
            "perimeters dry-run update vault",
            evidence="and not let Anthropic in",
        ),
    ),
    Situation(
        "perimeter in dry run with an ingress rule for a group",
        lambda stage: stage.perimeter(
            "spec", ingressPolicies=[ingress(identities=["group:vendors@example.com"])]
        ),
        ExpectedCheck("perimeter", "warn", MEMBER, evidence="perhaps not let Anthropic in"),
    ),
    Situation(
        "perimeter with access levels",
        lambda stage: stage.perimeter(accessLevels=[f"{ACCESS_POLICY}/accessLevels/office"]),
        ExpectedCheck("perimeter", "unknown", MEMBER),
    ),
    Situation(
        "perimeter in dry run",
        lambda stage: stage.perimeter("spec"),
        ExpectedCheck(
            "perimeter",
            "warn",
            f"perimeters dry-run update vault --policy={_POLICY} "
            f"--remove-resources=projects/{NUMBER}",
        ),
    ),
    Situation(
        "perimeter around a folder above the project",
        _folder_perimeter,
        ExpectedCheck(
            "perimeter",
            "fail",
            f"exclude {FOLDER} with every project below it: gcloud access-context-manager "
            f"perimeters update vault --policy={_POLICY} --remove-resources={FOLDER}",
            evidence=f"vault (around {FOLDER})",
        ),
        ExpectedCause("perimeter", f"--remove-resources={FOLDER}"),
    ),
    Situation(
        "perimeter around the project and its folder",
        lambda stage: stage.perimeter(resources=[FOLDER, f"projects/{NUMBER}"]),
        ExpectedCheck("perimeter", "fail", f"--remove-resources=projects/{NUMBER},{FOLDER}"),
    ),
    Situation(
        "a perimeter around the project, another one around its folder",
        both(
            lambda stage: stage.perimeter(name="outer", resources=[FOLDER]),
            lambda stage: stage.perimeter(name="inner"),
        ),
        ExpectedCheck(
            "perimeter",
            "fail",
            f"update inner --policy={_POLICY} --remove-resources=projects/{NUMBER} && "
            f"gcloud access-context-manager perimeters update outer --policy={_POLICY} "
            f"--remove-resources={FOLDER}",
            evidence="perimeter inner restricts",
        ),
    ),
    Situation(
        "perimeter in dry run around a folder above the project",
        lambda stage: stage.perimeter("spec", resources=[FOLDER]),
        ExpectedCheck(
            "perimeter",
            "warn",
            f"dry-run update vault --policy={_POLICY} --remove-resources={FOLDER}",
            evidence=f"vault (around {FOLDER})",
        ),
    ),
    Situation(
        "a dry run takes the project out of its perimeter and leaves it in that of its folder",
        both(
            lambda stage: stage.perimeter(name="outer", resources=[FOLDER]),
            lambda stage: stage.perimeter(name="inner", restrictedServices=[]),
            lambda stage: stage.perimeter("spec", name="inner", resources=[]),
        ),
        ExpectedCheck(
            "perimeter",
            "warn",
            f"perimeters update outer --policy={_POLICY} --remove-resources={FOLDER}",
            evidence=f"outer (around {FOLDER})",
        ),
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
"""Checks whose reads can be refused, and how; the check is then `unknown`."""
