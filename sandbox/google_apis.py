"""The Google APIs that only the checks read, all on the sandbox's one HTTP port."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sandbox import google_resources as google_organization
from sandbox import google_resources as google_projects
from sandbox.errors import GoogleError, invalid
from sandbox.google_resources import Call, Method
from sandbox.google_state import Json
from sandbox.identities import bearer_of
from sandbox.transport import HttpCall, answer
from sandbox.world import World

METHODS = (*google_projects.PROJECT_METHODS, *google_organization.ORGANIZATION_METHODS)

PATHS = (
    "/v1/projects/{project}:getAncestry",
    "/v1/projects/{project}/billingInfo",
    "/v1/projects/{project}/services/{service}",
    "/v1/projects/{key:path}/protectedResourcesSummary",
    "/v1/accessPolicies{rest:path}",
    "/v2/{rest:path}",
    "/v3/{rest:path}",
)
"""Goes before the routes of Cloud KMS: one path lies below a crypto key."""


def google_routes(world: World) -> list[Route]:
    """The APIs, and `/_sandbox/google` to set what they answer."""

    async def serve(request: Request) -> Response:
        return await _serve(world, request)

    async def state(request: Request) -> Response:
        return await _state(world, request)

    routes = [Route(path, serve, methods=["GET", "POST"]) for path in PATHS]
    return [Route("/_sandbox/google", state, methods=["GET", "PATCH"]), *routes]


async def _serve(world: World, request: Request) -> Response:
    method, names = _route(request)
    body, problem = _body(await request.body())
    token = bearer_of(request.headers.get("authorization"))

    def handler() -> Json:
        caller = world.identities.resolve(token)
        if problem or method is None:
            raise problem or _unserved(request)
        return method.answer(Call(world, caller, names, dict(request.query_params), body))

    call = HttpCall(
        service="google",
        call=method.id if method else "Unserved",
        resource=names.get("resource", request.url.path),
        caller=world.identities.name_of(token),
        write=method.write if method else request.method != "GET",
        handler=handler,
        body=body,
        before=lambda: world.google.latency_seconds,
    )
    return await answer(world, request, call)


async def _state(world: World, request: Request) -> Response:
    changes: dict[str, Any] = json.loads(await request.body() or b"{}")
    with world.lock:
        try:
            merged = type(world.google).model_validate(world.google.model_dump() | changes)
        except ValueError as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        if changes:
            world.google = merged
        return JSONResponse(world.google.model_dump(mode="json"))


def _route(request: Request) -> tuple[Method | None, dict[str, str]]:
    for method in METHODS:
        if method.verb == request.method and (match := method.path.fullmatch(request.url.path)):
            return method, match.groupdict()
    return None, {}


def _body(content: bytes) -> tuple[Json, GoogleError | None]:
    try:
        body = json.loads(content or b"{}")
    except ValueError:
        body = None
    if isinstance(body, dict):
        return body, None
    return {}, invalid("Invalid JSON payload received.")


def _unserved(request: Request) -> GoogleError:
    text = f"The sandbox does not serve {request.method} {request.url.path}."
    return GoogleError("UNIMPLEMENTED", text)
