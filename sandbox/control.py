"""The control API under `/_sandbox/`: what tests read and change besides the services' own APIs.

Every call needs the `control_token` of the ready line. `SandboxOriginGuard` protects the services'
APIs too, because a Google caller without a token is treated as the administrator.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from cmek.own_origin import OwnOrigin
from sandbox import seed
from sandbox.world import Fault, World

Given = dict[str, Any]
Action = Callable[[World, Given], Any]

TOKEN_HEADER: Final = "x-sandbox-token"


class SandboxOriginGuard:
    """ASGI middleware: answers 403 to a request that another origin's page makes a browser send."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it with the reason."""
        is_http = scope["type"] == "http"
        problem = OwnOrigin().refusal(Headers(scope=scope)) if is_http else None
        if problem is None:
            await self._app(scope, receive, send)
        else:
            await JSONResponse({"error": problem}, status_code=403)(scope, receive, send)


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _ClockMove(_Given):
    advance_seconds: float


class _Reset(_Given):
    minimal: bool = False


class IdentityChange(_Given):
    """What an identity may do; a new `name` needs a `member` and gets a bearer token."""

    name: str
    member: str | None = None
    permissions: list[str] | Literal["all"] | None = None
    """Exactly these, `"all"`, or null for what the IAM policies grant; absent: unchanged."""
    deny: list[str] | None = None
    """Denied, whatever grants them; replaces the earlier list."""


def _reset(world: World, given: Given) -> Any:  # noqa: ANN401
    seed.reset(world, minimal=_Reset.model_validate(given).minimal)
    return {"workspaces": seed.workspace_states(world)}


def _read_log(world: World, given: Given) -> Any:  # noqa: ANN401
    after = int(given.get("after", 0))
    return [entry.to_json() for entry in world.log.entries if entry.number > after]


def _move_clock(world: World, given: Given) -> Any:  # noqa: ANN401
    world.clock.advance(timedelta(seconds=_ClockMove.model_validate(given).advance_seconds))
    return {"now": world.clock.now().isoformat()}


def _change_identity(world: World, given: Given) -> Any:  # noqa: ANN401
    change = IdentityChange.model_validate(given)
    identity = world.identities.by_name.get(change.name)
    if identity is None:
        if change.member is None:
            message = f"identity {change.name!r} does not exist; to make it, give `member`"
            raise ValueError(message)
        identity = world.identities.add(change.name, change.member)
    if "permissions" in change.model_fields_set:
        wanted = change.permissions
        identity.permissions = frozenset(wanted) if isinstance(wanted, list) else wanted
    if change.deny is not None:
        identity.denied = set(change.deny)
    token = world.identities.issue_token(identity)
    return {"name": identity.name, "member": identity.member, "token": token}


def _assign(target: BaseModel, changes: Given) -> Given:
    """Set the given fields, all or none; without any, only read them."""
    checked = type(target).model_validate(target.model_dump() | changes)
    for name in changes:
        setattr(target, name, getattr(checked, name))
    return target.model_dump(mode="json")


_ACTIONS: Final[dict[str, Action]] = {
    "POST reset": _reset,
    "GET log": _read_log,
    "DELETE log": lambda world, _: world.log.clear(),
    "GET faults": lambda world, _: [fault.model_dump() for fault in world.faults.script],
    "POST faults": lambda world, given: world.faults.add(Fault.model_validate(given)),
    "DELETE faults": lambda world, _: world.faults.clear(),
    "POST clock": _move_clock,
    "GET switches": lambda world, _: _assign(world.switches, {}),
    "PATCH switches": lambda world, given: _assign(world.switches, given),
    "GET constraints": lambda world, _: _assign(world.kms.constraints, {}),
    "PATCH constraints": lambda world, given: _assign(world.kms.constraints, given),
    "GET google": lambda world, _: _assign(world.google, {}),
    "PATCH google": lambda world, given: _assign(world.google, given),
    "POST identities": _change_identity,
    "GET signals": lambda world, _: world.signals.to_json(),
    "PATCH signals": lambda world, given: _assign(world.signals.push, given),
    "GET audit": lambda world, _: list(world.signals.audit),
}


def control_routes(world: World) -> list[Route]:
    """All routes of the control API; its calls are not in the request log."""
    named = ((name.split(), action) for name, action in _ACTIONS.items())
    return [
        Route(f"/_sandbox/{path}", partial(_serve, world, action), methods=[method])
        for (method, path), action in named
    ]


async def _serve(world: World, action: Action, request: Request) -> Response:
    given_token = request.headers.get(TOKEN_HEADER, "").encode("latin-1")
    # bytes, because compare_digest raises for a text that is not ASCII
    if not hmac.compare_digest(given_token, world.control_token.encode()):
        problem = f"the header {TOKEN_HEADER} must hold the `control_token` of the ready line"
        return JSONResponse({"error": problem}, status_code=403)
    try:
        given = dict(request.query_params)
        if await request.body():
            given |= await request.json()
        with world.lock:
            answer = action(world, given)
            if request.method != "GET":
                world.signals.changed()
    except ValueError as error:
        return JSONResponse({"error": str(error)}, status_code=400)
    return JSONResponse({} if answer is None else answer)
