"""What tests may do to the sandbox beyond the services' own APIs, under `/_sandbox/`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sandbox import seed
from sandbox.identities import Identity
from sandbox.world import Fault, World

Body = TypeVar("Body", bound=BaseModel)
Given = dict[str, Any]
Action = Callable[[World, Given], Any]


class _ClockMove(BaseModel):
    model_config = ConfigDict(extra="forbid")

    advance_seconds: float


class _Reset(BaseModel):
    model_config = ConfigDict(extra="forbid")

    minimal: bool = False


class IdentityChange(BaseModel):
    """What an identity may do; a new `name` needs a `member` and gets a bearer token."""

    model_config = ConfigDict(extra="forbid")

    name: str
    member: str | None = None
    permissions: list[str] | str | None = None
    """Exactly these, `"all"`, or null for what the IAM policies grant; absent: as before."""
    deny: list[str] | None = None
    """Taken away however they were given; replaces the earlier list."""


def reset(world: World, given: Given) -> Any:  # noqa: ANN401
    """Make everything new again."""
    seed.reset(world, minimal=_Reset.model_validate(given).minimal)
    return {"workspaces": seed.workspace_states(world)}


def read_log(world: World, given: Given) -> Any:  # noqa: ANN401
    """Entries with a number above `after`."""
    after = int(given.get("after", 0))
    return [entry.to_json() for entry in world.log.entries if entry.number > after]


def clear_log(world: World, _: Given) -> Any:  # noqa: ANN401
    """Forget the log."""
    world.log.clear()
    return {}


def read_faults(world: World, _: Given) -> Any:  # noqa: ANN401
    """What is left of the fault script."""
    return [fault.model_dump() for fault in world.faults.script]


def add_fault(world: World, given: Given) -> Any:  # noqa: ANN401
    """Append one line to the fault script."""
    world.faults.add(Fault.model_validate(given))
    return {}


def clear_faults(world: World, _: Given) -> Any:  # noqa: ANN401
    """Forget the fault script."""
    world.faults.clear()
    return {}


def move_clock(world: World, given: Given) -> Any:  # noqa: ANN401
    """Advance, or with a negative number put back."""
    move = _ClockMove.model_validate(given)
    world.clock.advance(timedelta(seconds=move.advance_seconds))
    return {"now": world.clock.now().isoformat()}


def read_switches(world: World, _: Given) -> Any:  # noqa: ANN401
    """All switches."""
    return world.switches.model_dump(mode="json")


def change_switches(world: World, given: Given) -> Any:  # noqa: ANN401
    """Set the given switches, all or none."""
    return _assign(world.switches, given)


def read_constraints(world: World, _: Given) -> Any:  # noqa: ANN401
    """What the organization forbids."""
    return world.kms.constraints.model_dump(mode="json")


def change_constraints(world: World, given: Given) -> Any:  # noqa: ANN401
    """Set the given constraints, all or none."""
    return _assign(world.kms.constraints, given)


def change_identity(world: World, given: Given) -> Any:  # noqa: ANN401
    """Make or change an identity; answers with a bearer token for it."""
    change = IdentityChange.model_validate(given)
    identity = world.identities.by_name.get(change.name)
    if identity is None:
        if change.member is None:
            message = f"identity {change.name!r} does not exist; to make it, give `member`"
            raise ValueError(message)
        identity = world.identities.add(change.name, change.member)
    _apply(identity, change)
    token = world.identities.issue_token(identity)
    return {"name": identity.name, "member": identity.member, "token": token}


_ACTIONS: dict[str, dict[str, Action]] = {
    "reset": {"POST": reset},
    "log": {"GET": read_log, "DELETE": clear_log},
    "faults": {"GET": read_faults, "POST": add_fault, "DELETE": clear_faults},
    "clock": {"POST": move_clock},
    "switches": {"GET": read_switches, "PATCH": change_switches},
    "constraints": {"GET": read_constraints, "PATCH": change_constraints},
    "identities": {"POST": change_identity},
}


def control_routes(world: World) -> list[Route]:
    """All routes of the control API; its own calls are not logged."""
    return [
        Route(f"/_sandbox/{path}", _endpoint(world, action), methods=[method])
        for path, by_method in _ACTIONS.items()
        for method, action in by_method.items()
    ]


def _endpoint(world: World, action: Action) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        try:
            given = dict(request.query_params)
            if await request.body():
                given |= await request.json()
            with world.lock:
                answer = action(world, given)
        except ValueError as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        return JSONResponse(answer)

    return endpoint


def _assign(target: Body, changes: dict[str, Any]) -> dict[str, Any]:
    checked = type(target).model_validate(target.model_dump() | changes)
    for name in changes:
        setattr(target, name, getattr(checked, name))
    return target.model_dump(mode="json")


def _apply(identity: Identity, change: IdentityChange) -> None:
    if "permissions" in change.model_fields_set:
        wanted = change.permissions
        if wanted is None or wanted == "all":
            identity.permissions = "all" if wanted else None
        elif isinstance(wanted, list):
            identity.permissions = frozenset(wanted)
        else:
            message = f"permissions: {wanted!r} is neither a list nor 'all' nor null"
            raise ValueError(message)
    if change.deny is not None:
        identity.denied = set(change.deny)
