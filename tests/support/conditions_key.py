"""What can be wrong with an existing key, its IAM, and on Anthropic's side."""

from __future__ import annotations

from uuid import UUID

from cmek.anthropic_identity import ENCRYPTER_DECRYPTER
from tests.support.condition_setups import (
    ANOTHER_KEY,
    DELETED,
    LOOK_ALIKE,
    Blind,
    Condition,
    attached,
    both,
    deny,
    google,
    protection,
    stored,
    with_key,
    workspace,
)
from tests.support.staging import FOLDER, KEY, State

KEY_CONDITIONS: tuple[Condition, ...] = (
    Condition(
        "existing key signs instead of encrypting",
        "key_purpose",
        "fail",
        with_key(stored(purpose="MAC")),
        "gcloud kms keys create NEW_NAME",
        evidence="MAC",
    ),
    Condition(
        "existing key has another protection level",
        "key_protection",
        "fail",
        with_key(protection("SOFTWARE")),
        "gcloud kms keys create NEW_NAME",
    ),
    Condition(
        "existing key lies in an external key manager",
        "key_origin",
        "fail",
        with_key(protection("EXTERNAL")),
        "gcloud kms keys create NEW_NAME",
    ),
    Condition(
        "existing key is import-only",
        "key_origin",
        "fail",
        with_key(stored(import_only=True)),
        "gcloud kms keys create NEW_NAME",
    ),
    Condition(
        "existing key has no primary version",
        "key_primary",
        "fail",
        with_key(skip_version=True),
        "gcloud kms keys versions create --primary --key=payments-prod",
    ),
    Condition(
        "existing key's primary version is disabled",
        "key_primary",
        "fail",
        with_key(lambda stage: stage.version_state(State(State.DISABLED))),
        "gcloud kms keys versions enable 1 --key=payments-prod",
    ),
    Condition(
        "existing key's justifications policy allows nothing",
        "key_justifications",
        "fail",
        with_key(stored(key_access_justifications_policy={"allowed_access_reasons": []})),
        "customer-initiated-access",
    ),
    Condition(
        "existing key's justifications policy lacks customer-initiated access",
        "key_justifications",
        "warn",
        with_key(
            stored(
                key_access_justifications_policy={
                    "allowed_access_reasons": ["GOOGLE_INITIATED_SYSTEM_OPERATION"]
                }
            )
        ),
        "customer-initiated-access",
    ),
    Condition(
        "existing key protects other systems",
        "key_shared",
        "warn",
        with_key(
            google(
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
        with_key(
            google(
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
        both(
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
        with_key(lambda stage: stage.grant(str(KEY), ENCRYPTER_DECRYPTER, "allUsers")),
        "gcloud kms keys remove-iam-policy-binding payments-prod",
        evidence="allUsers",
    ),
    Condition(
        "a look-alike may use the existing key",
        "look_alike_members",
        "fail",
        with_key(lambda stage: stage.grant(str(KEY), ENCRYPTER_DECRYPTER, LOOK_ALIKE)),
        LOOK_ALIKE,
        evidence=LOOK_ALIKE,
    ),
    Condition(
        "a deleted account stands in the existing key's policy",
        "look_alike_members",
        "warn",
        with_key(lambda stage: stage.grant(str(KEY), ENCRYPTER_DECRYPTER, DELETED)),
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
        workspace(archived_at="2026-11-01T00:00:00+00:00"),
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
        attached(ANOTHER_KEY),
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
    Blind("admin_credential", lambda stage: stage.fault("organization.me")),
    Blind("cmek_reachable", lambda stage: stage.fault("external_keys.list")),
    Blind("workspace", lambda stage: stage.fault("workspaces.retrieve", 403)),
    Blind("retention", lambda stage: None),
)
"""Those of its checks whose reads can be refused, and how: the check is then `unknown`."""
