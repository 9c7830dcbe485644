"""An event that says that a workspace was made; pure.

It may choose the key, but nothing that a person has to decide: adopting a key that exists, the
default workspace, repairs, or who approves.
"""

from __future__ import annotations

import json
from typing import Any, Final

from pydantic import ConfigDict, Field, ValidationError

from cmek.models import FrozenModel
from cmek.names import KMS_ID, PROJECT_ID, WORKSPACE_ID
from cmek.request import EMAIL, Location, ProtectionLevel

EVENT: Final = "anthropic.workspace.created"


class MalformedEventError(Exception):
    """The payload is not what the event should carry; names each field and rule."""


class Announcement(FrozenModel):
    """The payload of the event. Only `workspace_id` is needed."""

    model_config = ConfigDict(extra="forbid", strict=True)

    workspace_id: str = Field(pattern=f"^{WORKSPACE_ID}$")
    requested_by: str | None = Field(default=None, pattern=f"^{EMAIL}$")
    project_id: str | None = Field(default=None, pattern=f"^{PROJECT_ID}$")
    location: Location | None = None
    key_ring: str | None = Field(default=None, pattern=f"^{KMS_ID}$")
    crypto_key: str | None = Field(default=None, pattern=f"^{KMS_ID}$")
    protection_level: ProtectionLevel | None = None
    display_name: str | None = Field(default=None, min_length=1, max_length=255)

    def given(self) -> dict[str, Any]:
        """The fields of an onboarding request that it sets."""
        return self.model_dump(exclude_none=True)


def read_announcement(payload: str) -> Announcement:
    """Read the payload's JSON.

    Raises:
        MalformedEventError: not JSON, or not these fields.
    """
    try:
        return Announcement.model_validate(json.loads(payload))
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        what = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'it'}: {one['msg']}" for one in found)
    except (ValueError, RecursionError) as error:
        what = f"not JSON ({type(error).__name__})"
    raise MalformedEventError(
        f"the payload of {EVENT} is not valid: {what}. Nothing was started; send it again with "
        f"these fields: {', '.join(Announcement.model_fields)}; only workspace_id is needed"
    )
