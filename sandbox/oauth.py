"""Workload identity: a Google identity token buys a token for the Admin API.

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
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.admin_models import Credential, FederationRule
from sandbox.admin_requests import parse_json
from sandbox.admin_routes import response_headers
from sandbox.errors import AnthropicError
from sandbox.http_calls import HttpCall, answer
from sandbox.identity_tokens import GOOGLE_ISSUER, JWT_BEARER
from sandbox.world import World

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
