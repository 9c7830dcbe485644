"""One call of the Admin API on its way to a handler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import QueryParams

from sandbox.admin_ids import timestamp
from sandbox.admin_state import AdminState
from sandbox.world import World


@dataclass(slots=True)
class AdminCall:
    """A request that has been authenticated and parsed; handlers run under the world's lock."""

    world: World
    query: QueryParams
    body: dict[str, Any] = field(default_factory=dict)
    target: str = ""
    """The identifier in the path."""
    seen_version: str | None = None
    """`updated_at` of the external key to attach, taken before the call began to wait."""

    @property
    def state(self) -> AdminState:
        """The organization's data."""
        return self.world.admin

    def now(self) -> str:
        """The sandbox's time as the API writes it."""
        return timestamp(self.world.clock.now())


AdminHandler = Callable[[AdminCall], dict[str, Any]]
