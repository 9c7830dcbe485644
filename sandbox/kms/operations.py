"""The calls of Cloud KMS: their table, their form over HTTP, and the IAM methods on rings and keys.

`served` and `permitted` register a handler in `METHODS`, which gRPC and HTTP both serve. A call's
name, service and types follow from the request type that its handler takes. Paths are written as
in the `google.api.http` annotations, with the kinds of resources in place of patterns.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from operator import attrgetter
from typing import Any, Final, TypeVar, get_type_hints

from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from starlette.routing import Route

from sandbox.errors import invalid, not_found
from sandbox.iam import allows, authorize, check_service, read_policy, write_policy
from sandbox.identities import Identity
from sandbox.kms.state import (
    PROJECT_IN_PATH,
    camel,
    canonical,
    from_json,
    kind_of,
    name_patterns,
    project_of,
    raw,
    to_json,
)
from sandbox.transport import GoogleCall, HttpMethod, google_endpoint
from sandbox.world import World

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")
Handler = Callable[[World, Identity, Asked], Answer]

_SERVICES: Final = {
    "google.cloud.kms_v1.types.service": "google.cloud.kms.v1.KeyManagementService",
    "google.iam.v1.iam_policy_pb2": "google.iam.v1.IAMPolicy",
    "google.cloud.location.locations_pb2": "google.cloud.location.Locations",
    "google.longrunning.operations_pb2": "google.longrunning.Operations",
    # a request that google-cloud-kms does not have yet
    "sandbox.kms.deletion": "google.cloud.kms.v1.KeyManagementService",
}
# Looser than the rules of names: a malformed name must reach its handler, which refuses it.
_PATHS: Final = name_patterns(PROJECT_IN_PATH, "[^/:]+", "[^/:]+", "[^/:]+")
_FIELD: Final = re.compile(r"\{([a-z_.]+)=([A-Za-z|]+)\}")


@dataclass(frozen=True, kw_only=True)
class KmsMethod(HttpMethod):
    """One call of Cloud KMS."""

    service: str
    """The gRPC service's full name."""
    request: type[Any]
    """proto-plus for Cloud KMS itself, plain protobuf for its mixins."""
    run: Handler[Any, Any]
    http: str
    field: str
    """The request field that the path gives, dotted: `crypto_key.name`."""
    body: str
    """The request field that the HTTP body holds; `*`: all of them."""


METHODS: Final[list[KmsMethod]] = []


def served(
    http: str, *, body: str = "", reads: bool = False, permission: str | None = None
) -> Callable[[Handler[Asked, Answer]], Handler[Asked, Answer]]:
    """Register a handler that checks its caller's permission itself.

    `body` names the request field in the HTTP body; a URL with a method (`:destroy`) does not need
    it. `reads` marks a POST that writes nothing.
    """

    def enter(run: Handler[Asked, Answer]) -> Handler[Asked, Answer]:
        # a handler takes world, caller and request: the third annotation is the request's type
        request: type[Any] = list(get_type_hints(run).values())[2]
        (field, _), *_ = _FIELD.findall(http)
        verb, _, path = http.partition(" ")
        METHODS.append(
            KmsMethod(
                verb=verb,
                id=request.__name__.removesuffix("Request"),
                service=_SERVICES[request.__module__],
                request=request,
                run=run,
                http=http,
                field=field,
                path=re.compile(_FIELD.sub(_pattern, path)),
                body="*" if verb == "POST" and "}:" in path else body,
                write=verb != "GET" and not reads,
                permission=permission,
            )
        )
        return run

    return enter


def permitted(
    permission: str, http: str, *, body: str = "", reads: bool = False, anyone: bool = False
) -> Callable[[Callable[[World, str, Asked], Answer]], Handler[Asked, Answer]]:
    """Register a handler that runs after its caller's permission was checked.

    It gets the canonical name of the resource in the path. With `anyone` the caller needs no
    permission, only a project that can use Cloud KMS.
    """
    (field, kind), *_ = _FIELD.findall(http)
    name_in = attrgetter(field)

    def enter(run: Callable[[World, str, Asked], Answer]) -> Handler[Asked, Answer]:
        @wraps(run)
        def checked(world: World, caller: Identity, request: Asked) -> Answer:
            name = canonical(world, name_in(request), kind, permission)
            if anyone:
                check_service(world, caller, name)
            else:
                authorize(world, caller, permission, name)
            return run(world, name, request)

        return served(http, body=body, reads=reads, permission=permission)(checked)

    return enter


def _pattern(match: re.Match[str]) -> str:
    return f"({'|'.join(_PATHS[kind] for kind in match[2].split('|'))})"


@served("GET /v1/{resource=KeyRing|CryptoKey}:getIamPolicy")
def get_iam_policy(
    world: World, caller: Identity, request: iam_policy_pb2.GetIamPolicyRequest
) -> policy_pb2.Policy:
    """The policy set on the resource itself, without what it inherits."""
    name = _authorized(world, caller, request.resource, "getIamPolicy")
    return read_policy(world, name, request.options.requested_policy_version)


