"""Objects of the Admin API, as read.

Unknown fields are kept. A field is required when its absence could be mistaken for a good state
(`external_key_id`, `archived_at`, `attachment`).

Source: https://platform.claude.com/docs/en/api/admin
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import AwareDatetime, ConfigDict, Field, field_validator, model_validator

from cmek.models import FrozenModel


class _OpenModel(FrozenModel):
    model_config = ConfigDict(extra="allow")


class AdminObject(_OpenModel):
    """Immutable, keeps unknown fields; equal when the content is equal, whatever the request id."""

    request_id: str | None = Field(default=None, description="of the response that it came with")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AdminObject) and self._content() == other._content()

    def __hash__(self) -> int:
        return hash(repr(self._content()))

    def _content(self) -> dict[str, Any]:
        return {"": type(self).__name__} | self.model_dump(exclude={"request_id"})


class Organization(AdminObject):
    """The organization of the credential; `id` is the UUID in the organization label."""

    id: UUID
    name: str


class GcpProvider(_OpenModel):
    """A Cloud KMS key, by its full resource name; an external key's provider never changes."""

    type: Literal["gcp"]
    key_name: Annotated[str, Field(min_length=1)]


class OtherProvider(_OpenModel):
    """A key of another provider (`aws`, `azure`, …); only the type is used."""

    type: str

    @field_validator("type")
    @classmethod
    def _is_elsewhere(cls, given: str) -> str:
        # it may be any key, so no key could be said to be unused
        if given == "gcp":
            raise ValueError("a key of type gcp needs its key_name")
        return given


class KeyAttachment(_OpenModel):
    """Whether a live or archived workspace uses the key: `attached` or `unattached`.

    Any other value is none of the two: not known.
    """

    type: str


class ExternalKey(AdminObject):
    """Anthropic's record of a key, `ekey_…`."""

    id: str
    attachment: KeyAttachment
    provider_config: Annotated[GcpProvider | OtherProvider, Field(union_mode="left_to_right")]
    display_name: str | None = None
    geo: str | None = None
    created_at: AwareDatetime | None = None
    updated_at: AwareDatetime | None = None

    @property
    def is_attached(self) -> bool:
        """Whether any workspace uses it."""
        return self.attachment.type == "attached"

    @property
    def is_unattached(self) -> bool:
        """Whether no workspace uses it."""
        return self.attachment.type == "unattached"

    @property
    def gcp_key_name(self) -> str | None:
        """The crypto key's resource name; None for another provider."""
        config = self.provider_config
        return config.key_name if isinstance(config, GcpProvider) else None


class Workspace(AdminObject):
    """A workspace, `wrkspc_…`; once set, `external_key_id` never changes."""

    id: str
    name: str
    archived_at: AwareDatetime | None
    external_key_id: str | None
    created_at: AwareDatetime | None = None
    tags: dict[str, str] = Field(default_factory=dict)
    data_residency: dict[str, Any] | None = None

    @property
    def is_archived(self) -> bool:
        """Whether it was archived, which cannot be undone."""
        return self.archived_at is not None

    @property
    def is_named_default(self) -> bool:
        """Whether it has the default workspace's name; a list shows that one in no other way."""
        return self.name == "Default"


class Validation(AdminObject):
    """The outcome of Anthropic's encrypt and decrypt round trip (guide step 6)."""

    status: Literal["success", "failure"]
    error: str | None
    """Free text: show and record it, never branch on it."""

    @property
    def succeeded(self) -> bool:
        """Whether Anthropic can use the key."""
        return self.status == "success"


class ExternalKeyPage(AdminObject):
    """One page of external keys; `next_page` is the cursor of the next one."""

    data: tuple[ExternalKey, ...]
    next_page: str | None

    @property
    def cursor(self) -> str | None:
        """Of the next page; None on the last one."""
        return self.next_page


class WorkspacePage(AdminObject):
    """One page of workspaces; when `has_more`, the next page begins after `last_id`."""

    data: tuple[Workspace, ...]
    has_more: bool
    last_id: str | None

    @model_validator(mode="after")
    def _names_the_next(self) -> Self:
        # read as the end, it would hide workspaces, and with them names and users of a key
        if self.has_more and self.last_id is None:
            raise ValueError("has_more without last_id, so the next page can't be read")
        return self

    @property
    def cursor(self) -> str | None:
        """Of the next page; None on the last one."""
        return self.last_id if self.has_more else None
