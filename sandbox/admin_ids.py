"""Identifiers and times in the form that the Admin API gives them."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Final

BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def new_id(prefix: str) -> str:
    """A fresh tagged identifier, e.g. `ekey_01QmTz8VbHn4KfXyRw2PdLcJ`."""
    return f"{prefix}_01" + "".join(secrets.choice(BASE58) for _ in range(22))


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds, e.g. `2026-11-20T14:02:11.305918Z`."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
