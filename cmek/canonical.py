"""Canonical JSON and its digest: the same facts give the same bytes everywhere."""

from __future__ import annotations

import hashlib
import json

from pydantic import BaseModel, JsonValue


def canonical_json(value: BaseModel | JsonValue) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces; numbers with a fraction are not allowed in it."""
    data = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.dumps(
        data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest(value: BaseModel | JsonValue) -> str:
    """SHA-256 over the canonical JSON, 64 lower-case hex digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()
