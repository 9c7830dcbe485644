"""The organization's data and the look-ups on it."""

from __future__ import annotations

from pydantic import BaseModel, Field

from sandbox.admin_models import Credential, ExternalKey, FederationRule, Organization, Workspace
from sandbox.errors import AnthropicError


class AdminState(BaseModel):
    """One organization. Dictionaries keep creation order."""

    organization: Organization
    credentials: dict[str, Credential] = Field(default_factory=dict)
    federation_rules: list[FederationRule] = Field(default_factory=list)
    user_profiles: list[str] = Field(default_factory=list)
    external_keys: dict[str, ExternalKey] = Field(default_factory=dict)
    workspaces: dict[str, Workspace] = Field(default_factory=dict)
    last_sequence: int = 0

    def external_key(self, external_key_id: str) -> ExternalKey:
        """The external key.

        Raises:
            AnthropicError: 404, no such key in this organization.
        """
        key = self.external_keys.get(external_key_id)
        if key is None:
            raise AnthropicError(404, "External key not found.")
        return key

    def workspace(self, workspace_id: str) -> Workspace:
        """The workspace, the default one included.

        Raises:
            AnthropicError: 404, no such workspace in this organization.
        """
        workspace = self.workspaces.get(workspace_id)
        if workspace is None:
            raise AnthropicError(404, "Workspace not found.")
        return workspace

    def is_attached(self, external_key_id: str) -> bool:
        """Whether any workspace, live or archived, uses the key."""
        return any(one.external_key_id == external_key_id for one in self.workspaces.values())

    def next_sequence(self) -> int:
        """The next place in the order of creation."""
        self.last_sequence += 1
        return self.last_sequence

    def check_user_profile(self, user_profile_id: str | None) -> None:
        """Accept none or a known profile.

        Raises:
            AnthropicError: 400 `user_profile_not_found`.
        """
        if user_profile_id is not None and user_profile_id not in self.user_profiles:
            raise AnthropicError(400, "User profile not found.", "user_profile_not_found")
