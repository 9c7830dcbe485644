"""The model's world: events from outside, and its state as an independent observer reads it.

Everything here changes or reads the sandbox's state directly, so that it neither goes through the
code under test nor appears in the request log.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from google.cloud import kms_v1
from google.iam.v1 import policy_pb2

from cmek.anthropic_identity import MEMBER, ROLES
from cmek.names import KeyName
from cmek.onboarding.policy import key_id_for
from cmek.tags import CREATED_BY_TAG
from sandbox import seed
from sandbox.admin.state import GcpConfig, StoredWorkspace
from sandbox.iam import read_policy
from sandbox.identities import PROJECT_ID
from sandbox.kms.versions import State, new_version
from sandbox.world import Entry
from tests.support.world import LABEL, VALUE, SandboxWorld

WORKSPACE: Final = seed.fixed_id("wrkspc", "PaymentsProd")
KEY: Final = str(KeyName(PROJECT_ID, "us-east5", "anthropic-cmek", WORKSPACE))
NEW: Final = "born-encrypted"
"""Name of the workspace that a creating run makes."""
NEW_KEY: Final = str(KeyName(PROJECT_ID, "us-east5", "anthropic-cmek", key_id_for(NEW)))
OTHER_DECRYPTER: Final = ("roles/cloudkms.cryptoKeyDecrypter", "group:backup@example.com")
OUTSIDER: Final = ("roles/cloudkms.admin", "group:owners@example.com")
HARMFUL: Final = {
    "DestroyCryptoKeyVersion",
    "UpdateCryptoKeyVersion",
    "UpdateCryptoKeyPrimaryVersion",
    "external_keys.delete",
    "workspaces.archive",
}


@dataclass(frozen=True, slots=True)
class Sight:
    """The facts that an approval is about, as the independent checker reads them."""

    name: str
    archived: bool
    attached: str | None
    labelled: bool
    roles: frozenset[str]
    states: tuple[str, ...]
    primary: str
    billing: bool
    shared: bool
    """Whether someone besides Anthropic can decrypt."""
    taken: bool
    """Whether another user's workspace has the name of the one to be created."""

    @property
    def attachable(self) -> bool:
        """Whether these facts may be attached at all."""
        return (
            not self.archived
            and self.attached is None
            and not self.taken
            and self.labelled
            and self.roles.issuperset(ROLES)
            and self.primary == "ENABLED"
            and "DESTROY_SCHEDULED" not in self.states
            and self.billing
        )

    def covered(self, *, adopting: bool) -> tuple[object, ...]:
        """The facts that an approver approves, which must be the same at the attach.

        They leave out label and grants of a key to adopt, which does not have them yet.
        """
        return (self.name, self.shared, *(() if adopting else (self.labelled, self.roles)))


