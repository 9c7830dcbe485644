"""The activity feed of the Compliance API, as far as keys and workspaces appear in it.

Source: https://platform.claude.com/docs/en/manage-claude/compliance-activity-feed
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from starlette.datastructures import QueryParams

from sandbox.admin_call import AdminCall
from sandbox.admin_pages import around, page_of_ids
from sandbox.admin_requests import integer
from sandbox.errors import AnthropicError

COMPARISONS: Final[dict[str, Callable[[datetime, datetime], bool]]] = {
    "gte": operator.ge,
    "gt": operator.gt,
    "lte": operator.le,
    "lt": operator.lt,
}


class MissingScopeError(AnthropicError):
    """403 in the Compliance API's own form: no top-level type and no request id."""

    def to_json(self, request_id: str) -> dict[str, Any]:
        """The short body."""
        return {"error": super().to_json(request_id)["error"]}


def list_(call: AdminCall) -> dict[str, Any]:
    """One page, newest first; `after_id` goes to older activities."""
    if not call.world.switches.compliance_api_enabled:
        needed = "Missing required scopes. Got: [] Needed: ['read:compliance_activities']"
        raise MissingScopeError(403, needed)
    limit = integer(call.query, "limit", 100, 5000)
    wanted = _filter(call.query)
    shown, has_more = around(
        call.state.activities[::-1],
        call.query,
        limit,
        identity=lambda one: str(one["id"]),
        visible=wanted,
    )
    return page_of_ids(shown, has_more=has_more)


def _filter(query: QueryParams) -> Callable[[dict[str, Any]], bool]:
    kinds, excluded = query.getlist("activity_types[]"), query.getlist("exclude_activity_types[]")
    if kinds and excluded:
        raise AnthropicError(400, "activity_types and exclude_activity_types cannot be combined")
    bounds = [
        (compare, _moment(query[f"created_at.{name}"]))
        for name, compare in COMPARISONS.items()
        if query.get(f"created_at.{name}")
    ]

    def wanted(activity: dict[str, Any]) -> bool:
        if (kinds and activity["type"] not in kinds) or activity["type"] in excluded:
            return False
        created = datetime.fromisoformat(activity["created_at"])
        return all(compare(created, bound) for compare, bound in bounds)

    return wanted


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise AnthropicError(400, f"created_at: {text!r} is not an RFC 3339 time") from error
    if moment.tzinfo is None:
        raise AnthropicError(400, f"created_at: {text!r} has no time zone")
    return moment
