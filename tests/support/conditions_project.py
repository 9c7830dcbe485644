"""What can be wrong with project, APIs, location and the caller."""

from __future__ import annotations

from tests.support.condition_setups import (
    Blind,
    Condition,
    both,
    deny,
    google,
    refusal,
    switch,
    with_key,
)
from tests.support.staging import KEY, Stage

PROJECT_CONDITIONS: tuple[Condition, ...] = (
    Condition(
        "project waits for its deletion",
        "project",
        "fail",
        google(project_states={KEY.project: "DELETE_REQUESTED"}),
        "gcloud projects undelete acme-kms-prod",
    ),
    Condition(
        "billing is off",
        "billing",
        "fail",
        switch(billing_enabled=False),
        "gcloud billing projects link acme-kms-prod",
    ),
    Condition(
        "billing is off, and only Cloud KMS says so",
        "billing",
        "fail",
        both(
            switch(billing_enabled=False),
            google(disabled_services=["cloudbilling.googleapis.com"]),
        ),
        "gcloud billing projects link acme-kms-prod",
    ),
    Condition(
        "Cloud KMS API is off",
        "kms_api",
        "fail",
        switch(kms_api_enabled=False),
        "gcloud services enable cloudkms.googleapis.com --project=acme-kms-prod",
    ),
    Condition(
        "Cloud KMS API is off, and only Cloud KMS says so",
        "kms_api",
        "fail",
        both(switch(kms_api_enabled=False), lambda stage: stage.deny("serviceusage.services.get")),
        "gcloud services enable cloudkms.googleapis.com --project=acme-kms-prod",
    ),
    Condition(
        "Cloud KMS API is off in the caller's quota project",
        "kms_api",
        "fail",
        refusal("SERVICE_DISABLED"),
        "gcloud services enable cloudkms.googleapis.com --project=999999999999",
        evidence="the caller's quota project 999999999999",
    ),
    Condition(
        "billing is off in the caller's quota project",
        "billing",
        "fail",
        refusal("BILLING_DISABLED"),
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
        with_key(lambda stage: stage.deny("cloudkms.cryptoKeys.setIamPolicy")),
        "gcloud kms keys add-iam-policy-binding payments-prod --keyring=anthropic-cmek",
        evidence="cloudkms.cryptoKeys.setIamPolicy",
    ),
    Condition(
        "caller may not create keys in the existing ring",
        "caller_on_existing",
        "fail",
        both(lambda stage: stage.ring(), lambda stage: stage.deny("cloudkms.cryptoKeys.create")),
        "gcloud kms keyrings add-iam-policy-binding anthropic-cmek",
    ),
)


def _no_location(stage: Stage) -> None:
    stage.fault("GetLocation", "PERMISSION_DENIED")


_READ_KMS = ("cloudkms.keyRings.get", "cloudkms.cryptoKeys.get")

PROJECT_BLIND: tuple[Blind, ...] = (
    Blind("project", deny("resourcemanager.projects.get")),
    Blind("billing", deny("resourcemanager.projects.get")),
    Blind("kms_api", both(deny("serviceusage.services.get", *_READ_KMS), _no_location)),
    Blind("check_apis", google(disabled_services=["orgpolicy.googleapis.com"])),
    Blind("location", _no_location),
    Blind("caller_on_project", google(disabled_services=["cloudresourcemanager.googleapis.com"])),
    Blind("caller_on_existing", deny("cloudkms.keyRings.get")),
    Blind("caller_on_existing", deny("cloudkms.cryptoKeys.get", key=True)),
)
"""Those of its checks whose reads can be refused, and how: the check is then `unknown`."""
