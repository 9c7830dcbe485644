"""Cloud KMS over HTTP, as gcloud and google-cloud-kms' REST transport speak it."""

from __future__ import annotations

import json
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.errors import GoogleError, invalid
from sandbox.identities import bearer_of
from sandbox.kms.operations import METHODS, Method
from sandbox.kms.state import from_json, raw, to_json
from sandbox.transport import HttpCall, answer
from sandbox.world import World

_ENUM_NUMBERS: Final = "json;enum-encoding=int"
_SYSTEM: Final = {
    "alt", "$alt", "$.xgafv", "callback", "fields", "key", "oauth_token", "prettyPrint",
    "quotaUser", "upload_protocol", "uploadType", "access_token",
}  # fmt: skip
_VERBS: Final = ["GET", "POST", "PATCH", "PUT", "DELETE"]


def kms_routes(world: World) -> list[Route]:
    """Everything below `/v1/projects/…/locations`."""

    async def serve(request: Request) -> Response:
        return await kms_rest(world, request)

    paths = ("/v1/projects/{project}/locations", "/v1/projects/{project}/locations/{rest:path}")
    return [Route(path, serve, methods=_VERBS) for path in paths]


async def kms_rest(world: World, request: Request) -> Response:
    """Answer one request to Cloud KMS."""
    method, resource = _route(request)
    body, problem = _body(await request.body())
    token = bearer_of(request.headers.get("authorization"))

    def handler() -> dict[str, Any]:
        caller = world.identities.resolve(token)
        if problem or method is None:
            raise problem or _no_such_method(request)
        alt = request.query_params.get("$alt") or request.query_params.get("alt", "json")
        if alt not in {"json", _ENUM_NUMBERS}:
            raise invalid(f"alt={alt} is not served.")
        message = _message(method, resource, body, request)
        response = method.run(world, caller, message)
        return to_json(response, enums_as_ints=alt == _ENUM_NUMBERS)

    call = HttpCall(
        service="kms",
        call=method.rpc if method else "Unserved",
        resource=resource,
        caller=world.identities.name_of(token),
        write=method.write if method else request.method != "GET",
        handler=handler,
        body=body,
        before=lambda: world.switches.kms_latency_seconds,
    )
    return await answer(world, request, call)


def _route(request: Request) -> tuple[Method | None, str]:
    for method in METHODS:
        if method.verb == request.method and (match := method.path.fullmatch(request.url.path)):
            return method, match[1]
    return None, request.url.path


def _body(content: bytes) -> tuple[dict[str, Any], GoogleError | None]:
    try:
        body = json.loads(content) if content else {}
    except ValueError as error:
        return {}, invalid(f"Invalid JSON payload received. {error}")
    if not isinstance(body, dict):
        return {}, invalid("Invalid JSON payload received. Expected an object.")
    return body, None


def _message(method: Method, resource: str, body: dict[str, Any], request: Request) -> Any:  # noqa: ANN401
    fields: dict[str, Any] = {}
    if method.body == "*":
        fields |= body
    elif method.body:
        fields[method.body] = dict(body)
    elif body:
        raise invalid(f"{method.rpc} takes no request body.")
    descriptor = raw(method.request()).DESCRIPTOR
    for name, text in request.query_params.multi_items():
        if name not in _SYSTEM:
            _put(fields, *_query_field(descriptor, name, text))
    _put(fields, method.field.split("."), resource)
    try:
        return from_json(method.request, fields)
    except json_format.ParseError as error:
        raise invalid(f"Invalid JSON payload received. {error}") from error


def _query_field(descriptor: Descriptor, name: str, text: str) -> tuple[list[str], Any]:
    """A query parameter's path of field names and its value as JSON."""
    path: list[str] = []
    field: FieldDescriptor | None = None
    for part in name.split("."):
        field = _find_field(descriptor, part)
        if field is None:
            raise invalid(
                f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.'
            )
        path.append(field.name)
        descriptor = field.message_type
    if field is not None and field.type == FieldDescriptor.TYPE_BOOL:
        return path, {"true": True, "false": False}.get(text, text)
    if path[-1] == "update_mask":
        return path, ",".join(_camel(one) for one in text.split(","))
    return path, text


def _find_field(descriptor: Descriptor | None, name: str) -> FieldDescriptor | None:
    if descriptor is None:
        return None
    return descriptor.fields_by_camelcase_name.get(name) or descriptor.fields_by_name.get(name)


def _camel(path: str) -> str:
    head, *rest = path.split("_")
    return head + "".join(word[:1].upper() + word[1:] for word in rest)


def _put(fields: dict[str, Any], path: list[str], value: Any) -> None:  # noqa: ANN401
    *parents, last = path
    for parent in parents:
        fields = fields.setdefault(parent, {})
    fields[last] = value


def _no_such_method(request: Request) -> GoogleError:
    return GoogleError(
        "UNIMPLEMENTED", f"The sandbox does not serve {request.method} {request.url.path}."
    )
