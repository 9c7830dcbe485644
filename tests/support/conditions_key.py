"""Faults of a key, its versions and its grants: what checks, diagnosis and health must report.

Where one of the three has no rule for a fault, its report must not change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from google.cloud import kms_v1

from cmek.anthropic_identity import ENCRYPTER_DECRYPTER, MEMBER, VIEWER
from tests.support.condition_setups import (
    DELETED,
    LOOK_ALIKE,
    Blind,
    ExpectedCause,
    ExpectedCheck,
    ExpectedHealth,
    KeyCondition,
    Setup,
    both,
    deny,
    google,
    nothing,
    protection,
    stored,
)
from tests.support.staging import FOLDER, KEY, Stage
from tests.support.world import LABEL, VALUE

OTHER_LABEL: Final = "anthropic-org-00000000-0000-4000-8000-000000000001"
ADMIN: Final = "roles/cloudkms.admin"
EVE: Final = "user:eve@example.com"
ADA: Final = "user:ada@example.com"

_KEY = "--key=payments-prod --keyring=anthropic-cmek --location=us-east5 --project=acme-kms-prod"
_ON_KEY = "payments-prod --keyring=anthropic-cmek --location=us-east5 --project=acme-kms-prod"
NEW_KEY: Final = "gcloud kms keys create NEW_NAME --keyring=anthropic-cmek"
ENABLE: Final = f"gcloud kms keys versions enable 1 {_KEY}"
RESTORE: Final = f"gcloud kms keys versions restore 1 {_KEY}"
NEW_PRIMARY: Final = f"gcloud kms keys versions create --primary {_KEY}"
UPDATE: Final = f"gcloud kms keys update {_ON_KEY} "
PUT_LABEL: Final = f"{UPDATE}--update-labels={LABEL}={VALUE}"
ROTATE: Final = f"{UPDATE}--rotation-period=90d --next-rotation-time="
NOT_ON_RING: Final = (
    "gcloud kms keyrings remove-iam-policy-binding anthropic-cmek --location=us-east5 "
    f"--project=acme-kms-prod --member={MEMBER} --role={ENCRYPTER_DECRYPTER} --all"
)
OFF = {"rotation_period": None, "next_rotation_time": None}


def _grant(role: str) -> str:
    return (
        f"gcloud kms keys add-iam-policy-binding {_ON_KEY} --member={MEMBER} --role={role} "
        "--condition=None"
    )


def _revoke(member: str, role: str) -> str:
    return (
        f"gcloud kms keys remove-iam-policy-binding {_ON_KEY} --member={member} --role={role} --all"
    )


def _template(level: str, algorithm: str = "GOOGLE_SYMMETRIC_ENCRYPTION") -> dict[str, str]:
    return {"protection_level": level, "algorithm": algorithm}


def _binding(role: str, member: str) -> Setup:
    """Add one binding on the key."""
    return lambda stage: stage.grant(str(stage.name), role, member)


def _instead(
    role: str,
    where: Callable[[Stage], str],
    member: str = MEMBER,
    condition: str | None = None,
) -> Setup:
    """Replace the grant on the key: on another resource, to another member, with a condition."""

    def setup(stage: Stage) -> None:
        stage.revoke(role)
        stage.grant(where(stage), role, member, condition)

    return setup


def _on_key(stage: Stage) -> str:
    return str(stage.name)


def _on_ring(stage: Stage) -> str:
    return stage.name.key_ring_name


def _on_project(stage: Stage) -> str:
    """The project; its policy enables audit logs, since it replaces the sandbox's default."""
    stage.audit(stage.project, ["DATA_READ", "DATA_WRITE"], service="allServices")
    return stage.project


def _on_folder(stage: Stage) -> str:
    """The folder above the project; a new one where other keys' projects may have the same."""
    project = stage.world.kms.projects[stage.name.project]
    if FOLDER not in project.ancestors:
        project.ancestors = ["folders/456789012345"]
    return project.ancestors[0]


def _until(time: str) -> Setup:
    condition = f"request.time < timestamp('{time}')"
    return _instead(ENCRYPTER_DECRYPTER, _on_key, condition=condition)


def _multi_region(stage: Stage) -> None:
    replace(stage, name=replace(stage.name, location="us")).key()


