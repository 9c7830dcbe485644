"""A drill: measure when a disabled key is detected and when it takes effect; and its report. Pure.

Source of the hour: https://platform.claude.com/docs/en/manage-claude/cmek-key-lifecycle (a disabled
key may work for up to an hour, the lifetime of Anthropic's caches).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final, Literal, Self
from uuid import UUID

from cmek.errors import CmekError, listed
from cmek.gcp.gcloud import on_version
from cmek.gcp.iam import PolicyView
from cmek.gcp.resources import CryptoKey
from cmek.keys.conditions import labels_of_others, other_users
from cmek.keys.history import shown_time
from cmek.keys.verdicts import Health
from cmek.models import FrozenModel
from cmek.names import KeyName, in_use_label, may_be_one_key
from cmek.plain_text import code, escape, table
from cmek.revalidation.request import KeyRef

HOUR: Final = timedelta(hours=1)
"""How long a disabled key may still work, by Anthropic's documentation."""
ALERT: Final = timedelta(minutes=16)
"""A quick check runs every 15 minutes, and takes up to a minute."""


class DrillRefusedError(CmekError):
    """The drill would affect more than the named workspace, or could not prove anything."""


def check_scope(
    ref: KeyRef,
    others: Sequence[KeyRef],
    key: CryptoKey,
    policy: PolicyView,
    organization: UUID,
) -> None:
    """Refuse a drill during which more than the named workspace would lose access to its data.

    Args:
        ref: The workspace's key.
        others: All registered keys.
        key: As read now.
        policy: Of the key, as read now.
        organization: Of the workspace.

    Raises:
        DrillRefusedError: Another workspace or organization, or someone besides Anthropic, uses
            the key; or its primary version is not enabled.
    """
    # by crypto key: it may be registered as several external keys
    same = [one for one in others if may_be_one_key(one.key_name, ref.key_name)]
    users = sorted({user for one in same for user in one.workspaces})
    if len(users) > 1:
        raise DrillRefusedError(
            f"{ref.key_name} serves more than one workspace ({', '.join(users)}): a drill would "
            "stop them all. Name a test workspace with a key of its own"
        )
    own = [in_use_label(one)[0] for one in users]
    if labels := labels_of_others(key, organization, own):
        raise DrillRefusedError(
            f"{ref.key_name} has labels of another organization or workspace ({listed(labels)}): "
            "a drill would stop them too. Name a test workspace with a key of its own"
        )
    if members := other_users(policy):
        raise DrillRefusedError(
            f"{', '.join(members)} may use {ref.key_name} too: a drill would stop them. "
            "Name a test workspace whose key only Anthropic uses"
        )
    if key.primary is None or key.primary.state != "ENABLED":
        state = key.primary.state if key.primary else "missing"
        raise DrillRefusedError(f"the primary version of {ref.key_name} is {state}, not ENABLED")


def check_announced(ref: KeyRef, announced: Health) -> None:
    """Refuse a drill of a key that people know as broken: its verdict would not change.

    Args:
        ref: The workspace's key.
        announced: The verdict that people were last notified of.

    Raises:
        DrillRefusedError: The key counts as broken.
    """
    if announced is Health.BROKEN:
        raise DrillRefusedError(
            f"{ref.key_name} counts as broken already, so neither alert nor recovery could be "
            "measured. Read why with `cmek status --live`, repair it, and check it with "
            "revalidate-keys/scheduled "
            f"(External keys: {ref.external_key_id}). Repeat the drill when it has recovered"
        )


def commands(key: CryptoKey) -> tuple[str, str]:
    """The commands that the person runs: disable the primary version, and enable it again."""
    assert key.primary is not None  # noqa: S101 - `check_scope` has seen it
    name = KeyName.parse(key.name)
    disable, enable = (on_version(name, verb, key.primary.id) for verb in ("disable", "enable"))
    return disable, enable


What = Literal["alert", "validation", "data plane"]
_TITLES: Final[dict[What, tuple[str, str]]] = {
    "alert": ("our alert", "our notice of recovery"),
    "validation": ("Anthropic's validation fails", "Anthropic's validation succeeds"),
    "data plane": ("the data plane refuses", "the data plane works"),
}


class Delay(FrozenModel):
    """One effect of a change, and when it was observed."""

    what: What
    at: datetime | None
    """None when it was not observed in time."""
    limit: timedelta
    """The longest time after the change until it should be observed."""
    by: str = ""
    """For an alert: the run that found it."""


class Phase(FrozenModel):
    """One change by the person, and its effects."""

    change: Literal["disabled", "enabled"]
    at: datetime
    """When the drill saw the version's new state; the change was at most one read earlier."""
    measured: tuple[Delay, ...]

    @property
    def passed(self) -> bool:
        """Whether all effects were observed in time."""
        return all(one.at is not None and one.at - self.at <= one.limit for one in self.measured)


class Drill(FrozenModel):
    """The whole drill."""

    workspace: str
    key_name: str
    external_key_id: str
    phases: tuple[Phase, ...]

    @property
    def passed(self) -> bool:
        """Whether all effects of both changes were observed in time."""
        return len(self.phases) == 2 and all(phase.passed for phase in self.phases)

    def with_phase(self, phase: Phase) -> Self:
        """The drill with this phase added."""
        return self.model_copy(update={"phases": (*self.phases, phase)})


def report(drill: Drill) -> str:
    """Markdown: pass or fail, and what happened when."""
    about = (
        f"Key {code(drill.key_name)}, external key {code(drill.external_key_id)}. A disabled key "
        "may work for up to an hour by Anthropic's documentation."
    )
    parts = [
        f"# Drill of {code(drill.workspace)}: {'passed' if drill.passed else 'FAILED'}",
        about,
        *(part for phase in drill.phases for part in _phase(phase)),
    ]
    return "\n\n".join(parts) + "\n"


def _phase(phase: Phase) -> Iterator[str]:
    yield f"## The primary version was {phase.change} at {_when(phase.at)}"
    head = ("what", "when", "after", "limit", "")
    yield table(head, (_row(one, phase) for one in phase.measured))


def _row(one: Delay, phase: Phase) -> tuple[str, ...]:
    title = _TITLES[one.what][phase.change == "enabled"]
    by = f", found by {escape(one.by)}" if one.by else ""
    if one.at is None:
        return (f"{title}{by}", "not seen", "", shown_time(one.limit), "✖")
    after = one.at - phase.at
    sign = "✓" if after <= one.limit else "✖"
    return (f"{title}{by}", _when(one.at), exact(after), shown_time(one.limit), sign)


def exact(duration: timedelta) -> str:
    """A duration to the second: `1 min 7 s`. Never negative: an effect may be seen first."""
    seconds = max(0, round(duration.total_seconds()))
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _when(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S %Z}"
