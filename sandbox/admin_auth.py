"""Who calls the Admin API, and whether they may.

Source: https://platform.claude.com/docs/en/manage-claude/admin-api-keys (both headers work with an
Admin key; an ordinary key does not) and https://platform.claude.com/docs/en/api/versioning
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from starlette.datastructures import Headers

from sandbox.errors import AnthropicError
from sandbox.world import World

API_VERSIONS: Final = ("2023-06-01", "2026-10-21")


def caller_name(world: World, headers: Headers) -> str:
    """A name for the log that gives no secret away."""
    credential = world.admin.credentials.get(_secret(headers) or "")
    return f"{credential.kind}:{credential.id}" if credential else "unknown"


def authenticate(world: World, headers: Headers) -> None:
    """Refuse a caller that may not use the Admin API.

    Raises:
        AnthropicError: 401 for a missing, unknown or expired credential, 403 for an ordinary key,
            400 for a missing or unknown `anthropic-version`.
    """
    secret = _secret(headers)
    if secret is None:
        raise AnthropicError(401, "x-api-key header is required")
    credential = world.admin.credentials.get(secret)
    if credential is None:
        header = "x-api-key" if headers.get("x-api-key") else "bearer token"
        raise AnthropicError(401, f"invalid {header}")
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
