"""What a discovery looks for and asks for: the one parameter of the discovery flow."""

from __future__ import annotations

from copy import copy
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import ConfigDict, Field, model_validator

from cmek.models import FormModel
from cmek.names import KMS_ID, PROJECT_ID
from cmek.request import EMAIL, Location, OnboardingRequest, ProtectionLevel
from cmek.tags import OPT_IN_TAG

REQUESTER: Final = "discovery@cmek.invalid"
"""Who asks when nobody does; not a person, so any person may approve under four eyes."""

Pattern = Annotated[str, Field(min_length=1, max_length=255)]

_OWN: Final = r"^[a-zA-Z0-9_-]*(\{workspace_name\}[a-zA-Z0-9_-]*)?\{workspace_id\}[a-zA-Z0-9_-]*$"
_SHARED: Final = f"^{KMS_ID}$"


def _same(name: str) -> Any:  # noqa: ANN401 - a field stands for its value
    """The field of this name of the onboarding request: one title, one rule, one default."""
    return copy(OnboardingRequest.model_fields[name])


class DiscoveryRequest(FormModel):
    """Find workspaces without a key and start their onboarding, up to the approval.

    What a person has to decide is not here: adopting a key that exists, the default workspace.
    """

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
        pattern=f"^(?:{PROJECT_ID})?$",
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
    location: Location = _same("location")
    key_ring: str = _same("key_ring")
    protection_level: ProtectionLevel = _same("protection_level")
    rotation_period_days: int | None = _same("rotation_period_days")
    destroy_delay_days: int = _same("destroy_delay_days")
    approval_expires_hours: int = _same("approval_expires_hours")
    expected_organization: UUID | None = _same("expected_organization")
    permitted_customer_id: str | None = _same("permitted_customer_id")
    anthropic_block: str = _same("anthropic_block")
    kms_block: str = _same("kms_block")

    @model_validator(mode="after")
    def _template_fits_policy(self) -> DiscoveryRequest:
        """The schema's `if`, again: a caller can switch the server's enforcement off."""
        has_id = "{workspace_id}" in self.key_template
        if self.key_policy == "own" and not has_id:
            raise ValueError("key_template needs {workspace_id} when each workspace has its own")
        if self.key_policy == "shared" and "{" in self.key_template:
            raise ValueError("key_template must be a plain name when the key is shared")
        return self
