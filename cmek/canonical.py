"""Canonical JSON (RFC 8785) and its digest: equal values give equal bytes in every program."""

from __future__ import annotations

import hashlib
import json

import rfc8785
from pydantic import BaseModel, JsonValue

from cmek.errors import CmekError


class NotCanonicalError(CmekError, ValueError):
    """A value that has no canonical JSON; the message says which part of it, and why."""


def canonical_json(value: BaseModel | JsonValue) -> bytes:
    """Canonical JSON in UTF-8; any implementation of RFC 8785 gives the same bytes.

    Raises:
        NotCanonicalError: An integer beyond ±(2⁵³-1), NaN or infinity, or half of a surrogate pair:
            other implementations would read another value.
    """
    data = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    try:
        text = rfc8785.dumps(data)
        # the float 1e20 is written as an integer, which is beyond the limit as well
        json.loads(text, parse_int=_limited)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        raise NotCanonicalError(f"no canonical JSON (RFC 8785): {error}") from error
    return text


def _limited(digits: str) -> None:
    rfc8785.dumps(int(digits))


def digest(value: BaseModel | JsonValue) -> str:
    """SHA-256 over the canonical JSON, 64 lower-case hex digits.

    Raises:
        NotCanonicalError: As `canonical_json`.
    """
    return hashlib.sha256(canonical_json(value)).hexdigest()
