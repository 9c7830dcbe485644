"""Credentials out of free text: answers of services and comments of people end up in evidence."""

from __future__ import annotations

import re
from typing import Final

from pydantic import JsonValue

_SECRET: Final = re.compile(
    r"sk-ant-[A-Za-z0-9_-]{8,}"  # Anthropic keys
    r"|ya29\.[A-Za-z0-9_-]{8,}"  # Google access tokens
    r"|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"  # JSON web tokens
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)"
)
REMOVED: Final = "[credential removed]"


def without_secrets(value: JsonValue) -> JsonValue:
    """The same value with everything that looks like a credential replaced."""
    if isinstance(value, str):
        return _SECRET.sub(REMOVED, value)
    if isinstance(value, list):
        return [without_secrets(one) for one in value]
    if isinstance(value, dict):
        return {_SECRET.sub(REMOVED, name): without_secrets(one) for name, one in value.items()}
    return value