@dataclass
class Scene(SandboxWorld):
    """One workspace, one key, and everyone else who can change them."""

    outsiders: bool = field(default=False)
    creates: bool = False
    """Whether the run makes its workspace."""

    @property
    def key(self) -> str:
        """The requested key."""
        return NEW_KEY if self.creates else KEY

    @property
    def request(self) -> dict[str, str]:
        """The field of the request that names the workspace."""
        return {"create_workspace": NEW} if self.creates else {"workspace_id": WORKSPACE}

    @property
    def typed(self) -> dict[str, str]:
        """The field of a response that repeats it."""
        return {"workspace_name": NEW} if self.creates else {"workspace_id": WORKSPACE}

    def workspaces(self) -> list[StoredWorkspace]:
        """The run's workspace; none before it is created, and there must never be two."""
        if not self.creates:
            return [self.world.admin.workspaces[WORKSPACE]]
        return [one for one in self.world.admin.workspaces.values() if one.name == NEW]

    def new(self) -> None:
        """Reset the world."""
        seed.reset(self.world, minimal=True)
        self.outsiders = False

    def plant(self, *, labelled: bool) -> None:
        """Make the key beforehand, as others would, with or without our label."""
        ring = self.key.rpartition("/cryptoKeys/")[0]
        self.make_ring(ring)
        self.create_key(self.key, labels={LABEL: VALUE} if labelled else {})

    def look(self) -> Sight:
        """The facts as they are now."""
        ours = self.workspaces()
        key = self.world.kms.crypto_keys.get(self.key)
        versions = self.world.kms.versions.get(self.key, {})
        primary = versions.get(int(key.primary.name.rsplit("/", 1)[1])) if key else None
        return Sight(
            name=ours[0].name if ours else NEW,
            archived=any(one.archived_at is not None for one in ours),
            attached=ours[0].external_key_id if ours else None,
            labelled=key is not None and key.labels.get(LABEL) == VALUE,
            roles=frozenset(b.role for b in self._bindings() if MEMBER in b.members),
            states=tuple(State(version.state).name for version in versions.values()),
            primary=State(primary.state).name if primary else "MISSING",
            billing=self.world.switches.billing_enabled,
            shared=any(one.role == OTHER_DECRYPTER[0] for one in self._bindings()),
            taken=self.creates and bool(ours),
        )

    def external_keys(self) -> list[str]:
        """Ids of the external keys of our key."""
        return [
            one.id
            for one in self.world.admin.external_keys.values()
            if isinstance(one.provider_config, GcpConfig)
            and one.provider_config.key_name == self.key
        ]

    def attaches(self, entries: list[Entry]) -> list[Entry]:
        """Requests that tried to set our workspace's key, or to create it with one."""
        sent = [one for one in entries if one.call in {"workspaces.update", "workspaces.create"}]
        return [one for one in sent if one.request.get("external_key_id")]

    # what others do

    def rename(self) -> None:
        """The workspace gets another name or its old one; a name that others took is free again."""
        if self.creates:
            for one in self.workspaces():
                one.name = one.name if CREATED_BY_TAG in one.tags else "renamed"
            return
        workspace = self.world.admin.workspaces[WORKSPACE]
        workspace.name = "renamed" if workspace.name == "payments-prod" else "payments-prod"

    def archive(self) -> None:
        """The workspace is archived, or no longer archived."""
        if self.creates:
            return  # it would free the name, so that a second workspace would be right
        workspace = self.world.admin.workspaces[WORKSPACE]
        workspace.archived_at = None if workspace.archived_at else "2026-11-01T00:00:00+00:00"

    def attach_another(self) -> None:
        """Another user attaches a key of their own, or makes a workspace with our name."""
        if self.creates:
            self._take_the_name()
            return
        workspace = self.world.admin.workspaces[WORKSPACE]
        if workspace.external_key_id is not None:
            return
        other = self.create_external_key(
            seed.fixed_id("ekey", "Another"), "another", f"{KEY}-another"
        )
        workspace.external_key_id = other.id

    def _take_the_name(self) -> None:
        if not self.workspaces():
            template = self.world.admin.workspaces[WORKSPACE]
            other = seed.fixed_id("wrkspc", f"Taken{len(self.world.admin.workspaces)}")
            made = template.model_copy(update={"id": other, "name": NEW, "tags": {}})
            self.world.admin.workspaces[other] = made

    def revoke(self) -> None:
        """One grant is taken away."""
        self._edit(lambda bindings: [one for one in bindings if one.role != ROLES[0]])

    def grant(self) -> None:
        """Both grants are there again."""
        again = [policy_pb2.Binding(role=role, members=[MEMBER]) for role in ROLES]
        self._edit(lambda bindings: [b for b in bindings if b.role not in ROLES] + again)

    def invite(self) -> None:
        """Another principal gets a role on the key."""
        role, member = OUTSIDER
        self._edit(lambda bindings: [*bindings, policy_pb2.Binding(role=role, members=[member])])
        self.outsiders = self.key in self.world.kms.crypto_keys

    def share(self) -> None:
        """Another principal can decrypt with the key, or no longer can."""
        role, member = OTHER_DECRYPTER
        again = [] if self.look().shared else [policy_pb2.Binding(role=role, members=[member])]
        self._edit(lambda bindings: [one for one in bindings if one.role != role] + again)

    def label(self) -> None:
        """The organization label is taken away, or put back."""
        key = self.world.kms.crypto_keys.get(self.key)
        if key is not None and LABEL in key.labels:
            del key.labels[LABEL]
        elif key is not None:
            key.labels[LABEL] = VALUE

    def disable(self) -> None:
        """The first version is disabled, or enabled again."""
        self._toggle(State.DISABLED)

    def doom(self) -> None:
        """The first version is scheduled for destruction, or restored."""
        self._toggle(State.DESTROY_SCHEDULED)

    def rotate(self) -> None:
        """A new version becomes the primary."""
        key = self.world.kms.crypto_keys.get(self.key)
        if key is not None:
            version = new_version(self.world, key, self.world.clock.now())
            key.primary = kms_v1.CryptoKeyVersion(name=version.name)

    def age(self) -> None:
        """A new version is the primary, and the first is scheduled for destruction or restored."""
        self.rotate()
        self.doom()

    def billing(self) -> None:
        """Billing is switched off, or on again."""
        switches = self.world.switches
        switches.billing_enabled = not switches.billing_enabled

    def outsiders_kept(self) -> bool:
        """Whether the others' role is still there."""
        role, member = OUTSIDER
        return not self.outsiders or any(
            one.role == role and member in one.members for one in self._bindings()
        )

    def _toggle(self, state: Any) -> None:
        version = self.world.kms.versions.get(self.key, {}).get(1)
        if version is not None:
            version.state = State(State.ENABLED if version.state == state else state)
            if version.state == State.DESTROY_SCHEDULED:
                version.destroy_time = "2027-06-01T00:00:00Z"

    def _bindings(self) -> list[policy_pb2.Binding]:
        if self.key not in self.world.kms.crypto_keys:
            return []
        return list(read_policy(self.world, self.key, 3).bindings)

    def _edit(self, change: Callable[[list[policy_pb2.Binding]], list[policy_pb2.Binding]]) -> None:
        if self.key not in self.world.kms.crypto_keys:
            return
        with self.policy_change(self.key) as policy:
            kept = change(list(policy.bindings))
            del policy.bindings[:]
            policy.bindings.extend(kept)


EVENTS: Final = (
    "rename",
    "archive",
    "attach_another",
    "revoke",
    "grant",
    "invite",
    "share",
    "label",
    "disable",
    "doom",
    "rotate",
    "billing",
)
