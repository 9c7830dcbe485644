"""The table of what makes a validation fail: how it comes about, and what the diagnosis says.

The tests walk through it and `docs/troubleshooting.md` lists it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cmek.anthropic_identity import ENCRYPTER_DECRYPTER, MEMBER, ROLES, VIEWER
from cmek.names import organization_label
from sandbox import seed
from tests.support.condition_setups import DELETED, LOOK_ALIKE
from tests.support.staging import EXTERNAL_KEY, KEY, PROJECT, Stage, State

LABEL, TRUE = organization_label(seed.ORGANIZATION_ID)
OTHER_LABEL = "anthropic-org-00000000-0000-4000-8000-000000000001"
FAR = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Failing:
    """One state in which validation fails (or an attach is refused), and its cause."""

    name: str
    cause: str
    setup: Callable[[Stage], object]
    """What is done to a healthy, registered key."""
    command: str
    """A part of the mending command, with the real names in it."""
    verdict: str = "proved"
    failure: dict[str, Any] = field(default_factory=dict)
    """What is known about the failure besides."""
    validation_fails: bool = True
    """Whether the sandbox's own validation fails then, too."""


def _labels(**labels: str) -> Callable[[Stage], None]:
    def setup(stage: Stage) -> None:
        stage.stored_key.labels.clear()
        stage.stored_key.labels.update(
            {name.replace("_", "-"): value for name, value in labels.items()}
        )

    return setup


def _version(state: Any) -> Callable[[Stage], None]:
    return lambda stage: stage.version_state(state)


def _instead(role: str, resource: str, member: str, condition: str | None) -> Any:
    def setup(stage: Stage) -> None:
        stage.revoke(role)
        stage.grant(resource, role, member, condition)

    return setup


def _set(where: str, **changes: Any) -> Callable[[Stage], None]:
    def setup(stage: Stage) -> None:
        target: Any = stage.world
        for part in where.split("."):
            target = getattr(target, part)
        for name, value in changes.items():
            setattr(target, name, value)

    return setup


def _no_primary(stage: Stage) -> None:
    stage.stored_key.primary = None  # type: ignore[assignment]  # as protobuf allows


def _key_gone(stage: Stage) -> None:
    del stage.world.kms.crypto_keys[str(KEY)]


def _external_gone(stage: Stage) -> None:
    del stage.world.admin.external_keys[EXTERNAL_KEY]


def _sharing(stage: Stage) -> None:
    for role in ROLES:
        stage.revoke(role)
    stage.world.kms.constraints.allowed_policy_member_domains = ["C0sandbox"]


ENABLE = "gcloud kms keys versions enable 1 --key=payments-prod --keyring=anthropic-cmek"
GRANT = (
    "gcloud kms keys add-iam-policy-binding payments-prod --keyring=anthropic-cmek "
    f"--location=us-east5 --project=acme-kms-prod --member={MEMBER} --role="
)
PUT_LABEL = f"--update-labels={LABEL}={TRUE}"

