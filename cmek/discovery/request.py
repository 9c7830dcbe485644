"""What starts an onboarding without a person: the discovery flow's parameter, and an event.

Both may choose the key, but nothing that a person has to decide: adopting a key that exists, the
default workspace, repairs, or who approves. Pure.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import ConfigDict, Field, ValidationError, model_validator

from cmek.errors import CmekError
from cmek.models import FormModel, FrozenModel
from cmek.names import KMS_ID_PATTERN, PROJECT_ID_PATTERN, WORKSPACE_ID, Region
from cmek.onboarding.request import EMAIL, ProtectionLevel, same_field
from cmek.tags import OPT_IN_TAG

REQUESTER: Final = "discovery@cmek.invalid"
"""The requester of a discovery: not a person, so any person may approve under four eyes."""

Pattern = Annotated[str, Field(min_length=1, max_length=255)]

_OWN: Final = r"^[a-zA-Z0-9_-]*(\{workspace_name\}[a-zA-Z0-9_-]*)?\{workspace_id\}[a-zA-Z0-9_-]*$"
_SHARED: Final = f"^{KMS_ID_PATTERN}$"


class DiscoveryRequest(FormModel):
    """Find workspaces without a key and start their onboarding, up to the approval."""

    model_config = ConfigDict(
        extra="forbid",
        title="Discovery request",
        json_schema_extra={
            "if": {"properties": {"key_policy": {"const": "shared"}}, "required": ["key_policy"]},
            "then": {
                "properties": {"key_template": {"pattern": _SHARED}},
                "required": ["key_template"],
            },
            "else": {"properties": {"key_template": {"pattern": _OWN}}},
        },
    )

    project_id: str = Field(
        default="",
        title="Google Cloud project",
        description="Id (not number) of the project that holds the keys; empty: nothing is done.",
        pattern=f"^(?:{PROJECT_ID_PATTERN})?$",
        examples=["acme-kms-prod"],
    )
    opt_in: Literal["tag", "name", "all"] = Field(
        default="tag",
        title="Opt-in",
        description="tag: workspaces with the tag below, value `onboard`. name: those whose name "
        "fits a pattern below. all: every one. The value `never` of the tag always wins.",
    )
    opt_in_tag: str = Field(
        default=OPT_IN_TAG,
        title="Opt-in tag",
        description="Key of the workspace tag.",
        pattern=r"^[A-Za-z0-9_.-]{1,64}$",
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
    requested_by: str = Field(
        default=REQUESTER,
        title="Requested by",
        description="Shown to the approver. With four eyes on, an approver of this name is "
        "refused.",
        pattern=f"^{EMAIL}$",
    )
    location: Region = same_field("location")
    key_ring: str = same_field("key_ring")
    protection_level: ProtectionLevel = same_field("protection_level")
    rotation_period_days: int | None = same_field("rotation_period_days")
    destroy_delay_days: int = same_field("destroy_delay_days")
    approval_expires_hours: int = same_field("approval_expires_hours")
    expected_organization: UUID | None = same_field("expected_organization")
    permitted_customer_id: str | None = same_field("permitted_customer_id")
    anthropic_block: str = same_field("anthropic_block")
    kms_block: str = same_field("kms_block")

    @model_validator(mode="after")
    def _template_fits_policy(self) -> DiscoveryRequest:
        """The schema's `if`, again: a caller can switch the server's enforcement off."""
        has_id = "{workspace_id}" in self.key_template
        if self.key_policy == "own" and not has_id:
            raise ValueError("key_template needs {workspace_id} when each workspace has its own")
        if self.key_policy == "shared" and "{" in self.key_template:
            raise ValueError("key_template must be a plain name when the key is shared")
        return self


EVENT: Final = "anthropic.workspace.created"


class MalformedEventError(CmekError):
    """The payload is not what the event should carry; names each field and rule."""


class Announcement(FrozenModel):
    """The payload of the event. Only `workspace_id` is needed."""

    model_config = ConfigDict(extra="forbid", strict=True)

    workspace_id: str = Field(pattern=f"^{WORKSPACE_ID}$")
    requested_by: str | None = Field(default=None, pattern=f"^{EMAIL}$")
    project_id: str | None = Field(default=None, pattern=f"^{PROJECT_ID_PATTERN}$")
    location: Region | None = None
    key_ring: str | None = Field(default=None, pattern=f"^{KMS_ID_PATTERN}$")
    crypto_key: str | None = Field(default=None, pattern=f"^{KMS_ID_PATTERN}$")
    protection_level: ProtectionLevel | None = None
    display_name: str | None = Field(default=None, min_length=1, max_length=255)

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
        found = error.errors(include_url=False, include_input=False, include_context=False)
        what = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'it'}: {one['msg']}" for one in found)
    except (ValueError, RecursionError) as error:
        what = f"not JSON ({type(error).__name__})"
    raise MalformedEventError(
        f"the payload of {EVENT} is not valid: {what}. Nothing was started; send it again with "
        f"these fields: {', '.join(Announcement.model_fields)}; only workspace_id is needed"
    )
