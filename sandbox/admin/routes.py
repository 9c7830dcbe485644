"""The Admin API's paths, each with the name that its documentation gives the call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.admin import external_keys as admin_external_keys
from sandbox.admin import workspaces as admin_workspaces
from sandbox.admin.api import AdminCall, AdminHandler, authenticate, caller_name, parse_json
from sandbox.admin.external_keys import waiting_seconds
from sandbox.admin.state import new_id
from sandbox.errors import AnthropicError
from sandbox.transport import HttpCall, answer
from sandbox.world import World


@dataclass(frozen=True, slots=True)
class Operation:
    """One documented call."""

    name: str
    method: str
    path: str
    handler: AdminHandler
    write: bool = False
    validates: bool = False
    """Whether it may wait for the key management service."""


def me(call: AdminCall) -> dict[str, Any]:
    """The organization of the credential."""
    organization = call.state.organization
    return {"id": organization.id, "type": "organization", "name": organization.name}


def nothing_here(_: AdminCall) -> dict[str, Any]:
    """Any other path or method."""
    raise AnthropicError(404, "Not found.")


KEYS, KEY = "/v1/organizations/external_keys", "/v1/organizations/external_keys/{target}"
SPACES, SPACE = "/v1/organizations/workspaces", "/v1/organizations/workspaces/{target}"

OPERATIONS: Final = (
    Operation("organization.me", "GET", "/v1/organizations/me", me),
    Operation("external_keys.create", "POST", KEYS, admin_external_keys.create, write=True),
    Operation("external_keys.list", "GET", KEYS, admin_external_keys.list_),
    Operation("external_keys.retrieve", "GET", KEY, admin_external_keys.retrieve),
    Operation("external_keys.update", "POST", KEY, admin_external_keys.update, write=True),
    Operation("external_keys.delete", "DELETE", KEY, admin_external_keys.delete, write=True),
    Operation(
        "external_keys.validate",
        "POST",
        f"{KEY}/validate",
        admin_external_keys.validate,
        validates=True,
    ),
    Operation("workspaces.list", "GET", SPACES, admin_workspaces.list_),
    Operation("workspaces.retrieve", "GET", SPACE, admin_workspaces.retrieve),
    Operation(
        "workspaces.create", "POST", SPACES, admin_workspaces.create, write=True, validates=True
    ),
    Operation(
        "workspaces.update", "POST", SPACE, admin_workspaces.update, write=True, validates=True
    ),
    Operation(
        "workspaces.archive", "POST", f"{SPACE}/archive", admin_workspaces.archive, write=True
    ),
)
ANY_METHOD: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")


def admin_routes(world: World) -> list[Route]:
    """All routes; what is under `/v1/organizations` and unknown answers 404 in the API's form."""
    routes = [Route(one.path, _endpoint(world, one), methods=[one.method]) for one in OPERATIONS]
    unknown = Operation("unknown", "", "", nothing_here)
    path = "/v1/organizations/{target:path}"
    return [*routes, Route(path, _endpoint(world, unknown), methods=list(ANY_METHOD))]


def _endpoint(world: World, operation: Operation) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        return await answer(
            world, request, _http_call(world, operation, request, await request.body())
        )

    return endpoint


def _http_call(world: World, operation: Operation, request: Request, raw: bytes) -> HttpCall:
    try:
        body, refusal = parse_json(raw), None
    except AnthropicError as error:
        body, refusal = {}, error
    target = str(request.path_params.get("target", ""))
    seen: list[str | None] = [None]

    def before() -> float:
        key = world.admin.external_keys.get(str(body.get("external_key_id")))
        seen[0] = key.updated_at if key else None
        attaches = "external_key_id" in body or operation.name == "external_keys.validate"
        return waiting_seconds(world) if operation.validates and attaches else 0.0

    def handler() -> dict[str, Any]:
        authenticate(world, request.headers)
        if refusal is not None:
            raise refusal
        return operation.handler(AdminCall(world, request.query_params, body, target, seen[0]))

    return HttpCall(
        service="admin",
        call=operation.name,
        resource=target or _named(body),
        caller=caller_name(world, request.headers),
        write=operation.write,
        handler=handler,
        body=body,
        headers=response_headers(world),
        before=before,
    )


def response_headers(world: World) -> dict[str, str]:
    """What every answer carries."""
    return {
        "request-id": new_id("req"),
        "anthropic-organization-id": world.admin.organization.id,
    }


def _named(body: dict[str, Any]) -> str:
    config = body.get("provider_config")
    key_name = config.get("key_name") if isinstance(config, dict) else None
    return str(key_name or body.get("name") or "")