FAILURES: tuple[Failing, ...] = (
    Failing("the label is missing", "label_missing", _labels(), PUT_LABEL),
    Failing(
        "the label is another organization's",
        "label_other_organization",
        _labels(**{OTHER_LABEL: "true"}),
        PUT_LABEL,
    ),
    Failing(
        "the label is in upper case",
        "label_spelling",
        _labels(**{LABEL.upper(): "true"}),
        PUT_LABEL,
    ),
    Failing("the label's value is wrong", "label_spelling", _labels(**{LABEL: "yes"}), PUT_LABEL),
    Failing(
        "the encrypter/decrypter grant is missing",
        "encrypter_missing",
        lambda stage: stage.revoke(ENCRYPTER_DECRYPTER),
        GRANT + ENCRYPTER_DECRYPTER,
    ),
    Failing(
        "the viewer grant is missing",
        "viewer_missing",
        lambda stage: stage.revoke(VIEWER),
        GRANT + VIEWER,
    ),
    Failing(
        "a grant has a condition",
        "grant_conditional",
        _instead(
            ENCRYPTER_DECRYPTER,
            str(KEY),
            MEMBER,
            "request.time < timestamp('2026-01-01T00:00:00Z')",
        ),
        GRANT + ENCRYPTER_DECRYPTER,
    ),
    Failing(
        "the grant stands on the project",
        "grant_wrong_level",
        _instead(ENCRYPTER_DECRYPTER, PROJECT, MEMBER, None),
        GRANT + ENCRYPTER_DECRYPTER,
        validation_fails=False,
    ),
    Failing(
        "the grant stands on the key ring",
        "grant_wrong_level",
        _instead(VIEWER, KEY.key_ring_name, MEMBER, None),
        GRANT + VIEWER,
        validation_fails=False,
    ),
    Failing(
        "the grant names a look-alike",
        "grant_wrong_member",
        _instead(ENCRYPTER_DECRYPTER, str(KEY), LOOK_ALIKE, None),
        f"gcloud kms keys remove-iam-policy-binding payments-prod --keyring=anthropic-cmek "
        f"--location=us-east5 --project=acme-kms-prod --member={LOOK_ALIKE}",
    ),
    Failing(
        "the grant names the deleted account",
        "grant_wrong_member",
        _instead(VIEWER, str(KEY), DELETED, None),
        GRANT + VIEWER,
    ),
    Failing(
        "domain restricted sharing removed the grants",
        "domain_sharing",
        _sharing,
        "iam-allowedPolicyMemberDomains?project=acme-kms-prod",
    ),
    Failing(
        "the primary version is missing",
        "primary_missing",
        _no_primary,
        "gcloud kms keys versions create --primary --key=payments-prod",
    ),
    Failing(
        "the primary version is disabled", "primary_disabled", _version(State.DISABLED), ENABLE
    ),
    Failing(
        "the primary version is scheduled for destruction",
        "primary_destroy_scheduled",
        lambda stage: stage.schedule_destruction(),
        f"gcloud kms keys versions restore 1 --key=payments-prod --keyring=anthropic-cmek "
        f"--location=us-east5 --project=acme-kms-prod && {ENABLE}",
    ),
    Failing(
        "the primary version is destroyed",
        "primary_destroyed",
        _version(State.DESTROYED),
        "gcloud kms keys versions create --primary --key=payments-prod",
    ),
    Failing(
        "the primary version is still being made",
        "primary_pending",
        _version(State.PENDING_GENERATION),
        "gcloud kms keys versions describe 1 --key=payments-prod",
    ),
    Failing(
        "the primary version could not be made",
        "primary_failed",
        _version(State.GENERATION_FAILED),
        "gcloud kms keys versions create --primary --key=payments-prod",
    ),
    Failing(
        "the key has another purpose",
        "wrong_purpose",
        lambda stage: setattr(stage.stored_key, "purpose", "MAC"),
        "gcloud kms keys create NEW_NAME --keyring=anthropic-cmek",
    ),
    Failing(
        "Key Access Justifications allow nothing",
        "justifications",
        lambda stage: setattr(
            stage.stored_key, "key_access_justifications_policy", {"allowed_access_reasons": []}
        ),
        "gcloud kms keys update payments-prod --keyring=anthropic-cmek --location=us-east5 "
        "--project=acme-kms-prod --allowed-access-reasons=customer-initiated-access",
    ),
    Failing(
        "a perimeter keeps Anthropic out",
        "perimeter",
        _set("kms.constraints", perimeter_blocks="anthropic"),
        "service-perimeter?organizationId=567890123456",
    ),
    Failing(
        "a perimeter keeps everybody out",
        "perimeter",
        _set("kms.constraints", perimeter_blocks="everybody"),
        MEMBER,
    ),
    Failing(
        "the Cloud KMS API was switched off",
        "kms_api_off",
        _set("switches", kms_api_enabled=False),
        "gcloud services enable cloudkms.googleapis.com --project=acme-kms-prod",
    ),
    Failing(
        "billing was switched off",
        "billing_off",
        _set("switches", billing_enabled=False),
        "gcloud billing projects link acme-kms-prod",
    ),
    Failing(
        "the project was shut down",
        "project_inactive",
        _set("google", project_states={KEY.project: "DELETE_REQUESTED"}),
        "gcloud projects undelete acme-kms-prod",
        validation_fails=False,
    ),
    Failing("the key was deleted", "key_deleted", _key_gone, "make a key of another name"),
    Failing(
        "the external key names another key",
        "other_key_name",
        lambda stage: stage.register(f"{KEY.key_ring_name}/cryptoKeys/another"),
        f"register {KEY}",
    ),
    Failing(
        "the external key was deleted",
        "external_key_gone",
        _external_gone,
        "run the onboarding",
        validation_fails=False,
    ),
    Failing(
        "the grants are a minute old",
        "iam_settling",
        _set("switches", iam_propagation_seconds=600.0),
        "then validate again",
        verdict="open",
        failure={"granted_at": timedelta(minutes=-1)},
    ),
    Failing(
        "nothing of ours is wrong",
        "deny_policy",
        lambda stage: stage.world.identities.anthropic.deny(
            "cloudkms.cryptoKeyVersions.useToDecrypt"
        ),
        "gcloud policy-troubleshoot iam //cloudkms.googleapis.com/projects/acme-kms-prod",
        verdict="open",
        failure={"granted_at": timedelta(days=-1)},
    ),
    Failing(
        "the Admin API fails",
        "anthropic_side",
        lambda stage: stage.fault("external_keys.list", 500),
        "request id req_011",
        failure={"request_id": "req_011"},
        validation_fails=False,
    ),
    Failing(
        "attach: the Workspace Policy forbids the key",
        "workspace_policy",
        lambda stage: None,
        "Workspace Policy",
        failure={"error_code": "workspace_policy_violation"},
        validation_fails=False,
    ),
    Failing(
        "attach: key and workspace have different user profiles",
        "key_profile",
        lambda stage: None,
        "without a user profile",
        failure={"error_code": "key_profile_mismatch"},
        validation_fails=False,
    ),
    Failing(
        "attach: the external key was edited meanwhile",
        "external_key_changed",
        lambda stage: None,
        "validate again",
        failure={"error_code": "external_key_changed"},
        validation_fails=False,
    ),
)
