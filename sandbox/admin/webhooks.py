"""Organization webhook endpoints: create, list, retrieve, update, delete, new signing secret.

A beta of the Admin API: it answers 404 without the beta's header, or when Anthropic has not turned
it on. The real service takes HTTPS addresses, the sandbox only loopback ones. `sandbox.signals`
sends the events.
Source: the types and docstrings of the official SDK (`resources/beta/organization/webhooks.py`).
"""

from __future__ import annotations

import base64
import secrets
from typing import Any, Final

from sandbox.admin.api import (
    AuthenticatedCall,
    CreateWebhook,
    UpdateWebhook,
    integer,
    operation,
    page_of,
    parse_body,
)
from sandbox.admin.state import StoredWebhook, WebhookEvent, new_id, timestamp
from sandbox.errors import AnthropicError
from sandbox.signals import check_loopback
from sandbox.world import World

BETA: Final = "webhooks-2026-10-07"
MOST_ENDPOINTS: Final = 32


def register(world: World, url: str, events: list[WebhookEvent], secret: str) -> StoredWebhook:
    """Add an endpoint; it gets only later changes. Raises ValueError unless `url` is loopback."""
    now = timestamp(world.clock.now())
    endpoint = StoredWebhook(
        id=new_id("wh"),
        created_at=now,
        updated_at=now,
        url=check_loopback(url),
        enabled_events=events,
        signing_secret=secret,
    )
    world.admin.webhooks[endpoint.id] = endpoint
    world.signals.take_stock()
    return endpoint


def new_secret() -> str:
    """A new signing secret, in the real service's form."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()


def _check_available(call: AuthenticatedCall) -> None:
    betas = call.headers.get("anthropic-beta", "").split(",")
    if BETA not in betas or not call.world.switches.organization_webhooks:
        raise AnthropicError(404, "Not found.")
    if any(one.is_default and one.external_key_id for one in call.state.workspaces.values()):
        text = "Webhooks are not available while the default workspace uses a key."
        raise AnthropicError(400, text)


def _endpoint(call: AuthenticatedCall) -> StoredWebhook:
    _check_available(call)
    if call.target not in call.state.webhooks:
        raise AnthropicError(404, "Webhook endpoint not found.")
    return call.state.webhooks[call.target]


def _checked_url(url: str) -> str:
    try:
        return check_loopback(url)
    except ValueError as error:
        raise AnthropicError(400, f"url: {error}") from error


@operation("webhooks.create", "POST /webhooks", write=True)
def create(call: AuthenticatedCall) -> dict[str, Any]:
    """Register an address; only this answer holds its signing secret."""
    _check_available(call)
    body = parse_body(CreateWebhook, call.body)
    if len(call.state.webhooks) >= MOST_ENDPOINTS:
        raise AnthropicError(400, f"An organization has at most {MOST_ENDPOINTS} endpoints.")
    endpoint = register(call.world, _checked_url(body.url), body.enabled_events, new_secret())
    endpoint.name, endpoint.description = body.name, body.description
    return endpoint.render() | {"signing_secret": endpoint.signing_secret}


@operation("webhooks.list", "GET /webhooks")
def list_(call: AuthenticatedCall) -> dict[str, Any]:
    """One page, newest first unless `order` says otherwise."""
    _check_available(call)
    default = call.query.get("limit", "0") == "0"
    limit = 20 if default else integer(call.query, "limit", 20, 100)
    ordered = list(call.state.webhooks.values())
    if call.query.get("order", "desc") == "desc":
        ordered.reverse()
    return page_of(ordered, call.query, limit, lambda _: True)


@operation("webhooks.retrieve", "GET /webhooks/{target}")
def retrieve(call: AuthenticatedCall) -> dict[str, Any]:
    """One endpoint, without its secret."""
    return _endpoint(call).render()


@operation("webhooks.update", "POST /webhooks/{target}", write=True)
def update(call: AuthenticatedCall) -> dict[str, Any]:
    """Change the fields that were sent."""
    endpoint, body = _endpoint(call), parse_body(UpdateWebhook, call.body)
    if "url" in body.model_fields_set:
        _checked_url(body.url)
    enabled = body.state == "enabled" and endpoint.state == "disabled"
    for name in body.model_fields_set:
        if name != "enabled_events" or body.enabled_events:
            setattr(endpoint, name, getattr(body, name))
    endpoint.updated_at = call.now()
    if enabled:  # changes that happened while it was disabled are never delivered
        call.world.signals.take_stock()
    return endpoint.render()


@operation("webhooks.delete", "DELETE /webhooks/{target}", write=True)
def delete(call: AuthenticatedCall) -> dict[str, Any]:
    """Delete an endpoint; nothing more is sent to it."""
    endpoint = _endpoint(call)
    del call.state.webhooks[endpoint.id]
    return {"id": endpoint.id, "type": "webhook_endpoint_deleted"}


@operation(
    "webhooks.regenerate_signing_secret",
    "POST /webhooks/{target}/regenerate_signing_secret",
    write=True,
)
def regenerate_signing_secret(call: AuthenticatedCall) -> dict[str, Any]:
    """A new secret; the old one stops working at once."""
    endpoint = _endpoint(call)
    endpoint.signing_secret = new_secret()
    return {"signing_secret": endpoint.signing_secret}
