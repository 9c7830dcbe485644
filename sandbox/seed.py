"""What a new sandbox contains. All identifiers are fixed, so that documents can name them.

| workspace | state |
|---|---|
| payments-prod, research-dev | fresh: no key yet |
| retired-team | archived |
| Default | the default workspace, listed only when asked for |
| search-prod | attached to a healthy key in `us-central1` |
| ledger-prod | attached to a key whose only version is disabled |
"""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Final, Literal

from google.cloud import kms_v1
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.protobuf import field_mask_pb2

from cmek.anthropic_identity import MEMBER, ROLES
from cmek.names import organization_label
from sandbox.admin.state import (
    AdminState,
    DataResidency,
    FederationRule,
    GcpConfig,
    StoredCredential,
    StoredExternalKey,
    StoredOrganization,
    StoredWorkspace,
    timestamp,
)
from sandbox.identities import PROJECT_ID, Identities
from sandbox.kms.keys import create_crypto_key, create_key_ring, get_crypto_key
from sandbox.kms.operations import set_iam_policy
from sandbox.kms.state import KmsState
from sandbox.kms.versions import update_crypto_key_version
from sandbox.signals import Signals
from sandbox.world import GoogleState, World

State = Literal["fresh", "archived", "default", "attached", "broken"]

ORGANIZATION_ID: Final = "3f1c9a52-7d4e-4b8a-9c60-2e5d8f7a1b34"
ADMIN_KEY: Final = "sk-ant-admin01-SANDBOX-NOT-A-REAL-KEY"
EXPIRED_ADMIN_KEY: Final = "sk-ant-admin01-SANDBOX-EXPIRED-NOT-A-REAL-KEY"
WORKSPACE_KEY: Final = "sk-ant-api03-SANDBOX-NOT-A-REAL-KEY"
"""An ordinary key: the Admin API answers 403."""
FEDERATION_RULE: Final = "fdrl_01SandboxRule111111111111"
SERVICE_ACCOUNT: Final = "svac_01SandboxAccount111111111"
AUDIENCE: Final = "https://api.anthropic.com"
USER_PROFILE: Final = "uprof_01SandboxProfile11111111"
KEY_RING: Final = f"projects/{PROJECT_ID}/locations/us-central1/keyRings/anthropic-cmek"


def fixed_id(prefix: str, word: str) -> str:
    """An identifier of the usual form, with a readable word in it."""
    return f"{prefix}_01{word:1<22}"


def new_world(*, minimal: bool = False) -> World:
    """A new world; `minimal` has only the default workspace and two fresh ones."""
    world = World()
    world.identities = Identities(world.switches)
    world.signals = Signals(world)
    _fill(world, minimal=minimal)
    return world


def reset(world: World, *, minimal: bool = False) -> None:
    """Reset the world, with log, clock and switches. Credentials files stay valid."""
    world.clock.offset = timedelta(0)
    world.log.clear()
    world.faults.clear()
    for name, field in type(world.switches).model_fields.items():
        setattr(world.switches, name, field.get_default(call_default_factory=True))
    world.identities = Identities(world.switches, key=world.identities.key)
    world.google = GoogleState()
    world.signals.reset()
    _fill(world, minimal=minimal)


def _fill(world: World, *, minimal: bool) -> None:
    world.kms = KmsState()
    world.admin = AdminState(
        organization=StoredOrganization(id=ORGANIZATION_ID, name="Acme"),
        credentials={
            ADMIN_KEY: _api_key("admin_key", "SandboxAdmin"),
            EXPIRED_ADMIN_KEY: _api_key("admin_key", "SandboxExpired", "2026-01-01T00:00:00+00:00"),
            WORKSPACE_KEY: _api_key("workspace_key", "SandboxOrdinary"),
        },
        federation_rules=[
            FederationRule(
                id=FEDERATION_RULE,
                service_account_id=SERVICE_ACCOUNT,
                audience=AUDIENCE,
                subject=world.identities.onboarding.subject,
                email=world.identities.onboarding.email,
            )
        ],
        user_profiles=[USER_PROFILE],
    )
    _workspace(world, "Default").is_default = True
    _workspace(world, "payments-prod")
    _workspace(world, "research-dev")
    if not minimal:
        _workspace(world, "retired-team").archived_at = timestamp(world.clock.now())
        _attached_workspaces(world)


