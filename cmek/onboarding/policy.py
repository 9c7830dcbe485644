"""Settings that a platform team makes for all onboardings, and what a request may override. Pure.

The defaults are the recommendations of Anthropic's guide; the block `onboarding-policy/default` has
them.

Source: https://platform.claude.com/docs/en/manage-claude/cmek-google-cloud-kms
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    field_validator,
)

from cmek.errors import CmekError
from cmek.models import FormModel, FrozenModel, TextRule, refusals
from cmek.names import (
    KMS_ID_PATTERN,
    BlockName,
    CustomerId,
    KmsId,
    OneLine,
    OrganizationId,
    Region,
    short_hash,
    slug,
)

DEFAULT_POLICY: Final = "default"
"""The block document that ships with the guide's recommended values."""

ProtectionLevel = Literal["HSM", "SOFTWARE"]
Residency = Literal["unrestricted", "us_default", "us_only"]

_ID: Final = "{workspace_id}"
_NAME: Final = "{workspace_name}"
_MAX_KEY_ID: Final = 63
MAX_APPROVAL_HOURS: Final = 720
"""The longest time for which an approval request can be open."""
KeyTemplate = Annotated[
    str,
    TextRule(
        r"(?:[a-zA-Z0-9_-]|\{workspace_name\}|\{workspace_id\}){1,120}",
        "letters, digits, - and _, with {workspace_id} or {workspace_name} where these are wanted, "
        "such as {workspace_name}-{workspace_id}",
    ),
]
CheckId = Annotated[str, TextRule(r"[a-z][a-z0-9_-]{1,63}", "a check's id, such as audit_logs")]


def _plain_text(schema: dict[str, Any]) -> None:
    """Show one plain field: for a union with null Prefect's form would show a choice of types."""
    (kind,) = [one for one in schema.pop("anyOf", []) if one.get("type") != "null"]
    schema.pop("default", None)
    schema.update(kind)
    if "if" in schema:  # an empty text stands for None (see `_none`), so no rule applies to it
        schema["if"] = schema["if"] | {"minLength": 1}


