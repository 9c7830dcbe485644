"""The Admin API: the table of its calls, authentication, request bodies and paging.

External keys are paged by an opaque `page` cursor, workspaces by `after_id` and `before_id`.
Sources: https://platform.claude.com/docs/en/api/admin,
https://platform.claude.com/docs/en/manage-claude/admin-api-keys (both headers work with an Admin
key; an ordinary key does not) and https://platform.claude.com/docs/en/api/versioning
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Final, Literal, Protocol, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import Headers, QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.admin.state import (
    AdminState,
    DataResidency,
    Geo,
    InferenceGeo,
    ProviderConfig,
    WebhookEvent,
    new_id,
    timestamp,
)
from sandbox.errors import AnthropicError
from sandbox.transport import ServedCall, answer
from sandbox.world import World


@dataclass(slots=True)
class AuthenticatedCall:
    """A request that has been authenticated and parsed; handlers run under the world's lock."""

    world: World
    query: QueryParams
    body: dict[str, Any]
    target: str
    """The identifier in the path."""
    seen_version: str | None
    """`updated_at` of the external key to attach, taken before the call began to wait."""
    headers: Headers

    @property
    def state(self) -> AdminState:
        """The organization's data."""
        return self.world.admin

    def now(self) -> str:
        """The sandbox's time as the API writes it."""
        return timestamp(self.world.clock.now())


AdminHandler = Callable[[AuthenticatedCall], dict[str, Any]]

BASE: Final = "/v1/organizations"
ANY: Final = ["GET", "POST", "PUT", "PATCH", "DELETE"]
LONGEST_WAIT_SECONDS: Final = 30.0


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


OPERATIONS: Final[list[Operation]] = []


def operation(
    name: str, http: str, *, write: bool = False, validates: bool = False
) -> Callable[[AdminHandler], AdminHandler]:
    """Register a handler under the name that the documentation gives the call."""

    def enter(handler: AdminHandler) -> AdminHandler:
        method, path = http.split()
        OPERATIONS.append(Operation(name, method, BASE + path, handler, write, validates))
        return handler

    return enter


@operation("organization.me", "GET /me")
def me(call: AuthenticatedCall) -> dict[str, Any]:
    """The organization of the credential."""
    organization = call.state.organization
    return {"id": organization.id, "type": "organization", "name": organization.name}


def _unknown(_: AuthenticatedCall) -> dict[str, Any]:
    raise AnthropicError(404, "Not found.")


def admin_routes(world: World) -> list[Route]:
    """All routes; an unknown path under `/v1/organizations` answers 404 in the API's form."""
    unknown = Operation("unknown", "", f"{BASE}/{{target:path}}", _unknown)
    return [
        Route(one.path, partial(_serve, world, one), methods=[one.method] if one.method else ANY)
        for one in (*OPERATIONS, unknown)
    ]


async def _serve(world: World, served: Operation, request: Request) -> Response:
    call = _served_call(world, served, request, await request.body())
    return await answer(world, request, call)


def _served_call(world: World, served: Operation, request: Request, raw: bytes) -> ServedCall:
    try:
        body, refusal = parse_json(raw), None
    except AnthropicError as error:
        body, refusal = {}, error
    target = str(request.path_params.get("target", ""))
    seen: str | None = None

    def latency() -> float:
        # The key's version is noted before the wait: an edit during the wait is a conflict.
        nonlocal seen
        key = world.admin.external_keys.get(str(body.get("external_key_id")))
        seen = key.updated_at if key else None
        attaches = "external_key_id" in body or served.name == "external_keys.validate"
        if not (served.validates and attaches):
            return 0.0
        return min(world.switches.validate_seconds, LONGEST_WAIT_SECONDS)

    def handler() -> dict[str, Any]:
        # authentication comes first, even for a body that is not JSON
        authenticate(world, request.headers)
        if refusal is not None:
            raise refusal
        return served.handler(
            AuthenticatedCall(world, request.query_params, body, target, seen, request.headers)
        )

    return ServedCall(
        service="admin",
        name=served.name,
        resource=target or _named(body),
        caller=caller_name(world, request.headers),
        write=served.write,
        handler=handler,
        body=body,
        headers=response_headers(world),
        latency=latency,
    )


def response_headers(world: World) -> dict[str, str]:
    """The headers of every response."""
    organization_id = world.admin.organization.id
    return {"request-id": new_id("req"), "anthropic-organization-id": organization_id}


def _named(body: dict[str, Any]) -> str:
    config = body.get("provider_config")
    key_name = config.get("key_name") if isinstance(config, dict) else None
    return str(key_name or body.get("name") or "")


API_VERSIONS: Final = ("2023-06-01", "2026-10-21")


def caller_name(world: World, headers: Headers) -> str:
    """The caller's name in the log: its kind and id, never its secret."""
    credential = world.admin.credentials.get(_secret(headers) or "")
    return f"{credential.kind}:{credential.id}" if credential else "unknown"


def authenticate(world: World, headers: Headers) -> None:
    """Raise 401 for an invalid credential, 403 for an ordinary key, 400 for an invalid version."""
    secret = _secret(headers)
    if secret is None:
        raise AnthropicError(401, "x-api-key header is required")
    credential = world.admin.credentials.get(secret)
    if credential is None:
        header = "x-api-key" if headers.get("x-api-key") else "bearer token"
        raise AnthropicError(401, f"invalid {header}")
    # an Admin key works in both headers, a federated token as a bearer token only
    if credential.kind == "federated_token" and headers.get("x-api-key"):
        raise AnthropicError(401, "invalid x-api-key")
    if credential.expires_at and datetime.fromisoformat(credential.expires_at) <= world.clock.now():
        raise AnthropicError(401, "The credential has expired.")
    if credential.kind == "workspace_key":
        raise AnthropicError(403, "The credential may not use this endpoint.")
    version = headers.get("anthropic-version")
    if version not in API_VERSIONS:
        problem = "header is required" if version is None else f"{version!r} is not a version"
        raise AnthropicError(400, f"anthropic-version: {problem}")