def _api_key(
    kind: Literal["admin_key", "workspace_key"], word: str, expires_at: str | None = None
) -> StoredCredential:
    return StoredCredential(kind=kind, id=fixed_id("apikey", word), expires_at=expires_at)


def workspace_states(world: World) -> list[dict[str, str]]:
    """Each workspace's id, name and state, as the ready line lists them."""
    return [
        {"id": one.id, "name": one.name, "state": _state(world, one)}
        for one in world.admin.workspaces.values()
    ]


def _state(world: World, workspace: StoredWorkspace) -> State:
    if workspace.is_default:
        return "default"
    if workspace.archived_at:
        return "archived"
    key = world.admin.external_keys.get(workspace.external_key_id or "")
    if key is None or not isinstance(key.provider_config, GcpConfig):
        return "fresh" if workspace.external_key_id is None else "attached"
    request = kms_v1.GetCryptoKeyRequest(name=key.provider_config.key_name)
    crypto_key = get_crypto_key(world, world.identities.administrator, request)
    enabled = crypto_key.primary.state == kms_v1.CryptoKeyVersion.CryptoKeyVersionState.ENABLED
    return "attached" if enabled else "broken"


def _workspace(world: World, name: str) -> StoredWorkspace:
    word = name.title().replace("-", "")
    workspace = StoredWorkspace(
        id=fixed_id("wrkspc", word),
        name=name,
        created_at=timestamp(world.clock.now()),
        compartment_id=str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{name}.sandbox.example")),
        data_residency=DataResidency(),
    )
    world.admin.workspaces[workspace.id] = workspace
    return workspace


def _attached_workspaces(world: World) -> None:
    administrator = world.identities.administrator
    location, _, ring_id = KEY_RING.rpartition("/keyRings/")
    ring = kms_v1.CreateKeyRingRequest(parent=location, key_ring_id=ring_id)
    create_key_ring(world, administrator, ring)
    for name in ("search-prod", "ledger-prod"):
        _crypto_key(world, name)
        _workspace(world, name).external_key_id = _external_key(world, name).id
    version = kms_v1.CryptoKeyVersion(
        name=f"{KEY_RING}/cryptoKeys/ledger-prod/cryptoKeyVersions/1", state="DISABLED"
    )
    request = kms_v1.UpdateCryptoKeyVersionRequest(
        crypto_key_version=version, update_mask=field_mask_pb2.FieldMask(paths=["state"])
    )
    update_crypto_key_version(world, administrator, request)


def _crypto_key(world: World, name: str) -> None:
    administrator = world.identities.administrator
    label, value = organization_label(ORGANIZATION_ID)
    key = kms_v1.CryptoKey(
        purpose="ENCRYPT_DECRYPT",
        version_template=kms_v1.CryptoKeyVersionTemplate(
            protection_level="HSM", algorithm="GOOGLE_SYMMETRIC_ENCRYPTION"
        ),
        labels={label: value},
    )
    creation = kms_v1.CreateCryptoKeyRequest(parent=KEY_RING, crypto_key_id=name, crypto_key=key)
    create_crypto_key(world, administrator, creation)
    bindings = [policy_pb2.Binding(role=role, members=[MEMBER]) for role in ROLES]
    request = iam_policy_pb2.SetIamPolicyRequest(
        resource=f"{KEY_RING}/cryptoKeys/{name}",
        policy=policy_pb2.Policy(version=3, bindings=bindings),
    )
    set_iam_policy(world, administrator, request)


def _external_key(world: World, name: str) -> StoredExternalKey:
    now = timestamp(world.clock.now())
    key = StoredExternalKey(
        id=fixed_id("ekey", name.title().replace("-", "")),
        sequence=world.admin.next_sequence(),
        created_at=now,
        updated_at=now,
        display_name=name,
        geo="us",
        provider_config=GcpConfig(type="gcp", key_name=f"{KEY_RING}/cryptoKeys/{name}"),
        user_profile_id=None,
    )
    world.admin.external_keys[key.id] = key
    return key
