"""The keys that Anthropic has on record, with the workspaces that use them."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from cmek.admin_models import ExternalKey, Workspace
from cmek.models import FrozenModel


class KeyRef(FrozenModel):
    """As little as is needed to look at one key."""

    external_key_id: str
    key_name: str
    registered_at: datetime | None
    workspaces: tuple[str, ...] = ()
    """Name and id of each."""

    @property
    def key_ring(self) -> str:
        """The ring's name, as far as the registered name has one."""
        return self.key_name.rpartition("/cryptoKeys/")[0]

    @property
    def location(self) -> str:
        """The location's name, in which reads are counted."""
        return self.key_name.partition("/keyRings/")[0]


class Registered(FrozenModel):
    """The organization and its Google Cloud keys."""

    organization_id: UUID
    refs: tuple[KeyRef, ...]


def key_ref(key: ExternalKey, users: Mapping[str, Sequence[str]]) -> KeyRef | None:
    """The reference of an external key, None for another provider's."""
    if key.gcp_key_name is None:
        return None
    return KeyRef(
        external_key_id=key.id,
        key_name=key.gcp_key_name,
        registered_at=key.created_at,
        workspaces=tuple(users.get(key.id, ())),
    )


def shown_workspace(workspace: Workspace) -> str:
    """A workspace as tables and pages show it."""
    archived = ", archived" if workspace.is_archived else ""
    return f"{workspace.name} ({workspace.id}{archived})"


def by_ring(keys: Iterable[KeyRef], seed: str) -> list[list[KeyRef]]:
    """Keys grouped by ring, so that a list of a ring serves all its keys.

    Shuffled, the same way for the same seed: when time runs out again and again, it must not
    always be the same keys that nobody looks at.
    """
    rings: dict[str, list[KeyRef]] = defaultdict(list)
    for key in keys:
        rings[key.key_ring].append(key)
    groups = [rings[name] for name in sorted(rings)]
    order = random.Random(seed)  # noqa: S311 - not a secret
    order.shuffle(groups)
    for group in groups:
        order.shuffle(group)
    return groups