def _version_protection(level: str) -> Setup:
    """Set the protection level of the primary version only."""

    def setup(stage: Stage) -> None:
        version = stage.world.kms.versions[str(stage.name)][1]
        version.protection_level = getattr(kms_v1.ProtectionLevel, level)
        version.algorithm = stage.stored_key.version_template.algorithm

    return setup


def _closed_project(stage: Stage) -> None:
    call = "cloudresourcemanager.projects.getIamPolicy"
    stage.fault(call, 403, resource=f"*{stage.name.project}*")


def _rotation_stopped(stage: Stage) -> None:
    # set after the key was created, so that only the rotation fails
    stage.world.kms.constraints.allowed_protection_levels = ["SOFTWARE"]


def _protects(**found: Any) -> Setup:
    return lambda stage: google(protected_resources={str(stage.name): found})(stage)


KEY_CONDITIONS: tuple[KeyCondition, ...] = (
    KeyCondition(
        "the key signs instead of encrypting",
        nothing,
        ExpectedCheck("key_purpose", "fail", NEW_KEY, evidence="ASYMMETRIC_SIGN"),
        ExpectedCause("wrong_purpose", NEW_KEY),
        ExpectedHealth("wrong-kind", "broken"),
        key=OFF
        | {
            "purpose": "ASYMMETRIC_SIGN",
            "version_template": _template("HSM", "EC_SIGN_P256_SHA256"),
        },
    ),
    KeyCondition(
        "the key's protection level is not the requested one",
        nothing,
        ExpectedCheck("key_protection", "fail", NEW_KEY),
        health=ExpectedHealth("software-protection", "healthy"),
        key={"version_template": _template("SOFTWARE")},
    ),
    KeyCondition(
        "the key lies in an external key manager",
        both(protection("EXTERNAL"), _version_protection("EXTERNAL")),
        ExpectedCheck("key_origin", "fail", NEW_KEY),
        ExpectedCause("outside_backend", "", "open", validation_fails=False),
    ),
    KeyCondition(
        "the key is import-only",
        stored(import_only=True),
        ExpectedCheck("key_origin", "fail", NEW_KEY),
    ),
    KeyCondition(
        "the key lies in a multi-region",
        _multi_region,
        None,
        ExpectedCause("other_key_name", f"register {KEY}"),
        ExpectedHealth("wrong-location", "broken"),
    ),
    KeyCondition(
        "the external key names a version",
        lambda stage: stage.register(f"{stage.name}/cryptoKeyVersions/1"),
        None,
        ExpectedCause("other_key_name", f"register {KEY}"),
        ExpectedHealth("name-malformed", "broken"),
    ),
    KeyCondition(
        "the external key names another key",
        lambda stage: stage.register(f"{stage.name.key_ring_name}/cryptoKeys/another"),
        None,
        ExpectedCause("other_key_name", f"register {KEY}"),
        ExpectedHealth("key-not-found", "broken"),
    ),
    KeyCondition(
        "the key was deleted",
        lambda stage: stage.remove_key(str(stage.name)),
        None,
        ExpectedCause("key_deleted", "make a key of another name"),
        ExpectedHealth("key-not-found", "broken", ("gcloud projects undelete acme-kms-prod",)),
    ),
    KeyCondition(
        "the primary version is missing",
        nothing,
        ExpectedCheck("key_primary", "fail", NEW_PRIMARY),
        ExpectedCause("primary_missing", NEW_PRIMARY),
        ExpectedHealth("primary-missing", "broken", (NEW_PRIMARY,)),
        key={"skip_version": True},
    ),
    KeyCondition(
        "the primary version is disabled",
        lambda stage: stage.disable(),
        ExpectedCheck("key_primary", "fail", ENABLE),
        ExpectedCause("primary_disabled", ENABLE),
        ExpectedHealth("primary-disabled", "broken", (ENABLE,)),
    ),
    KeyCondition(
        "the primary version is scheduled for destruction",
        lambda stage: stage.destroy(),
        ExpectedCheck("key_primary", "fail", RESTORE),
        ExpectedCause("primary_destroy_scheduled", f"{RESTORE} && {ENABLE}"),
        ExpectedHealth(
            "primary-destroy-scheduled", "broken", (RESTORE, ENABLE), days_left=10, days_since=20
        ),
        made_days_ago=20,
    ),
    KeyCondition(
        "the primary version is destroyed",
        lambda stage: stage.destroy(),
        ExpectedCheck("key_primary", "fail", NEW_PRIMARY),
        ExpectedCause("primary_destroyed", NEW_PRIMARY),
        ExpectedHealth("primary-unusable", "broken", (NEW_PRIMARY,)),
        made_days_ago=40,
    ),
    KeyCondition(
        "the primary version is still being made",
        lambda stage: stage.version_state("PENDING_GENERATION"),
        ExpectedCheck("key_primary", "fail"),
        ExpectedCause("primary_pending", "gcloud kms keys versions describe 1 --key=payments-prod"),
        ExpectedHealth("primary-pending", "unknown"),
    ),
    KeyCondition(
        "the primary version could not be made",
        lambda stage: stage.version_state("GENERATION_FAILED"),
        ExpectedCheck("key_primary", "fail", NEW_PRIMARY),
        ExpectedCause("primary_failed", NEW_PRIMARY),
        ExpectedHealth("primary-unusable", "broken", (NEW_PRIMARY,)),
    ),
    KeyCondition(
        "an old version is disabled",
        both(lambda stage: stage.rotate(), lambda stage: stage.disable()),
        health=ExpectedHealth("old-version-disabled", "broken", (ENABLE,)),
    ),
    KeyCondition(
        "an old version is scheduled for destruction",
        both(lambda stage: stage.rotate(), lambda stage: stage.destroy()),
        health=ExpectedHealth(
            "old-version-destroy-scheduled",
            "broken",
            (RESTORE, ENABLE),
            days_left=1,
            days_since=29,
        ),
        made_days_ago=29,
    ),
    KeyCondition(
        "an old version is destroyed",
        both(lambda stage: stage.rotate(), lambda stage: stage.destroy()),
        health=ExpectedHealth(
            "old-version-destroyed",
            "broken",
            (
                (
                    'gcloud logging read \'protoPayload.methodName="DestroyCryptoKeyVersion" AND '
                    f'protoPayload.resourceName="{KEY}/cryptoKeyVersions/1"\' '
                    "--freshness=400d --project=acme-kms-prod"
                ),
            ),
            days_since=10,
        ),
        made_days_ago=40,
    ),
    KeyCondition(
        "the label is missing",
        lambda stage: stage.update(labels={"team": "search"}),
        None,
        ExpectedCause("label_missing", PUT_LABEL),
        ExpectedHealth("organization-label-missing", "broken", (PUT_LABEL,)),
    ),
    KeyCondition(
        "the label is another organization's",
        lambda stage: stage.update(labels={OTHER_LABEL: "true"}),
        None,
        ExpectedCause("label_other_organization", PUT_LABEL),
        ExpectedHealth("organization-label-missing", "broken", (PUT_LABEL,)),
    ),
    KeyCondition(
        "the label is in upper case",
        lambda stage: stage.stored_key.labels.update(
            {LABEL.upper(): stage.stored_key.labels.pop(LABEL)}
        ),
        None,
        ExpectedCause("label_spelling", PUT_LABEL),
        ExpectedHealth("organization-label-missing", "broken", (PUT_LABEL,)),
    ),
    KeyCondition(
        "the label's value is wrong",
        lambda stage: stage.update(labels={LABEL: "yes"}),
        None,
        ExpectedCause("label_spelling", PUT_LABEL),
        ExpectedHealth("organization-label-missing", "broken", (PUT_LABEL,)),
    ),
    KeyCondition(
        "Key Access Justifications allow nothing",
        lambda stage: stage.update(key_access_justifications_policy={}),
        ExpectedCheck("key_justifications", "fail", "customer-initiated-access"),
        ExpectedCause(
            "justifications", f"{UPDATE}--allowed-access-reasons=customer-initiated-access"
        ),
        ExpectedHealth(
            "justifications-deny",
            "broken",
            (f"{UPDATE}--allowed-access-reasons=customer-initiated-access",),
        ),
    ),
    KeyCondition(
        "Key Access Justifications lack customer-initiated access",
        nothing,
        ExpectedCheck("key_justifications", "warn", "customer-initiated-access"),
        ExpectedCause("justifications", "", "open", validation_fails=False),
        ExpectedHealth(
            "justifications-narrow",
            "broken",
            (
                (
                    f"{UPDATE}--allowed-access-reasons="
                    "google-initiated-system-operation,customer-initiated-access"
                ),
            ),
        ),
        key={
            "key_access_justifications_policy": {
                "allowed_access_reasons": ["GOOGLE_INITIATED_SYSTEM_OPERATION"]
            }
        },
    ),
    KeyCondition(
        "the encrypter/decrypter grant is missing",
        lambda stage: stage.revoke(ENCRYPTER_DECRYPTER),
        None,
        ExpectedCause("encrypter_missing", _grant(ENCRYPTER_DECRYPTER)),
        ExpectedHealth("grant-missing", "broken", (_grant(ENCRYPTER_DECRYPTER),)),
    ),
    KeyCondition(
        "the viewer grant is missing",
        lambda stage: stage.revoke(VIEWER),
        None,
        ExpectedCause("viewer_missing", _grant(VIEWER)),
        ExpectedHealth("grant-missing", "broken", (_grant(VIEWER),)),
    ),
    KeyCondition(
        "a grant has a condition",
        _until("2030-01-01T00:00:00Z"),
        None,
        ExpectedCause("grant_conditional", _grant(ENCRYPTER_DECRYPTER), validation_fails=False),
        ExpectedHealth("grant-conditional", "at_risk", (_grant(ENCRYPTER_DECRYPTER),)),
    ),
    KeyCondition(
        "a grant's condition does not hold",
        _until("2026-01-01T00:00:00Z"),
        None,
        ExpectedCause("grant_conditional", _grant(ENCRYPTER_DECRYPTER)),
        ExpectedHealth("grant-conditional", "broken", (_grant(ENCRYPTER_DECRYPTER),)),
    ),
    KeyCondition(
        "the grant stands on the project",
        _instead(ENCRYPTER_DECRYPTER, _on_project),
        ExpectedCheck("broader_grants", "warn", "remove-iam-policy-binding"),
        ExpectedCause("grant_wrong_level", _grant(ENCRYPTER_DECRYPTER), validation_fails=False),
        ExpectedHealth("grant-inherited", "at_risk", (_grant(ENCRYPTER_DECRYPTER),)),
    ),
    KeyCondition(
        "the grant stands on the key ring",
        _instead(VIEWER, _on_ring),
        ExpectedCheck("broader_grants", "warn", "remove-iam-policy-binding"),
        ExpectedCause("grant_wrong_level", _grant(VIEWER), validation_fails=False),
        ExpectedHealth("grant-inherited", "at_risk", (_grant(VIEWER),)),
    ),
    KeyCondition(
        "the grant stands on the folder",
        both(
            lambda stage: stage.grant(_on_folder(stage), ENCRYPTER_DECRYPTER),
            # the last change, which an alert on the audit log must find
            lambda stage: stage.revoke(ENCRYPTER_DECRYPTER),
        ),
        ExpectedCheck(
            "broader_grants",
            "warn",
            "gcloud resource-manager folders remove-iam-policy-binding 345678901234",
        ),
        ExpectedCause("grant_wrong_level", _grant(ENCRYPTER_DECRYPTER), validation_fails=False),
        # above the project nothing is read for health: only the validation shows it
        ExpectedHealth("grant-missing", "at_risk", (_grant(ENCRYPTER_DECRYPTER),)),
    ),
    KeyCondition(
        "another role on the key allows to use it",
        both(
            lambda stage: stage.revoke(ENCRYPTER_DECRYPTER),
            _binding("roles/cloudkms.cryptoOperator", MEMBER),
        ),
        ExpectedCheck("broader_grants", "warn", _revoke(MEMBER, "roles/cloudkms.cryptoOperator")),
        ExpectedCause("encrypter_missing", _grant(ENCRYPTER_DECRYPTER), validation_fails=False),
        ExpectedHealth("grant-in-another-form", "at_risk", (_grant(ENCRYPTER_DECRYPTER),)),
    ),
    KeyCondition(
        "another role on the key allows to read it",
        both(lambda stage: stage.revoke(VIEWER), _binding(ADMIN, MEMBER)),
        ExpectedCheck("broader_grants", "warn", _revoke(MEMBER, ADMIN)),
        ExpectedCause("viewer_missing", _grant(VIEWER), validation_fails=False),
        ExpectedHealth("grant-in-another-form", "at_risk", (_grant(VIEWER),)),
    ),
    KeyCondition(
        "a custom role on the key does not allow to use it",
        both(
            lambda stage: stage.revoke(ENCRYPTER_DECRYPTER),
            _binding("projects/acme-kms-prod/roles/labels", MEMBER),
        ),
        ExpectedCheck(
            "broader_grants", "warn", _revoke(MEMBER, "projects/acme-kms-prod/roles/labels")
        ),
        ExpectedCause("encrypter_missing", _grant(ENCRYPTER_DECRYPTER)),
        ExpectedHealth("grant-in-another-form", "broken", (_grant(ENCRYPTER_DECRYPTER),)),
    ),
    KeyCondition(
        "the grant names a look-alike",
        _instead(ENCRYPTER_DECRYPTER, _on_key, LOOK_ALIKE),
        ExpectedCheck("look_alike_members", "fail", LOOK_ALIKE, evidence=LOOK_ALIKE),
        ExpectedCause("grant_wrong_member", _revoke(LOOK_ALIKE, ENCRYPTER_DECRYPTER)),
        ExpectedHealth(
            "grant-missing",
            "broken",
            (_grant(ENCRYPTER_DECRYPTER), _revoke(LOOK_ALIKE, ENCRYPTER_DECRYPTER)),
        ),
    ),
    KeyCondition(
        "the grant names the deleted account",
        _instead(VIEWER, _on_key, DELETED),
        ExpectedCheck("look_alike_members", "warn", DELETED),
        ExpectedCause("grant_wrong_member", _grant(VIEWER)),
        ExpectedHealth(
            "grant-missing", "broken", (_grant(VIEWER), _revoke(f"'{DELETED}'", VIEWER))
        ),
    ),
    KeyCondition(
        "everybody may use the key",
        _binding(ENCRYPTER_DECRYPTER, "allUsers"),
        ExpectedCheck(
            "public_members",
            "fail",
            _revoke("allUsers", ENCRYPTER_DECRYPTER),
            evidence="allUsers",
        ),
        None,
        ExpectedHealth(
            "kms-public-key",
            "at_risk",
            (_revoke("allUsers", ENCRYPTER_DECRYPTER),),
            benchmark="CIS 1.9, KMS_PUBLIC_KEY",
        ),
    ),
    KeyCondition(
        "a look-alike may use the key, too",
        _binding(ENCRYPTER_DECRYPTER, LOOK_ALIKE),
        ExpectedCheck("look_alike_members", "fail", LOOK_ALIKE, evidence=LOOK_ALIKE),
        None,
        ExpectedHealth("foreign-decrypter", "at_risk", (_revoke(LOOK_ALIKE, ENCRYPTER_DECRYPTER),)),
    ),
    KeyCondition(
        "a deleted account stands in the key's policy",
        _binding(ENCRYPTER_DECRYPTER, DELETED),
        ExpectedCheck("look_alike_members", "warn", DELETED),
    ),
    KeyCondition(
        "somebody else may decrypt",
        _binding("roles/cloudkms.cryptoKeyDecrypter", EVE),
        health=ExpectedHealth(
            "foreign-decrypter",
            "at_risk",
            (_revoke(EVE, "roles/cloudkms.cryptoKeyDecrypter"),),
        ),
    ),
    KeyCondition(
        "somebody both administers the key and encrypts with it",
        both(_binding(ADMIN, ADA), _binding("roles/cloudkms.cryptoKeyEncrypter", ADA)),
        health=ExpectedHealth(
            "kms-role-separation",
            "at_risk",
            (_revoke(ADA, ADMIN),),
            benchmark="CIS 1.11, KMS_ROLE_SEPARATION",
        ),
    ),
    KeyCondition(
        "Anthropic's account may administer the key",
        _binding(ADMIN, MEMBER),
        ExpectedCheck("broader_grants", "warn", _revoke(MEMBER, ADMIN)),
        None,
        ExpectedHealth("broader-grant", "at_risk", (_revoke(MEMBER, ADMIN),)),
    ),
    KeyCondition(
        "Anthropic's account may use the whole ring",
        lambda stage: stage.grant(stage.name.key_ring_name, ENCRYPTER_DECRYPTER),
        ExpectedCheck("broader_grants", "warn", NOT_ON_RING),
        None,
        ExpectedHealth("broader-grant", "at_risk", (NOT_ON_RING,)),
    ),
    KeyCondition(
        "Anthropic's account may use all keys of the project",
        lambda stage: stage.grant(_on_project(stage), ADMIN),
        ExpectedCheck(
            "broader_grants", "warn", "gcloud projects remove-iam-policy-binding acme-kms-prod"
        ),
        None,
        ExpectedHealth(
            "broader-grant",
            "at_risk",
            (
                (
                    "gcloud projects remove-iam-policy-binding acme-kms-prod "
                    f"--member={MEMBER} --role={ADMIN} --all"
                ),
            ),
        ),
    ),
    KeyCondition(
        "Anthropic's account may use all keys of the folder",
        lambda stage: stage.grant(FOLDER, ADMIN),
        ExpectedCheck(
            "broader_grants",
            "warn",
            "gcloud resource-manager folders remove-iam-policy-binding 345678901234",
        ),
    ),
    KeyCondition(
        "the key protects other systems",
        _protects(resourceCount="3", projectCount=1, cloudProducts={"BigQuery": "3"}),
        ExpectedCheck("key_shared", "warn", evidence="3 resources in 1 projects: BigQuery 3"),
    ),
    KeyCondition(
        "Google can't look everywhere for systems under the key",
        _protects(
            resourceCount="0", warnings=[{"warningCode": "INSUFFICIENT_PERMISSIONS_PARTIAL_DATA"}]
        ),
        ExpectedCheck("key_shared", "unknown"),
    ),
    KeyCondition(
        "the key is never rotated",
        nothing,
        health=ExpectedHealth(
            "kms-key-not-rotated-off",
            "at_risk",
            (ROTATE,),
            benchmark="CIS 1.10, KMS_KEY_NOT_ROTATED",
        ),
        key=OFF,
    ),
    KeyCondition(
        "the key is rotated too seldom",
        nothing,
        health=ExpectedHealth(
            "kms-key-not-rotated-slow",
            "at_risk",
            (ROTATE,),
            benchmark="CIS 1.10, KMS_KEY_NOT_ROTATED",
        ),
        key={"rotation_period": timedelta(days=200)},
    ),
    KeyCondition(
        "a destroyed version can be restored for a day only",
        nothing,
        health=ExpectedHealth(
            "destroy-delay-short",
            "at_risk",
            (
                (
                    "gcloud resource-manager org-policies enable-enforce "
                    "constraints/cloudkms.disableBeforeDestroy --project=acme-kms-prod"
                ),
            ),
        ),
        key={"destroy_scheduled_duration": timedelta(days=1)},
    ),
    KeyCondition(
        "versions have different protection levels",
        _version_protection("SOFTWARE"),
        health=ExpectedHealth("protection-mixed", "at_risk"),
    ),
    KeyCondition(
        "the project's policy can't be read",
        _closed_project,
        ExpectedCheck(
            "broader_grants",
            "unknown",
            also=frozenset({"audit_logs", "public_members", "look_alike_members"}),
        ),
        health=ExpectedHealth("project-policy-unread", "healthy"),
    ),
    # the last one, because its organization policy applies to all keys
    KeyCondition(
        "the rotation did not take place",
        _rotation_stopped,
        ExpectedCheck("protection_policy", "warn", "cloudkms-allowedProtectionLevels"),
        health=ExpectedHealth(
            "kms-key-not-rotated-overdue",
            "at_risk",
            (
                (
                    "gcloud resource-manager org-policies describe "
                    "constraints/gcp.resourceLocations --effective --project=acme-kms-prod"
                ),
                (
                    "gcloud resource-manager org-policies describe "
                    "constraints/cloudkms.allowedProtectionLevels --effective "
                    "--project=acme-kms-prod"
                ),
                NEW_PRIMARY,
            ),
            days_since=2,
            benchmark="CIS 1.10, KMS_KEY_NOT_ROTATED",
        ),
        made_days_ago=92,
    ),
)

KEY_BLIND: tuple[Blind, ...] = (
    Blind("key_purpose", deny("cloudkms.cryptoKeys.get", key=True)),
    Blind("key_protection", deny("cloudkms.cryptoKeys.get", key=True)),
    Blind("key_origin", deny("cloudkms.cryptoKeys.get", key=True)),
    Blind("key_primary", deny("cloudkms.cryptoKeys.get", key=True)),
    Blind("key_justifications", deny("cloudkms.cryptoKeys.get", key=True)),
    Blind("key_shared", deny("cloudkms.protectedResources.search", key=True)),
    Blind("broader_grants", deny("resourcemanager.projects.getIamPolicy")),
    Blind("public_members", deny("cloudkms.cryptoKeys.getIamPolicy", key=True)),
    Blind("look_alike_members", deny("cloudkms.keyRings.getIamPolicy", key=True)),
)
"""Checks whose reads can be refused, and how; the check is then `unknown`."""
