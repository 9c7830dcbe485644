"""The activity feed of the Compliance API, as far as it tells of new workspaces.

It works with an Admin API key only where the Compliance API was enabled before the key was made;
anything else is a 403. Nothing is recorded while it is off.

Source: https://platform.claude.com/docs/en/manage-claude/compliance-activity-feed
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Final

from cmek.admin_errors import AdminResponseError, Failure
from cmek.admin_models import AdminObject
from cmek.admin_transport import AdminTransport

WORKSPACE_CREATED: Final = "platform_workspace_created"
_PATH: Final = "/v1/compliance/activities"
_LIMIT: Final = 1000


class Activity(AdminObject):
    """Something that was done; its other fields depend on its type."""

    id: str
    type: str
    created_at: datetime
    workspace_id: str | None = None


class ActivityPage(AdminObject):
    """One page, newest first; older ones come after `last_id` while `has_more`."""

    data: tuple[Activity, ...]
    has_more: bool
    last_id: str | None


class Activities:
    """`compliance.activities`: what was done in the organization."""

    def __init__(self, transport: AdminTransport) -> None:
        self._transport = transport

    async def list(
        self, activity_type: str, *, since: datetime, until: datetime
    ) -> AsyncIterator[Activity]:
        """Activities of one type, newest first, each once.

        Args:
            activity_type: Such as `platform_workspace_created`.
            since: The first moment.
            until: The first moment that is not wanted; keep it a minute in the past, since
                activities appear with a delay.

        Yields:
            Each activity once, although the feed may deliver it more often.

        Raises:
            PermissionDenied: the Compliance API is off, or the credential has no right to it.
        """
        query: dict[str, str | int | list[str]] = {
            "activity_types[]": [activity_type],
            "created_at.gte": since.isoformat(),
            "created_at.lt": until.isoformat(),
            "limit": _LIMIT,
        }
        seen: set[str] = set()
        while True:
            page = await self._transport.get(ActivityPage, _PATH, query)
            for activity in page.data:
                if activity.id not in seen:
                    seen.add(activity.id)
                    yield activity
            if not page.has_more or page.last_id is None:
                return
            if query.get("after_id") == page.last_id:
                message = f"the feed does not end: its next page is the same again ({page.last_id})"
                raise AdminResponseError(Failure("GET", "list", message))
            query["after_id"] = page.last_id
