"""The crypto key of a workspace that nobody has chosen one for, and the request for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from cmek.admin_models import Workspace
from cmek.discovery.request import DiscoveryRequest
from cmek.names import KMS_ID, slug
from cmek.request import OnboardingRequest

_MAX_LENGTH: Final = 63
_NAME: Final = "{workspace_name}"
_SHARED_FIELDS: Final = (
    "project_id",
    "requested_by",
    "location",
    "key_ring",
    "protection_level",
    "rotation_period_days",
    "destroy_delay_days",
    "approval_expires_hours",
    "expected_organization",
    "permitted_customer_id",
    "anthropic_block",
    "kms_block",
)


class UnnameableKeyError(Exception):
    """The template gives no name that Cloud KMS takes; says which and what to change."""


def key_for(workspace: Workspace, request: DiscoveryRequest) -> str:
    """The id of the workspace's crypto key.

    A workspace's name is cut to what Cloud KMS takes, its id never: own keys stay apart.

    Raises:
        UnnameableKeyError: it would be too long, or hold other characters.
    """
    with_id = request.key_template.replace("{workspace_id}", workspace.id)
    room = _MAX_LENGTH - len(with_id.replace(_NAME, ""))
    name = slug(workspace.name, max(room, 0), allowed="a-zA-Z0-9_-")
    key = with_id.replace(_NAME, name)
    if re.fullmatch(KMS_ID, key) is None:
        raise UnnameableKeyError(
            f"key_template {request.key_template!r} gives {key!r} for {workspace.id}: a crypto "
            f"key's name has at most {_MAX_LENGTH} letters, digits, - and _; change the template"
        )
    return key


def onboarding_for(
    workspace: Workspace, request: DiscoveryRequest, given: Mapping[str, Any] | None = None
) -> OnboardingRequest:
    """What is asked for this workspace.

    Args:
        workspace: Without a key.
        request: The discovery's.
        given: Fields that were announced for this workspace; they win.

    Raises:
        UnnameableKeyError: see `key_for`.
    """
    given = dict(given or {})
    fields = {name: getattr(request, name) for name in _SHARED_FIELDS}
    fields["workspace_id"] = workspace.id
    if "crypto_key" not in given:
        fields["crypto_key"] = key_for(workspace, request)
    return OnboardingRequest.model_validate(fields | given)
