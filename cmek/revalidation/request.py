"""What to revalidate, and how: the flow's parameter, the registered keys, and the rate of reads.

Source: https://docs.cloud.google.com/kms/quotas (600 read requests a minute by default, in each
project and region)
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final, Self
from uuid import UUID

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from cmek.anthropic.models import ExternalKey, Workspace
from cmek.keys.verdicts import Depth, UnreachableState
from cmek.models import FormModel, FrozenModel
from cmek.names import BlockName, ExternalKeyId
from cmek.onboarding.request import same_field


class RevalidationRequest(FormModel):
    """Revalidate all onboarded keys, or some."""

    model_config = ConfigDict(
        extra="forbid",
        title="Revalidation request",
        json_schema_extra={
            # not by `required`, which Prefect's server takes out of the schema of a deployment
            "dependentSchemas": {
                "record_anew": {
                    "if": {"properties": {"record_anew": {"const": True}}},
                    "then": {"properties": {"depth": {"const": "full"}}},
                }
            },
        },
    )

    external_keys: tuple[ExternalKeyId, ...] = Field(
        default=(),
        title="External keys",
        description="Ids of the external keys to check; empty for all Google Cloud keys.",
        examples=[["ekey_01HxPv6KsDq9TnBzMw3YfLrE"]],
    )
    depth: Depth = Field(
        default="full",
        title="Depth",
        description="quick: the key with its primary version and who may use it, and Anthropic's "
        "validation where something has changed. full: also all versions, and every validation.",
    )
    deadline_seconds: int = Field(
        default=3600,
        title="Deadline in seconds",
        description="Keys that could not be checked by then count as unknown.",
        ge=1,
        le=86400,
    )
    concurrency: int = Field(
        default=32,
        title="Keys at once",
        description="How many keys are checked at the same time.",
        ge=1,
        le=96,
    )
    reads_per_minute: int = Field(
        default=480,
        title="Cloud KMS reads a minute",
        description="In each project and region. Google's default quota is 600; what is left is "
        "for onboardings and for checks of single keys.",
        ge=1,
        le=1_000_000,
    )
    record_anew: bool = Field(
        default=False,
        title="Record anew",
        description="Take the settings that this full check finds as intended: later checks "
        "compare with them instead of with those recorded at onboarding.",
    )
    anthropic_block: BlockName = same_field("anthropic_block")
    kms_block: BlockName = same_field("kms_block")
    look_again: tuple[UnreachableState, ...] = Field(
        default=(),
        title="Check again",
        description="Leave empty: a revalidation fills it in for the follow-up that checks the "
        "keys again that it could not reach.",
    )

    @model_validator(mode="after")
    def _records_anew_in_full_only(self) -> Self:
        if self.record_anew and self.depth != "full":
            raise ValueError(f"record_anew needs depth full, not {self.depth}")
        return self

    @property
    def covers_all_keys(self) -> bool:
        """Whether all keys are checked; such runs wait for each other."""
        return self.wanted is None

    @property
    def wanted(self) -> frozenset[str] | None:
        """The external keys to check; None for all."""
        again = {one.external_key_id for one in self.look_again}
        return frozenset({*self.external_keys, *again}) or None


# slots: a run keeps one for each key, so memory matters
@dataclass(frozen=True, slots=True)
class KeyRef:
    """The minimum that is needed to check one key."""

    external_key_id: str
    key_name: str
    registered_at: datetime | None
    workspaces: tuple[str, ...] = ()
    """Each as `shown_workspace` writes it: name and id."""
    unused: bool = False
    """Anthropic says that no workspace has it: it is checked, and nobody is notified."""

    def serves(self, workspace_id: str) -> bool:
        """Whether this workspace has the key."""
        return workspace_id in map(shown_id, self.workspaces)

    @property
    def key_ring(self) -> str:
        """The ring's name; the registered name is not parsed, since it may be malformed."""
        return self.key_name.rpartition("/cryptoKeys/")[0]

    @property
    def location(self) -> str:
        """The location's name; the quota of reads is counted for each location."""
        return self.key_name.partition("/keyRings/")[0]


class RegisteredKeys(FrozenModel):
    """The organization and its Google Cloud keys."""

    organization_id: UUID
    refs: tuple[KeyRef, ...]


def key_ref(key: ExternalKey, users: Mapping[str, Sequence[str]]) -> KeyRef | None:
    """The reference to an external key; None for a key of another provider."""
    if key.gcp_key_name is None:
        return None
    return KeyRef(
        external_key_id=key.id,
        key_name=key.gcp_key_name,
        registered_at=key.created_at,
        workspaces=tuple(users.get(key.id, ())),
        unused=key.is_unattached and key.id not in users,
    )


def shown_workspace(workspace: Workspace) -> str:
    """A workspace, as tables and pages show it."""
    archived = ", archived" if workspace.is_archived else ""
    return f"{workspace.name} ({workspace.id}{archived})"


def shown_id(shown: str) -> str:
    """The id in a text of `shown_workspace`: at its end, since a name may look like an id."""
    return shown.rpartition(" (")[2].rstrip(")").removesuffix(", archived")


def by_ring(keys: Iterable[KeyRef], seed: str) -> list[list[KeyRef]]:
    """Keys grouped by ring, so that one list of a ring's keys serves all of them.

    The order is shuffled by the seed: if the time is never enough, it must not always be the same
    keys that are left out. The same seed gives the same order.
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


BURST_SECONDS: Final = 1.0
"""Unused turns of at most this time may be taken at once."""


class RateLimiter:
    """Spaces reads evenly; one for each event loop."""

    def __init__(
        self,
        reads_per_minute: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._interval = 60.0 / reads_per_minute
        self._clock, self._sleep = clock, sleep
        self._next: dict[str, float] = defaultdict(float)

    async def acquire(self, where: str) -> None:
        """Wait for a turn in `where` (a location's name)."""
        # no `await` before the turn is taken, so that two tasks never take the same one
        now = self._clock()
        at = max(self._next[where], now - BURST_SECONDS)
        self._next[where] = at + self._interval
        if at > now:
            await self._sleep(at - now)

    def pause(self, where: str, seconds: float) -> None:
        """Give no turn in `where` for some seconds, because the service requested a wait."""
        now = self._clock()
        self._next[where] = max(self._next[where], now + seconds)
