"""What starts an onboarding without a person: the discovery flow's parameter, and an event. Pure.

The policy decides the key; an event may override its name and location. Neither can decide what
needs a person: to adopt an existing key, to use the default workspace, to repair, or to approve.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator

from cmek.errors import CmekError
from cmek.models import FormModel, TextRule, refusals
from cmek.names import PROJECT_ID_PATTERN, BlockName, Email, OneLine, ProjectId, WorkspaceId
from cmek.onboarding.policy import DEFAULT_POLICY, SETTINGS, check_overrides
from cmek.tags import OPT_IN_TAG

REQUESTER: Final = "discovery@cmek.invalid"
"""The requester in a discovery: it is not a person, so with four eyes any person may approve."""

Pattern = Annotated[OneLine, Field(max_length=255)]

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
            # not by `required`, which Prefect's server takes out of the schema of a deployment
            "dependentSchemas": {
                "name_patterns": {
                    "if": {"properties": {"name_patterns": {"minItems": 1}}},
                    "then": {"properties": {"opt_in": {"const": "name"}}},
                },
                "opt_in": {
                    "if": {"properties": {"opt_in": {"const": "name"}}},
                    "then": {"properties": {"name_patterns": {"minItems": 1}}},
                },
            },
        },
    )
    elsewhere: ClassVar[Mapping[str, str]] = dict.fromkeys(
        SETTINGS, "is decided by the policy: leave it out"
    )

    project_id: Annotated[str, _PROJECT_OR_NOTHING] = Field(
        default="",
        title="Google Cloud project",
        description="Id (not number) of the project that holds the keys; empty: nothing is done.",
        examples=["acme-kms-prod"],
    )
    policy: BlockName = Field(
        default=DEFAULT_POLICY,
        title="Policy",
        description="Name of the OnboardingPolicy block that decides keys and approvals. The page "
        "Blocks lists them.",
        examples=[DEFAULT_POLICY],
    )
    opt_in: Literal["tag", "name", "all"] = Field(
        default="tag",
        title="Opt-in",
        description="tag: workspaces with the tag below, value onboard. name: those whose name "
        "fits a pattern below. all: every one. The value never of the tag always wins.",
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
        "workspace Claude Code by itself.",
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

    @model_validator(mode="after")
    def _has_patterns_for_names_only(self) -> Self:
        if self.opt_in == "name" and not self.name_patterns:
            raise ValueError(
                "opt_in name needs at least one of name_patterns, or no workspace would opt in"
            )
        if self.opt_in != "name" and self.name_patterns:
            raise ValueError(
                f"name_patterns would be ignored with opt_in {self.opt_in}: set opt_in to name, or"
                " leave name_patterns empty"
            )
        return self


EVENT: Final = "anthropic.workspace.created"


class MalformedEventError(CmekError):
    """The event's payload is not valid; the message names each wrong field and its rule."""


ANNOUNCED: Final = ("location", "key_ring", "crypto_key", "protection_level", "display_name")
"""Settings of the key, which an event may override if the policy lets a request do so."""


class Announcement(FormModel):
    """The payload of the event. Only `workspace_id` is needed."""

    model_config = ConfigDict(extra="forbid", strict=True)
    elsewhere: ClassVar[Mapping[str, str]] = {
        name: f"is decided by the policy: leave it out, or give it as overrides.{name}"
        for name in ANNOUNCED
    }

    workspace_id: WorkspaceId
    requested_by: Email | None = None
    project_id: ProjectId | None = None
    overrides: dict[str, JsonValue] = Field(default_factory=dict)

    @field_validator("overrides")
    @classmethod
    def _of_the_key(cls, overrides: dict[str, JsonValue]) -> dict[str, JsonValue]:
        check_overrides(overrides, ANNOUNCED)
        return overrides


def read_announcement(payload: str) -> Announcement:
    """Parse the payload.

    Raises:
        MalformedEventError: It is not JSON, or does not have these fields.
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
