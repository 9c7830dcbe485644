"""The request: the parameter of the onboarding flow, and what it means under a policy. Pure.

A person or a program gives who and what (`OnboardingForm`); a policy decides how. Together they are
the `OnboardingRequest`, which a run pins, shows and carries out.

Whatever JSON schema can express is in the schema: before a run exists, Prefect refuses wrong values
by the schema only. Titles, descriptions and the order of the fields make the form in Prefect's UI.
A new workspace gets its key in the create call, so that its data is covered from the first request.

Source: https://platform.claude.com/docs/en/manage-claude/workspaces and …/cmek
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy
from typing import Annotated, Any, ClassVar, Final

from pydantic import (
    ConfigDict,
    Field,
    JsonValue,
    ValidationInfo,
    field_validator,
    model_validator,
)

from cmek.anthropic.models import Workspace
from cmek.errors import listed
from cmek.models import FormModel, TextRule, rule_of, too_long
from cmek.names import (
    WORKSPACE_ID,
    BlockName,
    Email,
    KeyName,
    ProjectId,
    WorkspaceId,
    WorkspaceName,
    look_alike,
)
from cmek.onboarding.policy import (
    DEFAULT_POLICY,
    RECOMMENDED,
    SETTINGS,
    Deviation,
    OnboardingSettings,
    PolicyModel,
    Residency,
    check_overrides,
    deviations,
    effective_settings,
    key_id,
    needs_workspace_name,
)
from cmek.tags import CREATED_BY_TAG

MAX_NAME: Final = 255
USUAL_LIMIT: Final = 100
"""Most live workspaces of an organization, unless Anthropic has raised the limit."""

_INFERENCE: Final[dict[Residency, dict[str, object]]] = {
    "unrestricted": {"allowed_inference_geos": "unrestricted", "default_inference_geo": "global"},
    "us_default": {"allowed_inference_geos": "unrestricted", "default_inference_geo": "us"},
    "us_only": {"allowed_inference_geos": ["us"], "default_inference_geo": "us"},
}

_ID: Final = rule_of(WorkspaceId)
_NEW_NAME: Final = TextRule(
    f"(?!{WORKSPACE_ID})(?:{rule_of(WorkspaceName).pattern})",
    "the name of a workspace to create, since New workspace is on: letters, digits and signs other "
    "than ` | <, with single spaces inside, such as payments-prod",
)


def _given_overrides(schema: dict[str, Any]) -> None:
    """Add the rule of each setting, as a pattern: `properties` would be fields in the form."""
    settings = OnboardingSettings.model_json_schema()["properties"]
    wording = {"title", "description", "examples", "position", "default"}
    schema.pop("additionalProperties", None)
    schema["propertyNames"] = {"enum": list(SETTINGS)}
    schema["patternProperties"] = {
        f"^{name}$": {key: value for key, value in rule.items() if key not in wording}
        | ({"type": [rule["type"], "null"]} if "default" not in rule else {})
        for name, rule in settings.items()
    }


class OnboardingForm(FormModel):
    """Put one Cloud KMS key under one Anthropic workspace: who and what.

    Immutable, without secrets: blocks are named, never carried.
    """

    model_config = ConfigDict(
        extra="forbid",
        title="Onboarding request",
        json_schema_extra={
            "if": {"properties": {"new_workspace": {"const": True}}, "required": ["new_workspace"]},
            "then": {"properties": {"workspace": _NEW_NAME.schema | {"maxLength": MAX_NAME}}},
            "else": {"properties": {"workspace": _ID.schema}},
        },
    )
    elsewhere: ClassVar[Mapping[str, str]] = {
        "workspace_id": "is called workspace: give the id there",
        "create_workspace": "is workspace with the name, and new_workspace: true",
        **{
            name: f"is decided by the policy: leave it out, or give it as overrides.{name}"
            for name in SETTINGS
        },
    }

    workspace: str = Field(
        title="Workspace",
        description="Id of the Anthropic workspace; with New workspace on, the name of the one to "
        "create. Its key can be set once and never changed.",
        examples=["wrkspc_01HxPv6KsDq9TnBzMw3YfLrE"],
    )
    project_id: ProjectId = Field(
        title="Google Cloud project",
        description="Id (not number) of the project that holds the key, such as acme-kms-prod.",
        examples=["acme-kms-prod"],
    )
    requested_by: Email = Field(
        title="Requested by",
        description="Your e-mail address, such as ada@example.com. It is unverified; with four "
        "eyes on, the approver must be another person.",
        examples=["ada@example.com"],
    )
    new_workspace: bool = Field(
        default=False,
        title="New workspace",
        description="Create a workspace of that name together with its key, so that it is covered "
        "from its first request on.",
    )
    plan_only: bool = Field(
        default=False,
        title="Plan only",
        description="Check everything and show what would be done, without one write. The plan is "
        "the run's artifact.",
    )
    adopt_existing_key: bool = Field(
        default=False,
        title="Adopt an existing key",
        description="Use a key that exists already and is not known to be this organization's. Its "
        "label and grants are added once an approval has named who can use it.",
    )
    policy: BlockName = Field(
        default=DEFAULT_POLICY,
        title="Policy",
        description="Name of the OnboardingPolicy block that decides everything else. The page "
        "Blocks lists them; cmek policy show prints one.",
        examples=[DEFAULT_POLICY],
    )
    overrides: dict[str, JsonValue] = Field(
        default_factory=dict,
        title="Overrides",
        description="Settings of the policy that are different for this workspace, as JSON, such "
        'as {"location": "us-central1"}. The policy says which ones a request may override.',
        examples=[{"location": "us-central1"}],
        json_schema_extra=_given_overrides,
    )

    @field_validator("overrides")
    @classmethod
    def _known_settings(cls, overrides: dict[str, JsonValue]) -> dict[str, JsonValue]:
        check_overrides(overrides, SETTINGS)
        return overrides

    @model_validator(mode="after")
    def _id_or_name(self) -> OnboardingForm:
        """Repeat the schema's `if`: a caller can switch off the validation by Prefect's server."""
        rule = _NEW_NAME if self.new_workspace else _ID
        if self.new_workspace and len(self.workspace) > MAX_NAME:
            raise ValueError(f"workspace: {too_long(self.workspace, MAX_NAME)}")
        if not rule.fits(self.workspace):
            raise ValueError(f"workspace: {rule.refusal(self.workspace)}")
        residency = self.overrides.get("data_residency", "unrestricted")
        if residency != "unrestricted" and not self.new_workspace:
            raise ValueError(
                f"overrides.data_residency: {residency!r}: only a new workspace can be given one, "
                "an existing one keeps its own. Leave it out"
            )
        return self

    @property
    def subject(self) -> str:
        """The workspace in tags, records and keys; `new:NAME` is never an id: ids have no colon."""
        return f"new:{self.workspace}" if self.new_workspace else self.workspace


class OnboardingRequest(OnboardingSettings):
    """Who, what and how: what a run pins, an approver sees, and every step carries out."""

    workspace_id: WorkspaceId | None = None
    create_workspace: Annotated[WorkspaceName, Field(max_length=MAX_NAME)] | None = Field(
        default=None, validate_default=True
    )
    project_id: ProjectId
    requested_by: Email
    plan_only: bool = False
    adopt_existing_key: bool = False
    policy: BlockName = DEFAULT_POLICY
    overrides: dict[str, JsonValue] = Field(default_factory=dict)
    """As given in the form; the settings above already have their values."""

    @field_validator("create_workspace")
    @classmethod
    def _one_workspace(cls, name: str | None, info: ValidationInfo) -> str | None:
        # true when both are given, or neither
        if (name is None) is (info.data.get("workspace_id") is None):
            raise ValueError("give either workspace_id or create_workspace")
        return name

    @property
    def form(self) -> OnboardingForm:
        """What was requested, before the policy was applied."""
        return OnboardingForm(
            workspace=self.create_workspace or self.workspace_id or "",
            new_workspace=self.create_workspace is not None,
            project_id=self.project_id,
            requested_by=self.requested_by,
            plan_only=self.plan_only,
            adopt_existing_key=self.adopt_existing_key,
            policy=self.policy,
            overrides=self.overrides,
        )

    @property
    def subject(self) -> str:
        """The workspace in tags, records and keys; see `OnboardingForm.subject`."""
        return self.workspace_id or f"new:{self.create_workspace}"

    @property
    def workspace(self) -> str:
        """The workspace, in words for a message."""
        return self.workspace_id or f"new workspace {self.create_workspace!r}"

    @property
    def key_name(self) -> KeyName:
        """The requested crypto key, by its full resource name."""
        key = key_id(
            self.crypto_key,
            workspace_id=self.workspace_id,
            workspace_name=self.create_workspace or "",
        )
        return KeyName(self.project_id, self.location, self.key_ring, key)

    @property
    def deviations(self) -> tuple[Deviation, ...]:
        """Settings that differ from the guide's recommendation.

        A key of its own for the workspace is as recommended, whatever template gave its name.
        """
        own = self.model_copy(update={"crypto_key": RECOMMENDED.crypto_key})
        usual = own if own.key_name == self.key_name else self
        return deviations(usual)

    def for_existing(self, workspace_id: str) -> OnboardingRequest:
        """The same request, for the workspace that was created and now has this id."""
        return self.model_copy(
            update={
                "workspace_id": workspace_id,
                "create_workspace": None,
                "data_residency": "unrestricted",
                # the name as it was made from the workspace's name: the id would give another key
                "crypto_key": self.key_name.crypto_key,
            }
        )


def resolve(
    form: OnboardingForm, policy: PolicyModel, *, workspace_name: str | None = None
) -> OnboardingRequest:
    """Apply the policy to the form, and fill in the name of the key.

    Args:
        form: As requested.
        policy: The policy that the form names, as read.
        workspace_name: Of an existing workspace; needed when `is_named_after_workspace`.

    Raises:
        OverrideRefusedError: The policy does not let a request change a setting.
        UnnameableKeyError: The policy's template gives a name that Cloud KMS refuses.
    """
    settings = effective_settings(policy, form.overrides, name=form.policy)
    new = form.new_workspace
    if not new and settings.data_residency != "unrestricted":
        # the policy's residency applies to new workspaces only
        settings = settings.model_copy(update={"data_residency": "unrestricted"})
    key = key_id(
        settings.crypto_key,
        workspace_id=None if new else form.workspace,
        workspace_name=form.workspace if new else workspace_name or "",
    )
    return OnboardingRequest.model_validate(
        settings.model_dump()
        | form.model_dump(exclude={"workspace", "new_workspace"})
        | {("create_workspace" if new else "workspace_id"): form.workspace, "crypto_key": key}
    )


def is_named_after_workspace(form: OnboardingForm, policy: PolicyModel) -> bool:
    """Whether the key is named after an existing workspace, whose name must be read first."""
    template = form.overrides.get("crypto_key", policy.crypto_key)
    return not form.new_workspace and needs_workspace_name(str(template))


def subject_in(request: Mapping[str, Any]) -> str:
    """The subject of a form that is still unparsed JSON; see `OnboardingForm.subject`."""
    workspace = str(request.get("workspace"))
    return f"new:{workspace}" if request.get("new_workspace") else workspace


def same_field(name: str) -> Any:  # noqa: ANN401 - a field stands for its value
    """The onboarding request's field of this name, so that title, rule and default are the same."""
    return copy(OnboardingRequest.model_fields[name])


def data_residency(residency: Residency) -> dict[str, object]:
    """The Admin API's object; `workspace_geo` has only one possible value and never changes."""
    return {"workspace_geo": "us"} | _INFERENCE[residency]


def created_by_run(workspaces: Iterable[Workspace], run_id: str) -> tuple[Workspace, ...]:
    """The workspaces that this run created, even if archived or renamed since."""
    return tuple(one for one in workspaces if one.tags.get(CREATED_BY_TAG) == run_id)


def same_name_workspaces(workspaces: Iterable[Workspace], name: str) -> tuple[Workspace, ...]:
    """Live workspaces with this name, or with one that looks like it.

    Archived ones are left out: nobody could mistake one for the new workspace.
    """
    return tuple(one for one in workspaces if not one.is_archived and look_alike(one.name, name))


def shown_workspaces(workspaces: Iterable[Workspace]) -> str:
    """Ids and names for a message."""
    return listed(f"{one.id} ({one.name})" for one in workspaces)
