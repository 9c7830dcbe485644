"""What the outside world says right now about one workspace and its key, read in one go."""

from __future__ import annotations

from uuid import UUID

from cmek.kms_models import CryptoKey, KeyVersion
from cmek.models import FrozenModel
from cmek.names import organization_label

ENABLED = "ENABLED"
DESTROY_SCHEDULED = "DESTROY_SCHEDULED"


class LiveFacts(FrozenModel):
    """Read by `read_live_facts`, never cached and never persisted: the basis of every plan."""

    organization_id: UUID
    workspace_id: str | None
    """None while the workspace is still to be created."""
    workspace_name: str
    workspace_archived: bool
    workspace_external_key_id: str | None
    namesakes: tuple[str, ...] = ()
    """Live workspaces that have, or seem to have, the name of the one to be created."""
    key: CryptoKey
    versions: tuple[KeyVersion, ...]
    granted_roles: frozenset[str]
    """Roles of Anthropic's service account on the key itself, without a condition."""
    external_key_id: str
    external_key_name: str | None
    """`provider_config.key_name` of the external key."""
    admin_base_url: str
    kms_endpoint: str

    @property
    def has_organization_label(self) -> bool:
        """Whether the key carries this organization's label with the right value."""
        name, value = organization_label(self.organization_id)
        return self.key.labels.get(name) == value

    @property
    def primary_state(self) -> str:
        """State of the primary version, `MISSING` when there is none."""
        return self.key.primary.state if self.key.primary else "MISSING"

    @property
    def doomed_versions(self) -> tuple[KeyVersion, ...]:
        """Versions scheduled for destruction; one that is gone already blocks nothing."""
        return tuple(v for v in self.versions if v.state == DESTROY_SCHEDULED)
