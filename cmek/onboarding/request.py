"""What an onboarding is requested to do: the one parameter of the onboarding flow. Pure.

Everything that JSON Schema can say is said there, since Prefect refuses a wrong value before a
run exists only by the schema. Titles, descriptions and order make the form in the Prefect UI. A
new workspace gets its key in the create call, so that it is covered from its first request on.

Source: https://platform.claude.com/docs/en/manage-claude/workspaces and …/cmek
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from cmek.anthropic.models import Workspace
from cmek.errors import listed
from cmek.models import FormModel
from cmek.names import (
    BlockName,
    CustomerId,
    Email,
    KeyName,
    KmsId,
    OneLine,
    OrganizationId,
    ProjectId,
    Region,
    WorkspaceId,
    WorkspaceName,
    look_alike,
    short_hash,
    slug,
)
from cmek.tags import CREATED_BY_TAG

MAX_NAME: Final = 255
USUAL_LIMIT: Final = 100
"""Live workspaces that an organization may have, unless Anthropic raised that."""

Residency = Literal["unrestricted", "us_default", "us_only"]

_INFERENCE: Final[dict[Residency, dict[str, object]]] = {
    "unrestricted": {"allowed_inference_geos": "unrestricted", "default_inference_geo": "global"},
    "us_default": {"allowed_inference_geos": "unrestricted", "default_inference_geo": "us"},
    "us_only": {"allowed_inference_geos": ["us"], "default_inference_geo": "us"},
}

ProtectionLevel = Literal["HSM", "SOFTWARE"]

Text = Annotated[OneLine, Field(max_length=255)]

_ONE_WORKSPACE: Final[dict[str, Any]] = {
    "if": {
        "required": ["create_workspace"],
        "properties": {"create_workspace": {"type": "string"}},
    },
    "then": {"properties": {"workspace_id": {"type": "null"}}},
    "else": {"required": ["workspace_id"], "properties": {"workspace_id": {"type": "string"}}},
}
"""Exactly one of the two, in a form in which the schema's error names the field."""


def _plain_text(schema: dict[str, Any]) -> None:
    """A plain text field in Prefect's form: a union with null would be drawn as a choice.

    Prefect takes null in a field that is neither required nor has a default.
    """
    (text,) = [one for one in schema.pop("anyOf", []) if one.get("type") == "string"]
    schema.pop("default", None)
    schema.update(text)


