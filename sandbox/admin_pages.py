"""The Admin API's two ways of paging.

External keys page by an opaque `page` cursor, workspaces by the ids around a page.
Source: https://platform.claude.com/docs/en/api/admin
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from starlette.datastructures import QueryParams

from sandbox.errors import AnthropicError

Item = TypeVar("Item")


def cursor(sequence: int) -> str:
    """The opaque form of a place in the order of creation."""
    return base64.urlsafe_b64encode(f"before:{sequence}".encode()).decode().rstrip("=")


def read_cursor(text: str) -> int:
    """The place that `cursor` wrote.

    Raises:
        AnthropicError: 400, no cursor of ours.
    """
    try:
        plain = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        word, _, number = plain.decode("ascii").partition(":")
        if word == "before" and cursor(int(number)) == text:
            return int(number)
    except (ValueError, binascii.Error):
        pass
    raise AnthropicError(400, "page: not a cursor that this API returned")


def around(
    ordered: Sequence[Item],
    query: QueryParams,
    limit: int,
    *,
    identity: Callable[[Item], str],
    visible: Callable[[Item], bool] = lambda _: True,
) -> tuple[list[Item], bool]:
    """One page after `after_id` or before `before_id`, and whether more lies in that direction.

    Raises:
        AnthropicError: 400, both given, or an id that is not in the list.
    """
    after, before = query.get("after_id"), query.get("before_id")
    if after and before:
        raise AnthropicError(400, "after_id and before_id cannot be used together")
    places = {identity(item): place for place, item in enumerate(ordered)}
    for name, given in (("after_id", after), ("before_id", before)):
        if given and given not in places:
            raise AnthropicError(400, f"{name}: no such object")
    if before:
        found = [item for item in ordered[: places[before]] if visible(item)]
        return found[-limit:], len(found) > limit
    start = places[after] + 1 if after else 0
    found = [item for item in ordered[start:] if visible(item)]
    return found[:limit], len(found) > limit


def page_of_ids(data: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """The envelope with `has_more`, `first_id` and `last_id`."""
    return {
        "data": data,
        "has_more": has_more,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }
