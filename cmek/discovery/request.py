"""What starts an onboarding without a person: the discovery flow's parameter, and an event.

Both may choose the key, but nothing that a person has to decide: adopting a key that exists, the
default workspace, repairs, or who approves. Pure.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from cmek.errors import CmekError
from cmek.models import FormModel, FrozenModel, TextRule, refusals, whole
from cmek.names import (
    KMS_ID_PATTERN,
    PROJECT_ID_PATTERN,
    BlockName,
    CustomerId,
    Email,
    KmsId,
    OneLine,
    OrganizationId,
    ProjectId,
    Region,
    WorkspaceId,
)
from cmek.onboarding.request import ProtectionLevel, same_field
from cmek.tags import OPT_IN_TAG

REQUESTER: Final = "discovery@cmek.invalid"
"""The requester of a discovery: not a person, so any person may approve under four eyes."""

Pattern = Annotated[OneLine, Field(max_length=255)]

_TEMPLATES: Final = {
    "own": TextRule(
        r"[a-zA-Z0-9_-]*(?:\{workspace_name\}[a-zA-Z0-9_-]*)?\{workspace_id\}[a-zA-Z0-9_-]*",
        "a name with {workspace_id} and, before it, {workspace_name} where you like, since each "
        "workspace has its own key",
    ),
    "shared": TextRule(KMS_ID_PATTERN, "a plain name of up to 63 characters: the key is shared"),
}
_PROJECT_OR_NOTHING: Final = TextRule(
    f"(?:{PROJECT_ID_PATTERN})?", "a project's id (not its number), such as acme-kms-prod, or empty"
)
_TAG: Final = TextRule(
    r"[A-Za-z0-9_.-]{1,64}", "1 to 64 letters, digits, dots, - and _, such as cmek"
)


class DiscoveryRequest(FormModel):
    """Find workspaces without a key and start their onboarding, up to the approval."""

    model_config = ConfigDict(
        extra="forbid",
        title="Discovery request",
        json_schema_extra={
            "if": {"properties": {"key_policy": {"const": "shared"}}, "required": ["key_policy"]},
            "then": {
                "properties": {"key_template": {"pattern": whole(_TEMPLATES["shared"].pattern)}},
                "required": ["key_template"],
            },
            "else": {"properties": {"key_template": {"pattern": whole(_TEMPLATES["own"].pattern)}}},
        },
    )

    project_id: Annotated[str, _PROJECT_OR_NOTHING] = Field(
        default="",
        title="Google Cloud project",
        description="Id (not number) of the project that holds the keys; empty: nothing is done.",
        examples=["acme-kms-prod"],
    )
    opt_in: Literal["tag", "name", "all"] = Field(
        default="tag",
        title="Opt-in",
        description="tag: workspaces with the tag below, value `onboard`. name: those whose name "
        "fits a pattern below. all: every one. The value `never` of the tag always wins.",
    )
    opt_in_tag: Annotated[str, _TAG] = Field(
        default=OPT_IN_TAG,
        title="Opt-in tag",
        description="Key of the workspace tag.",
    )
    name_patterns: tuple[Pattern, ...] = Field(
        default=(),
        title="Name patterns",
        description="For opt-in by name: with * and ?, upper and lower case count.",
        examples=[["*-prod"]],
    )
    exclude: tuple[Pattern, ...] = Field(
        default=("Claude Code",),
        title="Exclude",
        description="Workspaces to leave alone: ids, or names with * and ?. Anthropic makes the "
        "workspace `Claude Code` by itself.",
    )
    key_policy: Literal["own", "shared"] = Field(
        default="own",
        title="Keys",
        description="own: each workspace gets its own key. shared: all get the same one.",
    )
    key_template: str = Field(
        default="{workspace_id}",
        validate_default=True,
        title="Key name",
        description="For own keys with {workspace_id} and, before it, {workspace_name} where you "
        "like; for a shared key its plain name.",
        examples=["{workspace_name}-{workspace_id}", "anthropic"],
        max_length=120,
    )
    max_new_runs: int = Field(
        default=10,
        title="New runs at most",
        description="How many onboardings one discovery starts; the next one goes on.",
        ge=1,
        le=1000,
    )
    try_again_after_hours: int = Field(
        default=24,
        title="Try again after hours",
        description="How long after an onboarding that failed, expired or was cancelled the next "
        "is started. After a rejection none ever is.",
        ge=1,
        le=8760,
    )
    requested_by: Email = Field(
        default=REQUESTER,
        title="Requested by",
        description="Shown to the approver. With four eyes on, an approver of this name is "
        "refused.",
    )
    location: Region = same_field("location")
    key_ring: KmsId = same_field("key_ring")
    protection_level: ProtectionLevel = same_field("protection_level")
    rotation_period_days: int | None = same_field("rotation_period_days")
    destroy_delay_days: int = same_field("destroy_delay_days")
    approval_expires_hours: int = same_field("approval_expires_hours")
    expected_organization: OrganizationId | None = same_field("expected_organization")
    permitted_customer_id: CustomerId | None = same_field("permitted_customer_id")
    anthropic_block: BlockName = same_field("anthropic_block")
    kms_block: BlockName = same_field("kms_block")

    @field_validator("key_template")
    @classmethod
    def _template_fits_policy(cls, template: str, info: ValidationInfo) -> str:
        """The schema's `if`, again: a caller can switch the server's enforcement off."""
        policy = info.data.get("key_policy")  # None: it is invalid, which is an error already
        return str(_TEMPLATES[policy].check(template)) if policy else template


EVENT: Final = "anthropic.workspace.created"


class MalformedEventError(CmekError):
    """The payload is not what the event should carry; names each field and rule."""


class Announcement(FrozenModel):
    """The payload of the event. Only `workspace_id` is needed."""

    model_config = ConfigDict(extra="forbid", strict=True)

    workspace_id: WorkspaceId
    requested_by: Email | None = None
    project_id: ProjectId | None = None
    location: Region | None = None
    key_ring: KmsId | None = None
    crypto_key: KmsId | None = None
    protection_level: ProtectionLevel | None = None
    display_name: Pattern | None = None

    def given(self) -> dict[str, Any]:
        """The fields of an onboarding request that it sets."""
        return self.model_dump(exclude_none=True)


def read_announcement(payload: str) -> Announcement:
    """Read the payload's JSON.

    Raises:
        MalformedEventError: not JSON, or not these fields.
    """
    try:
        return Announcement.model_validate(json.loads(payload))
    except ValidationError as error:
        what = "; ".join(refusals(error))
    except (ValueError, RecursionError) as error:
        what = f"not JSON ({type(error).__name__})"
    raise MalformedEventError(
        f"the payload of {EVENT} is not valid: {what}. Nothing was started; send it again with "
        f"these fields: {', '.join(Announcement.model_fields)}; only workspace_id is needed"
    )
