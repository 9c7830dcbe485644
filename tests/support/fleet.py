"""Onboarded keys, written directly into a sandbox's state, so that many of them take no time."""

from __future__ import annotations

from typing import Any

from cmek.anthropic_identity import MEMBER, ROLES
from sandbox.seed import fixed_id
from sandbox.world import World
from tests.support.kms import LOCATION
from tests.support.world import LABEL, VALUE, SandboxWorld

__all__ = ["LABEL", "LOCATION", "RING", "VALUE", "Fleet", "many_keys"]
RING = f"{LOCATION}/keyRings/anthropic-cmek"


class Fleet(SandboxWorld):
    """Makes and breaks keys as the project's administrator, without any request."""

    def __init__(self, world: World, ring: str = RING) -> None:
        super().__init__(world)
        self.ring = ring
        self.make_ring(ring)

    def onboard(self, name: str, *, ring: str | None = None, **key: Any) -> str:
        """Make a healthy key with grants, register and attach it; returns its `ekey_…`."""
        ring = ring or self.ring
        self.make_key(name, ring=ring, **key)
        self.set_policy(f"{ring}/cryptoKeys/{name}", {role: [MEMBER] for role in ROLES})
        return self.register(name, f"{ring}/cryptoKeys/{name}")

    def make_key(self, name: str, *, ring: str | None = None, **key: Any) -> None:
        """Make a key as onboarding does, except for the given fields."""
        self.create_rotated_key(f"{ring or self.ring}/cryptoKeys/{name}", **key)

    def register(self, name: str, key_name: str) -> str:
        """Make an external key and a workspace with it; the crypto key need not exist."""
        external_key_id = fixed_id("ekey", name.title().replace("-", ""))
        self.create_external_key(external_key_id, name, key_name)
        self.attach_to_new_workspace(external_key_id, name)
        return external_key_id

    def set_state(self, name: str, version: int, state: str) -> None:
        """Enable or disable a version."""
        self.set_version_state(self.version(name, version), state)

    def destroy(self, name: str, version: int) -> None:
        """Schedule a version's destruction."""
        self.schedule_destruction(self.version(name, version))

    def rotate(self, name: str) -> None:
        """Make a new version the primary."""
        self.rotate_key(self.key(name))

    def update(self, name: str, **fields: Any) -> None:
        """Change fields of a key."""
        self.update_key(self.key(name), **fields)

    def delete(self, name: str) -> None:
        """Remove a key, as its deletion or that of its project does."""
        self.remove_key(self.key(name))

    def key(self, name: str) -> str:
        """The key's resource name."""
        return f"{self.ring}/cryptoKeys/{name}"

    def version(self, name: str, number: int) -> str:
        """A version's resource name."""
        return f"{self.key(name)}/cryptoKeyVersions/{number}"


def many_keys(world: World, count: int, per_ring: int = 100) -> list[str]:
    """Onboard that many healthy keys, `per_ring` in a ring; returns their external keys."""
    fleet, ids = Fleet(world), []
    for number in range(count):
        ring = f"{LOCATION}/keyRings/ring-{number // per_ring:03}"
        fleet.make_ring(ring)
        ids.append(fleet.onboard(f"key-{number:05}", ring=ring))
    return ids