@served("POST /v1/{resource=KeyRing|CryptoKey}:setIamPolicy")
def set_iam_policy(
    world: World, caller: Identity, request: iam_policy_pb2.SetIamPolicyRequest
) -> policy_pb2.Policy:
    """Replace the policy; answers with the stored one."""
    name = _authorized(world, caller, request.resource, "setIamPolicy")
    return write_policy(world, name, request.policy, project_of(world, name).number)


@served("POST /v1/{resource=KeyRing|CryptoKey}:testIamPermissions", reads=True)
def test_iam_permissions(
    world: World, caller: Identity, request: iam_policy_pb2.TestIamPermissionsRequest
) -> iam_policy_pb2.TestIamPermissionsResponse:
    """Which of the permissions the caller has; the call itself needs none."""
    name = _authorized(world, caller, request.resource, None)
    for permission in request.permissions:
        if "*" in permission or not permission.startswith("cloudkms."):
            raise invalid(f"Permission {permission} is not valid for this resource.")
    held = [one for one in request.permissions if allows(world, caller, one, name)]
    return iam_policy_pb2.TestIamPermissionsResponse(permissions=held)


def _authorized(world: World, caller: Identity, resource: str, verb: str | None) -> str:
    """The canonical name of an existing ring or key; without `verb` any caller may ask."""
    kind = kind_of(resource) or ""
    places: dict[str, tuple[str, dict[str, Any]]] = {
        "KeyRing": ("keyRings", world.kms.key_rings),
        "CryptoKey": ("cryptoKeys", world.kms.crypto_keys),
    }
    if kind not in places:
        raise invalid(f"'{resource}' has no IAM policy in Cloud KMS.")
    collection, stored = places[kind]
    permission = f"cloudkms.{collection}.{verb}" if verb else "cloudkms.cryptoKeys.get"
    name = canonical(world, resource, kind, permission)
    if verb:
        authorize(world, caller, permission, name)
    else:
        check_service(world, caller, name)
    if name not in stored:
        raise not_found(kind, name)
    return name


_ENUM_NUMBERS: Final = "json;enum-encoding=int"
_SYSTEM: Final = {
    "alt", "$alt", "$.xgafv", "callback", "fields", "key", "oauth_token", "prettyPrint",
    "quotaUser", "upload_protocol", "uploadType", "access_token",
}  # fmt: skip


def kms_routes(world: World) -> list[Route]:
    """Everything below `/v1/projects/…/locations`."""
    serve = google_endpoint(
        world, "kms", METHODS, _run_http, lambda: world.switches.kms_latency_seconds
    )
    paths = ("/v1/projects/{project}/locations", "/v1/projects/{project}/locations/{rest:path}")
    return [Route(path, serve, methods=["GET", "POST", "PATCH", "PUT", "DELETE"]) for path in paths]


def _run_http(method: KmsMethod, call: GoogleCall) -> dict[str, Any]:
    alt = call.query.get("$alt") or call.query.get("alt", "json")
    if alt not in {"json", _ENUM_NUMBERS}:
        raise invalid(f"alt={alt} is not served.")
    message = _message(method, call)
    if method.write:
        call.message.update(to_json(message))
    response = method.run(call.world, call.caller, message)
    return to_json(response, enums_as_ints=alt == _ENUM_NUMBERS)


def _message(method: KmsMethod, call: GoogleCall) -> Any:  # noqa: ANN401
    """The request message from path, query and body, as the annotations assign the fields."""
    fields: dict[str, Any] = {}
    if method.body == "*":
        fields |= call.body
    elif method.body:
        fields[method.body] = dict(call.body)
    elif call.body:
        raise invalid(f"{method.id} takes no request body.")
    descriptor = raw(method.request()).DESCRIPTOR
    for name, text in call.query.multi_items():
        if name not in _SYSTEM:
            _put(fields, *_query_field(descriptor, name, text))
    _put(fields, method.field.split("."), call.match[1])
    try:
        return from_json(method.request, fields)
    except json_format.ParseError as error:
        raise invalid(f"Invalid JSON payload received. {error}") from error


def _query_field(descriptor: Descriptor | None, name: str, text: str) -> tuple[list[str], Any]:
    """A query parameter's path of field names and its value as JSON."""
    path: list[str] = []
    field: FieldDescriptor | None = None
    for part in name.split("."):
        # Clients use both spellings of a field: protobuf's and JSON's.
        named = descriptor and (
            descriptor.fields_by_camelcase_name.get(part) or descriptor.fields_by_name.get(part)
        )
        if not named:
            raise invalid(
                f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.'
            )
        field = named
        path.append(field.name)
        descriptor = field.message_type
    if field is not None and field.type == FieldDescriptor.TYPE_BOOL:
        return path, {"true": True, "false": False}.get(text, text)
    if path[-1] == "update_mask":
        return path, ",".join(camel(one) for one in text.split(","))
    return path, text


def _put(fields: dict[str, Any], path: list[str], value: Any) -> None:  # noqa: ANN401
    *parents, last = path
    for parent in parents:
        fields = fields.setdefault(parent, {})
    fields[last] = value