class OnboardingRequest(FormModel):
    """Put one Cloud KMS key under one Anthropic workspace.

    Immutable, without secrets: blocks are named, never carried.
    """

    model_config = ConfigDict(
        extra="forbid", title="Onboarding request", json_schema_extra=_ONE_WORKSPACE
    )

    workspace_id: WorkspaceId | None = Field(
        default=None,
        title="Workspace",
        description="Id of the Anthropic workspace. Its key can be set once and never changed.",
        examples=["wrkspc_01HxPv6KsDq9TnBzMw3YfLrE"],
        json_schema_extra=_plain_text,
    )
    create_workspace: WorkspaceName | None = Field(
        default=None,
        validate_default=True,
        title="New workspace",
        description="Instead of an id: the name of a workspace to create together with its key, "
        "so that it is covered from its first request on.",
        max_length=MAX_NAME,
        examples=["payments-prod"],
        json_schema_extra=_plain_text,
    )
    project_id: ProjectId = Field(
        title="Google Cloud project",
        description="Id (not number) of the project that holds the key.",
        examples=["acme-kms-prod"],
    )
    requested_by: Email = Field(
        title="Requested by",
        description="Your e-mail address. It is unverified; with four eyes on, the approver must "
        "be another person.",
        examples=["ada@example.com"],
    )
    data_residency: Residency = Field(
        default="unrestricted",
        title="Data residency",
        description="Of a new workspace only. unrestricted: inference anywhere, global by default. "
        "us_default: anywhere, US by default. us_only: nowhere but in the US.",
    )
    location: Region = Field(
        default="us-east5",
        title="Location",
        description="One US region; `us`, `global` and other multi-regions are not supported. "
        "us-east5 and us-central1 are recommended for latency.",
    )
    key_ring: KmsId = Field(
        default="anthropic-cmek",
        title="Key ring",
        description="Used when it exists, else created. The name stays taken.",
    )
    crypto_key: KmsId | None = Field(
        default=None,
        title="Crypto key",
        description="Used when it exists, else created. With None, the workspace gets a key of "
        "its own, named after its id, or after the name of a new one.",
    )
    protection_level: ProtectionLevel = Field(
        default="HSM",
        title="Protection level",
        description="HSM is strongly recommended. It can't be changed later.",
    )
    rotation_period_days: int | None = Field(
        default=90,
        title="Rotation period in days",
        description="A new key's automatic rotation; None for no rotation. Old versions must stay "
        "enabled: data sealed under them is never re-encrypted. An existing key's rotation is "
        "left as it is.",
        ge=1,
        le=36500,
    )
    destroy_delay_days: int = Field(
        default=30,
        title="Destroy delay in days",
        description="How long a version of a new key stays restorable after its destruction is "
        "scheduled. It can't be changed later; under 30 days there is little time to notice.",
        ge=1,
        le=120,
    )
    adopt_existing_key: bool = Field(
        default=False,
        title="Adopt an existing key",
        description="Allow adding the organization label and the two grants to a key that exists "
        "already and does not carry this organization's label.",
    )
    allow_default_workspace: bool = Field(
        default=False,
        title="Allow the default workspace",
        description="The default workspace serves every API key without a workspace. Its key can "
        "never be removed either.",
    )
    repair: bool = Field(
        default=False,
        title="Repair",
        description="When the workspace already has this key: put back a missing label or grant. "
        "Off, such a run only reads, validates and reports.",
    )
    plan_only: bool = Field(
        default=False,
        title="Plan only",
        description="Check everything and show what would be done, without one write. The plan is "
        "the run's artifact.",
    )
    four_eyes: bool = Field(
        default=True,
        title="Four eyes",
        description="The approver must not be the requester. Names are compared, not verified.",
    )
    approval_expires_hours: int = Field(
        default=168,
        title="Approval expires after hours",
        description="An approval request without a response in time is never an approval.",
        ge=1,
        le=720,
    )
    expected_organization: OrganizationId | None = Field(
        default=None,
        title="Expected organization",
        description="UUID of the Anthropic organization; when given, a credential of any other "
        "organization is refused.",
    )
    permitted_customer_id: CustomerId | None = Field(
        default=None,
        title="Anthropic's Google customer id",
        description="Only for projects under the legacy domain restriction: the customer id that "
        "Anthropic's account team gave you.",
    )
    display_name: Text | None = Field(
        default=None,
        title="Display name",
        description="Name of the external key in the Anthropic Console; None for the key's name.",
    )
    mark_key: bool = Field(
        default=True,
        title="Mark the key as in use",
        description="After the attach, label the key with a hash of the workspace's id: Google "
        "can't show that Anthropic's data depends on it.",
    )
    anthropic_block: BlockName = Field(
        default="anthropic-admin",
        title="Anthropic Admin block",
        description="Name of the AnthropicAdmin block with the credential. The page Blocks lists "
        "them.",
    )
    kms_block: BlockName = Field(
        default="google-kms",
        title="Google KMS block",
        description="Name of the GoogleKms block with the credential. The page Blocks lists them.",
    )
    signatures: int = Field(
        default=0,
        title="Signatures",
        description="How many approvers must sign the approval with their SSH keys. The worker's "
        "own minimum holds when this is less; 0 leaves it to the worker.",
        ge=0,
        le=9,
    )

    @field_validator("create_workspace")
    @classmethod
    def _one_workspace(cls, name: str | None, info: ValidationInfo) -> str | None:
        if "workspace_id" not in info.data:  # it is invalid, which is an error already
            return name
        if (name is None) is (info.data["workspace_id"] is None):
            given = "neither is given" if name is None else "both are given"
            raise ValueError(
                f"{given}: workspace_id takes the id of a workspace that exists, "
                "create_workspace the name of a new one; give exactly one of them"
            )
        return name

    @field_validator("data_residency")
    @classmethod
    def _new_workspace_only(cls, residency: Residency, info: ValidationInfo) -> Residency:
        if residency != "unrestricted" and info.data.get("workspace_id") is not None:
            raise ValueError("only a new workspace can be given one; an existing one keeps its own")
        return residency

    @property
    def subject(self) -> str:
        """The workspace in tags, records and keys; an id has no colon, so the two never collide."""
        return subject_in(self.model_dump(include={"workspace_id", "create_workspace"}))

    @property
    def workspace(self) -> str:
        """The workspace in a sentence."""
        return self.workspace_id or f"new workspace {self.create_workspace!r}"

    @property
    def key_name(self) -> KeyName:
        """The requested crypto key, by its full resource name."""
        key = self.crypto_key or self.workspace_id or key_id_for(self.create_workspace or "")
        return KeyName(self.project_id, self.location, self.key_ring, key)

    def for_existing(self, workspace_id: str) -> OnboardingRequest:
        """The same key for the same workspace, now that this is its id."""
        return self.model_copy(
            update={
                "workspace_id": workspace_id,
                "create_workspace": None,
                "data_residency": "unrestricted",
                "crypto_key": self.key_name.crypto_key,
            }
        )


def subject_in(request: Mapping[str, Any]) -> str:
    """The subject of a request that is still JSON; see `OnboardingRequest.subject`."""
    return request.get("workspace_id") or f"new:{request.get('create_workspace')}"


def same_field(name: str) -> Any:  # noqa: ANN401 - a field stands for its value
    """The field of this name of the onboarding request: one title, one rule, one default."""
    return copy(OnboardingRequest.model_fields[name])


def key_id_for(name: str) -> str:
    """The id of the new workspace's own crypto key: readable, and apart for each name."""
    readable = slug(name.lower(), 48).rstrip("-") or "workspace"
    return f"{readable}-{short_hash(name)}"


def data_residency(residency: Residency) -> dict[str, object]:
    """The Admin API's object; `workspace_geo` knows only one value and can never change."""
    return {"workspace_geo": "us"} | _INFERENCE[residency]


def created_by_run(workspaces: Iterable[Workspace], run_id: str) -> tuple[Workspace, ...]:
    """Those that this run created, archived or renamed since or not."""
    return tuple(one for one in workspaces if one.tags.get(CREATED_BY_TAG) == run_id)


def same_name_workspaces(workspaces: Iterable[Workspace], name: str) -> tuple[Workspace, ...]:
    """Live workspaces of this name, or of one that looks like it.

    An archived one does not count: it can't be mixed up with the new one in use.
    """
    return tuple(one for one in workspaces if not one.is_archived and look_alike(one.name, name))


def shown_workspaces(workspaces: Iterable[Workspace]) -> str:
    """Ids and names for a message."""
    return listed(f"{one.id} ({one.name})" for one in workspaces)
