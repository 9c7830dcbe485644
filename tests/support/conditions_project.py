"""Faults of the project, its APIs, the location and the caller's permissions."""

from __future__ import annotations

from tests.support.condition_setups import (
    Blind,
    ExpectedCause,
    ExpectedCheck,
    Situation,
    both,
    deny,
    google,
    nothing,
    refusal,
    switch,
)
from tests.support.staging import KEY, Stage

PROJECT_CONDITIONS: tuple[Situation, ...] = (
    Situation(
        "project waits for its deletion",
        google(project_states={KEY.project: "DELETE_REQUESTED"}),
        ExpectedCheck("project", "fail", "gcloud projects undelete acme-kms-prod"),
        ExpectedCause(
            "project_inactive", "gcloud projects undelete acme-kms-prod", validation_fails=False
        ),
    ),
    Situation(
        "billing is off",
        switch(billing_enabled=False),
        ExpectedCheck("billing", "fail", "gcloud billing projects link acme-kms-prod"),
        ExpectedCause("billing_off", "gcloud billing projects link acme-kms-prod"),
    ),
    Situation(
        "billing is off, and only Cloud KMS says so",
        both(
            switch(billing_enabled=False),
            google(disabled_services=["cloudbilling.googleapis.com"]),
        ),
        ExpectedCheck("billing", "fail", "gcloud billing projects link acme-kms-prod"),
    ),
    Situation(
        "Cloud KMS API is off",
        switch(kms_api_enabled=False),
        ExpectedCheck(
            "kms_api",
            "fail",
            "gcloud services enable cloudkms.googleapis.com --project=acme-kms-prod",
        ),
        ExpectedCause(
            "kms_api_off", "gcloud services enable cloudkms.googleapis.com --project=acme-kms-prod"
        ),
    ),
    Situation(
        "Cloud KMS API is off, and only Cloud KMS says so",
        both(switch(kms_api_enabled=False), lambda stage: stage.deny("serviceusage.services.get")),
        ExpectedCheck(
            "kms_api",
            "fail",
            "gcloud services enable cloudkms.googleapis.com --project=acme-kms-prod",
        ),
    ),
    Situation(
        "Cloud KMS API is off in the caller's quota project",
        refusal("SERVICE_DISABLED"),
        ExpectedCheck(
            "kms_api",
            "fail",
            "gcloud services enable cloudkms.googleapis.com --project=999999999999",
            evidence="the caller's quota project 999999999999",
        ),
    ),
    Situation(
        "billing is off in the caller's quota project",
        refusal("BILLING_DISABLED"),
        ExpectedCheck(
            "billing",
            "fail",
            "gcloud billing projects link 999999999999",
            evidence="the caller's quota project 999999999999",
        ),
    ),
    Situation(
        "location is a multi-region",
        nothing,
        ExpectedCheck("location", "fail", "us-east5", subject={"location": "us"}),
    ),
    Situation(
        "location is mistyped",
        nothing,
        ExpectedCheck("location", "fail", "us-east5", subject={"location": "us-east99"}),
    ),
    Situation(
        "location has no HSM",
        lambda stage: stage.world.kms.locations_without_hsm.add("us-east5"),
        ExpectedCheck("location", "fail", "us-east5"),
    ),
    Situation(
        "caller may not create keys",
        lambda stage: stage.deny("cloudkms.cryptoKeys.create"),
        ExpectedCheck(
            "caller_on_project",
            "fail",
            "gcloud projects add-iam-policy-binding acme-kms-prod",
            evidence="cloudkms.cryptoKeys.create",
        ),
    ),
    Situation(
        "caller may not grant on the existing key",
        deny("cloudkms.cryptoKeys.setIamPolicy", key=True),
        ExpectedCheck(
            "caller_on_existing",
            "fail",
            "gcloud kms keys add-iam-policy-binding payments-prod --keyring=anthropic-cmek",
            evidence="cloudkms.cryptoKeys.setIamPolicy",
        ),
    ),
    Situation(
        "caller may not create keys in the existing ring",
        both(lambda stage: stage.ring(), lambda stage: stage.deny("cloudkms.cryptoKeys.create")),
        ExpectedCheck(
            "caller_on_existing",
            "fail",
            "gcloud kms keyrings add-iam-policy-binding anthropic-cmek",
        ),
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
"""Checks whose reads can be refused, and how; the check is then `unknown`."""
