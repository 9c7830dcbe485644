"""Google's side of tokens over HTTP: `/token`, its public keys, and a machine's metadata server.

Access and identity tokens of Google expire by the machine's time, as google-auth decides by that
when to renew them.

Workload identity: a Google identity token buys a token for the Admin API.

The assertion expires by the machine's time, as all of Google's tokens here; the token that it buys
expires by the sandbox's clock.

Source: https://platform.claude.com/docs/en/manage-claude/wif-reference
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final
from urllib.parse import parse_qsl
from uuid import UUID

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from sandbox.admin.api import parse_json
from sandbox.admin.routes import response_headers
from sandbox.admin.state import Credential, FederationRule
from sandbox.errors import AnthropicError
from sandbox.identities import GOOGLE_ISSUER, JWT_BEARER, LIFETIME_SECONDS, TokenRefusedError
from sandbox.transport import HttpCall, answer
from sandbox.world import World

METADATA_HEADER: Final = {"Metadata-Flavor": "Google"}
METADATA_ACCOUNTS: Final = "/computeMetadata/v1/instance/service-accounts"
CLOUD_SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"


def identity_routes(world: World) -> list[Route]:
    """What google-auth asks, by a credentials file's `token_uri` or by `GCE_METADATA_HOST`."""
    return [
        Route("/token", _google_token(world), methods=["POST"]),
        Route("/oauth2/v3/certs", _google_keys(world), methods=["GET"]),
        Route("/", _metadata_ping, methods=["GET"]),
        Route(f"{METADATA_ACCOUNTS}/{{account}}/{{what:path}}", _metadata(world), methods=["GET"]),
    ]


def _google_token(world: World) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        form = dict(parse_qsl((await request.body()).decode("utf-8", "replace")))
        refusals: list[TokenRefusedError] = []

        def handler() -> dict[str, Any]:
            try:
                return world.identities.token_endpoint(form)
            except TokenRefusedError as error:
                refusals.append(error)
                return error.to_json()

        call = HttpCall(
            service="oauth",
            call="google.token",
            resource="",
            caller="unknown",
            write=False,
            handler=handler,
            body={"grant_type": form.get("grant_type")},
        )
        response = await answer(world, request, call)
        if refusals and response.status_code == 200:
            response.status_code = 400
        return response

    return endpoint


def _google_keys(world: World) -> Callable[[Request], Any]:
    async def endpoint(_: Request) -> Response:
        return JSONResponse(world.identities.key.jwks())

    return endpoint


async def _metadata_ping(_: Request) -> Response:
    return PlainTextResponse("computeMetadata/\n", headers=METADATA_HEADER)


def _metadata(world: World) -> Callable[[Request], Any]:
    """The metadata server of a machine that runs as the onboarding service account."""

    async def endpoint(request: Request) -> Response:
        if request.headers.get("metadata-flavor") != "Google":
            return PlainTextResponse("Missing Metadata-Flavor:Google header.", status_code=403)
        identity, audience = world.identities.onboarding, request.query_params.get("audience")
        match request.path_params["what"]:
            case "":
                facts = {"aliases": ["default"], "email": identity.email, "scopes": [CLOUD_SCOPE]}
                return JSONResponse(facts, headers=METADATA_HEADER)
            case "token":
                answer = {
                    "access_token": world.identities.issue_token(identity),
                    "expires_in": LIFETIME_SECONDS,
                    "token_type": "Bearer",
                }
                return JSONResponse(answer, headers=METADATA_HEADER)
            case "identity" if audience:
                token = world.identities.identity_token(identity, audience)
                return PlainTextResponse(token, headers=METADATA_HEADER)
        return PlainTextResponse("Not Found", status_code=404, headers=METADATA_HEADER)

    return endpoint


LARGEST_ASSERTION: Final = 16 * 1024


def oauth_routes(world: World) -> list[Route]:
    """Anthropic's token endpoint."""
    return [Route("/v1/oauth/token", _anthropic_token(world), methods=["POST"])]


def exchange(world: World, body: dict[str, Any]) -> dict[str, Any]:
    """An `org:admin` token for a Google identity token that a federation rule matches.

    Raises:
        AnthropicError: 400 for malformed identifiers, one and the same 401 for every refusal.
    """
    _check_form(body)
    rule = next(
        (one for one in world.admin.federation_rules if one.id == body["federation_rule_id"]), None
    )
    if (
        rule is None
        or rule.service_account_id != body["service_account_id"]
        or UUID(body["organization_id"]) != UUID(world.admin.organization.id)
    ):
        raise _refused()
    remaining = _verified_seconds(world, rule, body["assertion"])
    lifetime = max(60, min(rule.lifetime_seconds, 2 * remaining))
    token = f"sk-ant-oat01-SANDBOX-{secrets.token_urlsafe(24)}"
    expires = world.clock.now() + timedelta(seconds=lifetime)
    world.admin.credentials[token] = Credential(
        kind="federated_token", id=rule.service_account_id, expires_at=expires.isoformat()
    )
    return {
        "access_token": token,
        "token_type": "Bearer",
        "expires_in": lifetime,
        "scope": "org:admin",
    }


def _check_form(body: dict[str, Any]) -> None:
    forms = {
        "grant_type": re.escape(JWT_BEARER),
        "assertion": r".+",
        "federation_rule_id": r"fdrl_[A-Za-z0-9]+",
        "organization_id": r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
        "service_account_id": r"svac_[A-Za-z0-9]+",
    }
    if "workspace_id" in body:
        forms["workspace_id"] = r"default|wrkspc_[A-Za-z0-9]+"
    for name, form in forms.items():
        value = body.get(name)
        if not isinstance(value, str) or re.fullmatch(form, value) is None:
            raise AnthropicError(400, f"{name}: missing or malformed")
    if len(body["assertion"]) > LARGEST_ASSERTION:
        raise AnthropicError(400, "assertion: larger than 16 KiB")


def _verified_seconds(world: World, rule: FederationRule, assertion: str) -> int:
    """How long the assertion is still valid, once everything about it has been checked."""
    try:
        claims = world.identities.key.verify(assertion, audience=rule.audience)
    except ValueError as error:
        raise _refused() from error
    facts = (claims.get("iss"), claims.get("sub"), claims.get("email"))
    if facts != (GOOGLE_ISSUER, rule.subject, rule.email) or not claims.get("email_verified"):
        raise _refused()
    return int(claims["exp"] - time.time())


def _refused() -> AnthropicError:
    return AnthropicError(401, "Authentication failed")


def _anthropic_token(world: World) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        raw = await request.body()

        def handler() -> dict[str, Any]:
            return exchange(world, parse_json(raw))

        call = HttpCall(
            service="oauth",
            call="oauth.token",
            resource="",
            caller="unknown",
            write=False,
            handler=handler,
            body=_without_assertion(raw),
            headers=response_headers(world),
        )
        return await answer(world, request, call)

    return endpoint


def _without_assertion(raw: bytes) -> dict[str, Any]:
    try:
        body = parse_json(raw)
    except AnthropicError:
        return {}
    return {name: value for name, value in body.items() if name != "assertion"}
