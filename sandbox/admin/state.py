"""What the Admin API stores: organization, external keys, workspaces, credentials.

Identifiers and times have the Admin API's form.
"""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sandbox.errors import AnthropicError

Geo = Literal["us"]
InferenceGeo = Literal["global", "us"]


class StoredOrganization(BaseModel):
    """The organization; `id` is the bare UUID of `GET /v1/organizations/me`."""

    id: str
    name: str


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid")


class GcpConfig(_Config):
    """A crypto key of Cloud KMS."""

    type: Literal["gcp"]
    key_name: str = Field(min_length=1, max_length=2048)


class AwsConfig(_Config):
    """A key of AWS KMS; a missing `region` is read from the ARN, `role_arn` is ignored."""

    type: Literal["aws"]
    kms_arn: str = Field(min_length=1, max_length=2048)
    region: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _derive_region(cls, data: Any) -> Any:  # noqa: ANN401
        """Drop the deprecated field and read the region from the ARN."""
        if not isinstance(data, dict):
            return data
        data = {name: value for name, value in data.items() if name != "role_arn"}
        parts = str(data.get("kms_arn", "")).split(":")
        return data if data.get("region") or len(parts) < 4 else data | {"region": parts[3]}


class AzureConfig(_Config):
    """A key of Azure Key Vault or a managed HSM."""

    type: Literal["azure"]
    key_name: str
    tenant_id: str
    vault_uri: str = Field(
        pattern=r"^https://[A-Za-z0-9-]+\.(vault\.azure\.net|managedhsm\.azure\.net)/?$"
    )
    client_id: str | None = None


ProviderConfig = Annotated[GcpConfig | AwsConfig | AzureConfig, Field(discriminator="type")]


class StoredExternalKey(BaseModel):
    """Anthropic's record of a key; `sequence` orders keys by creation."""

    id: str
    sequence: int
    created_at: str
    updated_at: str
    display_name: str | None
    geo: Geo
    provider_config: ProviderConfig
    user_profile_id: str | None

    def render(self, *, attached: bool) -> dict[str, Any]:
        """The object as the API returns it."""
        attachment = {"type": "attached" if attached else "unattached"}
        own = {"type": "external_key", "attachment": attachment}
        return own | self.model_dump(exclude={"sequence"})


class DataResidency(_Config):
    """Where a workspace lives and where its inference may run; `workspace_geo` never changes."""

    workspace_geo: Geo = "us"
    allowed_inference_geos: Literal["unrestricted"] | list[InferenceGeo] = "unrestricted"
    default_inference_geo: InferenceGeo = "global"


class StoredWorkspace(BaseModel):
    """A workspace; `is_default` is internal, the API does not return it."""

    id: str
    name: str
    created_at: str
    archived_at: str | None = None
    compartment_id: str
    data_residency: DataResidency
    display_color: str = "#2F7FB5"
    external_key_id: str | None = None
    tags: dict[str, str] = Field(default_factory=dict)
    user_profile_id: str | None = None
    is_default: bool = False

    def render(self) -> dict[str, Any]:
        """The object as the API returns it."""
        return {"type": "workspace"} | self.model_dump(exclude={"is_default"})


WebhookEvent = Literal[
    "external_key.failed",
    "external_key.recovered",
    "external_storage.failed",
    "external_storage.recovered",
    "user_profile.enforcement_action_opened",
    "user_profile.enforcement_action_resolved",
    "user_profile.program_status_updated",
]
"""The events that an endpoint can subscribe to; the sandbox sends the first two."""


class StoredWebhook(BaseModel):
    """An organization's webhook endpoint; the object in the API has no type and no secret."""

    id: str
    created_at: str
    updated_at: str
    name: str = ""
    description: str = ""
    url: str
    enabled_events: list[WebhookEvent]
    state: Literal["enabled", "disabled"] = "enabled"
    disabled_reason: str = ""
    signing_secret: str

    def render(self) -> dict[str, Any]:
        """The object as the API returns it."""
        return self.model_dump(exclude={"signing_secret"})


class StoredCredential(BaseModel):
    """Something a caller can present: an Admin key, an ordinary key or a federated token."""

    kind: Literal["admin_key", "workspace_key", "federated_token"]
    id: str
    expires_at: str | None = None


class FederationRule(BaseModel):
    """Which Google identity may get an `org:admin` token; only the Console can create a rule."""

    id: str
    service_account_id: str
    audience: str
    subject: str
    email: str
    lifetime_seconds: int = Field(default=3600, ge=60, le=86400)


class AdminState(BaseModel):
    """One organization. Dictionaries keep creation order."""

    organization: StoredOrganization
    credentials: dict[str, StoredCredential] = Field(default_factory=dict)
    federation_rules: list[FederationRule] = Field(default_factory=list)
    user_profiles: list[str] = Field(default_factory=list)
    external_keys: dict[str, StoredExternalKey] = Field(default_factory=dict)
    workspaces: dict[str, StoredWorkspace] = Field(default_factory=dict)
    webhooks: dict[str, StoredWebhook] = Field(default_factory=dict)
    last_sequence: int = 0

    def external_key(self, external_key_id: str) -> StoredExternalKey:
        """The external key. Raises 404 when this organization has no such key."""
        if external_key_id not in self.external_keys:
            raise AnthropicError(404, "External key not found.")
        return self.external_keys[external_key_id]

    def workspace(self, workspace_id: str) -> StoredWorkspace:
        """The workspace, the default one included. Raises 404 when there is none with this id."""
        if workspace_id not in self.workspaces:
            raise AnthropicError(404, "Workspace not found.")
        return self.workspaces[workspace_id]

    def is_attached(self, external_key_id: str) -> bool:
        """Whether any workspace, live or archived, uses the key."""
        return any(one.external_key_id == external_key_id for one in self.workspaces.values())

    def next_sequence(self) -> int:
        """The next number in the order of creation."""
        self.last_sequence += 1
        return self.last_sequence

    def check_user_profile(self, user_profile_id: str | None) -> None:
        """Accept None or a known profile. Raises 400 `user_profile_not_found` for any other."""
        if user_profile_id is not None and user_profile_id not in self.user_profiles:
            raise AnthropicError(400, "User profile not found.", "user_profile_not_found")


BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def new_id(prefix: str) -> str:
    """A fresh tagged identifier, e.g. `ekey_01QmTz8VbHn4KfXyRw2PdLcJ`."""
    return f"{prefix}_01" + "".join(secrets.choice(BASE58) for _ in range(22))


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds, e.g. `2026-11-20T14:02:11.305918Z`."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