def _secret(headers: Headers) -> str | None:
    if key := headers.get("x-api-key"):
        return key
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


Body = TypeVar("Body", bound=BaseModel)


def _unreserved(tag: str) -> str:
    if tag.startswith("anthropic"):
        raise ValueError("tags that start with anthropic are reserved")
    return tag


TagName = Annotated[str, AfterValidator(_unreserved)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class CreateExternalKey(_Body):
    """`external_keys.create`."""

    provider_config: ProviderConfig
    display_name: str | None = Field(default=None, min_length=1, max_length=255)
    geo: Geo = "us"
    user_profile_id: str | None = None


class UpdateExternalKey(_Body):
    """`external_keys.update`; omitted fields keep their values."""

    provider_config: ProviderConfig | None = None
    display_name: str | None = Field(default=None, min_length=1, max_length=255)
    geo: Geo | None = None


class CreateWorkspace(_Body):
    """`workspaces.create`."""

    name: str = Field(min_length=1, max_length=255)
    external_key_id: str | None = None
    data_residency: DataResidency | None = None
    tags: dict[TagName, str] = Field(default_factory=dict)
    user_profile_id: str | None = None


class UpdateResidency(_Body):
    """The two fields of the data residency that can change."""

    allowed_inference_geos: str | list[InferenceGeo] | None = None
    default_inference_geo: InferenceGeo | None = None


class UpdateWorkspace(_Body):
    """`workspaces.update`; null removes a tag, but is refused for the key: a key stays attached."""

    name: str = Field(default="", min_length=1, max_length=255)
    external_key_id: str = Field(default="", min_length=1)
    data_residency: UpdateResidency | None = None
    tags: dict[TagName, str | None] = Field(default_factory=dict)
    user_profile_id: str | None = None


class CreateWebhook(_Body):
    """`webhooks.create`."""

    url: str
    enabled_events: list[WebhookEvent] = Field(min_length=1)
    name: str = ""
    description: str = ""


class UpdateWebhook(_Body):
    """`webhooks.update`; an empty list of events changes nothing."""

    url: str = ""
    enabled_events: list[WebhookEvent] = Field(default_factory=list)
    name: str = ""
    description: str = ""
    state: Literal["enabled", "disabled"] = "enabled"


def parse_json(raw: bytes) -> dict[str, Any]:
    """The request body as an object; an empty body is `{}`. Raises 400 for anything else."""
    try:
        body = json.loads(raw or b"{}")
    except ValueError as error:
        raise AnthropicError(400, "The request body is not valid JSON.") from error
    if not isinstance(body, dict):
        raise AnthropicError(400, "The request body must be a JSON object.")
    return body


def parse_body(model: type[Body], body: dict[str, Any]) -> Body:
    """The body as `model`. Raises 400, naming the first field that is wrong."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = [str(part) for part in first["loc"] if part not in {"gcp", "aws", "azure"}]
        text = first["msg"][:1].lower() + first["msg"][1:]
        raise AnthropicError(400, f"{'.'.join(where)}: {text}") from error


def integer(query: QueryParams, name: str, default: int, largest: int) -> int:
    """An integer parameter from 1 to `largest`. Raises 400 for any other value."""
    text = query.get(name, str(default))
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= largest:
        raise AnthropicError(400, f"{name}: must be a number from 1 to {largest}")
    return int(text)


def flag(query: QueryParams, name: str) -> bool:
    """A boolean parameter, false when absent. Raises 400 unless it is `true` or `false`."""
    text = query.get(name, "false")
    if text not in {"true", "false"}:
        raise AnthropicError(400, f"{name}: must be true or false")
    return text == "true"


def cursor(sequence: int) -> str:
    """An opaque cursor for a position in the order of creation."""
    return base64.urlsafe_b64encode(f"before:{sequence}".encode()).decode().rstrip("=")


def read_cursor(text: str) -> int:
    """The position in a cursor. Raises 400 for a cursor that this API did not make."""
    try:
        plain = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        word, _, number = plain.decode("ascii").partition(":")
        if word == "before" and cursor(int(number)) == text:
            return int(number)
    except (ValueError, binascii.Error):
        pass
    raise AnthropicError(400, "page: not a cursor that this API returned")


class Listed(Protocol):
    """An object that can be paged by its id."""

    id: str

    def render(self) -> dict[str, Any]:
        """The object as the API returns it."""


Item = TypeVar("Item", bound=Listed)


def page_of(
    ordered: list[Item],
    query: QueryParams,
    limit: int,
    visible: Callable[[Item], bool],
) -> dict[str, Any]:
    """One page after `after_id` or before `before_id`. Raises 400 for both or an unknown id."""
    after, before = query.get("after_id"), query.get("before_id")
    if after and before:
        raise AnthropicError(400, "after_id and before_id cannot be used together")
    # places of all items, not only of visible ones: a cursor may have been archived meanwhile
    places = {item.id: place for place, item in enumerate(ordered)}
    for name, given in (("after_id", after), ("before_id", before)):
        if given and given not in places:
            raise AnthropicError(400, f"{name}: no such object")
    part = ordered[: places[before]] if before else ordered[places[after] + 1 if after else 0 :]
    found = [item for item in part if visible(item)]
    data = [item.render() for item in (found[-limit:] if before else found[:limit])]
    return {
        "data": data,
        "has_more": len(found) > limit,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }
