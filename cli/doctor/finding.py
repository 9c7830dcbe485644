"""One finding of `cmek doctor`."""

from __future__ import annotations

from typing import Final, Literal

import httpx

from cmek.models import FrozenModel
from cmek.plain_text import shortened

Status = Literal["pass", "warn", "fail", "unknown"]
LONGEST: Final = 400
"""Characters of a text that a gateway, or what is in its place, has given."""


class DoctorFinding(FrozenModel):
    """One check: what was found, and what to do where it is not as it should be."""

    check: str
    status: Status
    found: str
    remedy: str = ""


def said(response: httpx.Response) -> str:
    """What the server says itself: the message of an error as the gateway gives it, or the text."""
    try:
        text = response.json()["error"]["message"]
    except (LookupError, RecursionError, TypeError, ValueError):
        text = response.text
    return shortened(text, LONGEST) or "an empty answer"
