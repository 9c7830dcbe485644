"""Token endpoints: Google's `/token` and keys, a machine's metadata server, Anthropic's exchange.

Google's tokens expire by the machine's time, because google-auth renews them by it. An assertion
for `/token`, and the Admin API's token from the exchange, expire by the sandbox's clock.
Source of the exchange: https://platform.claude.com/docs/en/manage-claude/wif-reference
"""

from __future__ import annotations

import re
import secrets
import time
from datetime import timedelta
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qsl
from uuid import UUID

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from sandbox.admin.api import parse_json, response_headers
from sandbox.admin.state import StoredCredential
from sandbox.errors import AnthropicError
from sandbox.identities import GOOGLE_ISSUER, JWT_BEARER, KEY_ID, TokenRefusedError
from sandbox.transport import ServedCall, answer
from sandbox.world import World

METADATA_HEADER: Final = {"Metadata-Flavor": "Google"}
METADATA_ACCOUNTS: Final = "/computeMetadata/v1/instance/service-accounts"
CLOUD_SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"


def token_routes(world: World) -> list[Route]:
    """What google-auth calls by `token_uri` or `GCE_METADATA_HOST`, and Anthropic's endpoint."""
    account = f"{METADATA_ACCOUNTS}/{{account}}/{{what:path}}"
    return [
        Route("/token", partial(_google_token, world), methods=["POST"]),
        Route("/oauth2/v1/certs", partial(_google_certificates, world), methods=["GET"]),
        Route("/oauth2/v3/certs", partial(_google_keys, world), methods=["GET"]),
        Route("/", _ping, methods=["GET"]),
        Route(account, partial(_metadata, world), methods=["GET"]),
        Route("/v1/oauth/token", partial(_anthropic_token, world), methods=["POST"]),
    ]


async def _google_keys(world: World, _: Request) -> Response:
    return JSONResponse(world.identities.key.jwks())


async def _google_certificates(world: World, _: Request) -> Response:
    return JSONResponse({KEY_ID: world.identities.key.certificate_pem})


async def _ping(_: Request) -> Response:
    return PlainTextResponse("computeMetadata/\n", headers=METADATA_HEADER)


async def _google_token(world: World, request: Request) -> Response:
    form = dict(parse_qsl((await request.body()).decode("utf-8", "replace")))
    refused = False

    def handler() -> dict[str, Any]:
        nonlocal refused
        try:
            return world.identities.token_endpoint(form, world.clock.now().timestamp())
        except TokenRefusedError as error:
            refused = True
            return error.to_json()

    body = {"grant_type": form.get("grant_type")}
    call = ServedCall("oauth", "google.token", handler, body=body)
    response = await answer(world, request, call)
    # a fault may have replaced the answer: then its status stays
    if refused and response.status_code == 200:
        response.status_code = 400
    return response


async def _metadata(world: World, request: Request) -> Response:
    """The metadata server of a virtual machine that runs as the onboarding service account."""
    if request.headers.get("metadata-flavor") != "Google":
        return PlainTextResponse("Missing Metadata-Flavor:Google header.", status_code=403)
    identity, audience = world.identities.onboarding, request.query_params.get("audience")
    match request.path_params["what"]:
        case "":
            facts = {"aliases": ["default"], "email": identity.email, "scopes": [CLOUD_SCOPE]}
            return JSONResponse(facts, headers=METADATA_HEADER)
        case "token":
            return JSONResponse(world.identities.access_token(identity), headers=METADATA_HEADER)
        case "identity" if audience:
            token = world.identities.identity_token(identity, audience)
            return PlainTextResponse(token, headers=METADATA_HEADER)
    return PlainTextResponse("Not Found", status_code=404, headers=METADATA_HEADER)


LARGEST_ASSERTION: Final = 16 * 1024
REFUSED: Final = "Authentication failed"


def exchange(world: World, body: dict[str, Any]) -> dict[str, Any]:
    """An `org:admin` token for a Google identity token that a federation rule matches.

    Raises 400 for malformed fields, and the same 401 for every refusal.
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
        raise AnthropicError(401, REFUSED)
    try:
        claims = world.identities.key.verify(body["assertion"], audience=rule.audience)
    except ValueError as error:
        raise AnthropicError(401, REFUSED) from error
    facts = (claims.get("iss"), claims.get("sub"), claims.get("email"))
    if facts != (GOOGLE_ISSUER, rule.subject, rule.email) or not claims.get("email_verified"):
        raise AnthropicError(401, REFUSED)
    # At most twice the assertion's remaining validity, at least a minute.
    remaining = int(claims["exp"] - time.time())
    lifetime = max(60, min(rule.lifetime_seconds, 2 * remaining))
    token = f"sk-ant-oat01-SANDBOX-{secrets.token_urlsafe(24)}"
    expires = world.clock.now() + timedelta(seconds=lifetime)
    world.admin.credentials[token] = StoredCredential(
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


async def _anthropic_token(world: World, request: Request) -> Response:
    raw = await request.body()
    try:
        logged = parse_json(raw)
    except AnthropicError:
        logged = {}
    logged.pop("assertion", None)

    def handler() -> dict[str, Any]:
        return exchange(world, parse_json(raw))

    headers = response_headers(world)
    call = ServedCall("oauth", "oauth.token", handler, body=logged, headers=headers)
    return await answer(world, request, call)