class OnboardingSettings(FormModel):
    """How a workspace is onboarded, apart from who and what."""

    model_config = ConfigDict(extra="forbid")

    location: Region = Field(
        default="us-east5",
        title="Location",
        description="One US region; multi-regions such as us and global are not supported. "
        "us-east5 and us-central1 are recommended for latency.",
    )
    key_ring: KmsId = Field(
        default="anthropic-cmek",
        title="Key ring",
        description="Used when it exists, else created. It can't be moved or renamed.",
    )
    crypto_key: KeyTemplate = Field(
        default=_ID,
        title="Crypto key",
        description="Name of the key; used when it exists, else created. {workspace_id} and "
        "{workspace_name} are filled in; a name without them is one key that all share.",
        examples=["{workspace_name}-{workspace_id}"],
    )
    display_name: Annotated[OneLine, Field(max_length=255)] | None = Field(
        default=None,
        title="Display name",
        description="Name of the external key in the Anthropic Console; without one, the crypto "
        "key's name.",
        json_schema_extra=_plain_text,
    )
    protection_level: ProtectionLevel = Field(
        default="HSM",
        title="Protection level",
        description="HSM is strongly recommended. It can't be changed later.",
    )
    rotation_period_days: Annotated[int, Field(ge=0, le=36500)] | None = Field(
        default=90,
        title="Rotation period in days",
        description="A new key's automatic rotation; 0 for none. Old versions must stay enabled: "
        "data encrypted with them is never re-encrypted. An existing key's rotation is left as it "
        "is.",
        json_schema_extra=_plain_text,
    )
    destroy_delay_days: int = Field(
        default=30,
        title="Destroy delay in days",
        description="How long a version of a new key stays restorable after its destruction is "
        "scheduled. It can't be changed later; under 30 days there is little time to notice.",
        ge=1,
        le=120,
    )
    data_residency: Residency = Field(
        default="unrestricted",
        title="Data residency",
        description="Of a new workspace only. unrestricted: inference anywhere, global by default. "
        "us_default: anywhere, US by default. us_only: nowhere but in the US.",
    )
    repair: bool = Field(
        default=False,
        title="Repair",
        description="When the workspace already has this key: put back a missing label or grant. "
        "Off, such a run only reads, validates and reports.",
    )
    allow_default_workspace: bool = Field(
        default=False,
        title="Allow the default workspace",
        description="The default workspace serves every API key without a workspace. Its key can "
        "never be removed either.",
    )
    four_eyes: bool = Field(
        default=True,
        title="Four eyes",
        description="The approver must not be the requester. Typed names are compared, not "
        "verified; signatures are.",
    )
    signatures: int = Field(
        default=0,
        title="Signatures",
        description="How many approvers must sign the approval with their SSH keys. The worker's "
        "own minimum holds when this is less; 0 leaves it to the worker.",
        ge=0,
        le=9,
    )
    approval_expires_hours: int = Field(
        default=168,
        title="Approval expires after hours",
        description="An approval request without a response in time is never an approval.",
        ge=1,
        le=MAX_APPROVAL_HOURS,
    )
    accepted_warnings: tuple[CheckId, ...] = Field(
        default=(),
        title="Accepted warnings",
        description="Ids of checks whose warnings the platform team has accepted: they are shown, "
        "and an approver does not have to acknowledge them. A check that fails, or whose result "
        "is unknown, can't be accepted.",
        examples=[["audit_logs"]],
    )
    mark_key: bool = Field(
        default=True,
        title="Mark the key as in use",
        description="After the attach, label the key with a hash of the workspace's id: Google "
        "can't show that Anthropic's data depends on it.",
    )
    expected_organization: OrganizationId | None = Field(
        default=None,
        title="Expected organization",
        description="UUID of the Anthropic organization; when given, a credential of any other "
        "organization is refused.",
        json_schema_extra=_plain_text,
    )
    permitted_customer_id: CustomerId | None = Field(
        default=None,
        title="Anthropic's Google customer id",
        description="Only for projects under the legacy domain restriction: the customer id that "
        "Anthropic's account team gave you.",
        json_schema_extra=_plain_text,
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

    @field_validator(
        "display_name",
        "rotation_period_days",
        "expected_organization",
        "permitted_customer_id",
        mode="before",
    )
    @classmethod
    def _none(cls, value: object) -> object:
        """None for an empty text: a form can't send null."""
        return None if value == "" else value

    @field_validator("rotation_period_days")
    @classmethod
    def _no_rotation(cls, days: int | None) -> int | None:
        return days or None


SETTINGS: Final = tuple(OnboardingSettings.model_fields)
"""The names of the settings, in the order of the form."""


def _known(name: str) -> str:
    if name not in SETTINGS:
        raise ValueError(f"there is no setting of this name; there are {', '.join(SETTINGS)}")
    return name


SettingName = Annotated[
    str, AfterValidator(_known), WithJsonSchema({"type": "string", "enum": [*SETTINGS]})
]


class PolicyModel(OnboardingSettings):
    """The settings, and which of them a request may override."""

    may_override: tuple[SettingName, ...] = Field(
        default=(
            "location",
            "key_ring",
            "crypto_key",
            "display_name",
            "data_residency",
            "repair",
        ),
        title="A request may override",
        description="Names of the settings above that a request may change for its workspace. Any "
        "other override is refused before anything is made.",
    )


RECOMMENDED: Final = PolicyModel()


class OverrideRefusedError(CmekError):
    """A request overrides a setting that its policy does not let it override."""


class UnnameableKeyError(CmekError):
    """The template gives a name that Cloud KMS refuses; the message says what to change."""


class Deviation(FrozenModel):
    """A setting that differs from the guide's recommendation."""

    field: str
    title: str
    value: Any
    recommended: Any

    def __str__(self) -> str:
        usual = shown_value(self.recommended)
        return f"{self.title}: {shown_value(self.value)} (recommended: {usual})"


def deviations(settings: OnboardingSettings) -> tuple[Deviation, ...]:
    """Every setting that differs from the guide's recommendation, in the order of the form."""
    found, usual = settings.model_dump(mode="json"), RECOMMENDED.model_dump(mode="json")
    return tuple(
        Deviation(field=name, title=str(field.title), value=found[name], recommended=usual[name])
        for name, field in PolicyModel.model_fields.items()
        if name in found and found[name] != usual[name]
    )


def effective_settings(
    policy: PolicyModel, overrides: Mapping[str, Any], *, name: str
) -> OnboardingSettings:
    """The policy's settings with the overrides of one request.

    Args:
        policy: As read.
        overrides: Valid values by the name of the setting.
        name: Of the policy, for messages.

    Raises:
        OverrideRefusedError: The policy does not let a request override one of them.
    """
    decided = policy.model_dump(exclude={"may_override"})
    changed = OnboardingSettings.model_validate(decided | dict(overrides))
    refused = list(_refused(policy, changed, overrides, name))
    if refused:
        raise OverrideRefusedError(f"{'; '.join(refused)}. Nothing was made")
    return changed


def check_overrides(overrides: Mapping[str, Any], allowed: Sequence[str]) -> None:
    """Pass when every override is an allowed setting with a valid value.

    Raises:
        ValueError: With each wrong setting, its value and what is wanted.
    """
    unknown = [name for name in overrides if name not in allowed]
    if unknown:
        raise ValueError(f"there is no {', '.join(unknown)} here, only {', '.join(allowed)}")
    try:
        OnboardingSettings.model_validate(overrides)
    except ValidationError as error:
        raise ValueError("; ".join(refusals(error))) from None


def _refused(
    policy: PolicyModel, changed: OnboardingSettings, overrides: Mapping[str, Any], name: str
) -> Iterator[str]:
    for field in overrides:
        ours = getattr(policy, field)
        # an override with the policy's own value changes nothing, so it is not refused
        if field not in policy.may_override and getattr(changed, field) != ours:
            yield (
                f"overrides.{field} is {overrides[field]!r}: policy {name!r} says "
                f"{shown_value(ours)} and does not let a request change it. Leave it out, name a "
                f"policy that allows it, or have {field} added to may_override "
                f"of block onboarding-policy/{name}"
            )


def key_id(template: str, *, workspace_id: str | None, workspace_name: str) -> str:
    """The id of a workspace's crypto key.

    A workspace's name is cut to the length that Cloud KMS allows. Its id is never cut, so that
    workspaces with keys of their own never share one. A workspace that is still to be created has
    no id: a hash of its name is used instead.

    Raises:
        UnnameableKeyError: The id would be too long, or have characters that are not allowed.
    """
    own = workspace_id or short_hash(workspace_name)
    if workspace_id is None and _NAME not in template:
        # a hash alone would not be readable: the name goes before it
        own = key_id_for(workspace_name)
    with_id = template.replace(_ID, own)
    room = _MAX_KEY_ID - len(with_id.replace(_NAME, ""))
    readable = slug(workspace_name, max(room, 0), allowed="a-zA-Z0-9_-")
    key = with_id.replace(_NAME, readable)
    if re.fullmatch(KMS_ID_PATTERN, key) is None:
        raise UnnameableKeyError(
            f"crypto_key {template!r} gives {key!r} for workspace "
            f"{workspace_id or workspace_name}: a crypto key's name has 1 to {_MAX_KEY_ID} "
            "letters, digits, - and _; change crypto_key in the policy, or override it"
        )
    return key


def key_id_for(name: str) -> str:
    """The id of a new workspace's own crypto key: readable, and different for each name."""
    readable = slug(name.lower(), 48).rstrip("-") or "workspace"
    return f"{readable}-{short_hash(name)}"


def needs_workspace_name(template: str) -> bool:
    """Whether the key is named after the workspace, whose name must be read from Anthropic."""
    return _NAME in template


def shown_value(value: object) -> str:
    """A setting's value in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
