"""Open questions of the real services, as switches: the product copes with either answer."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Switches(BaseModel):
    """Each field is one thing that no public page settles, or a state of the world."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    anonymous_caller: Literal["administrator", "unauthenticated"] = "administrator"
    cmek_enabled: bool = True
    duplicate_external_key: Literal["allowed", "conflict"] = "allowed"
    same_key_again: Literal["ok", "refused"] = "ok"
    replace_key_status: Literal[400, 409] = 400
    delete_attached_status: Literal[400, 409] = 409
    attach_archived: Literal["refused", "allowed"] = "refused"
    attach_validates: bool = True
    attach_cmek_disabled_status: Literal[400, 403] = 400
    create_checks_key_name: bool = True
    default_workspace_listed: bool = False
    kms_api_enabled: bool = True
    billing_enabled: bool = True
    initial_version_pending_seconds: float = 0.0
    iam_propagation_seconds: float = 0.0
    """How long a new grant stays without effect for Anthropic's service account."""
    validate_seconds: float = 0.0
    kms_latency_seconds: float = 0.0
    create_cmek_disabled_status: Literal[400, 403] = 403
    validation_times_out: bool = False
    """Anthropic's round trip never finishes; `validate_seconds` still says how long that takes."""
    workspace_policy_keys: list[str] | None = None
    """External keys that the organization's Workspace Policy allows; None: no such policy."""
    workspace_name_again: Literal["allowed", "refused"] = "allowed"
    """Whether a second live workspace may have the name of another."""
    workspace_name_again_status: Literal[400, 409] = 409
    workspace_limit: int | None = None
    """Live workspaces besides the default one; 100 unless Anthropic raised it; None: any."""
    workspace_order: Literal["oldest_first", "newest_first"] = "oldest_first"
