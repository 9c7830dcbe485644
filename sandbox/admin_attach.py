"""May this external key go onto this workspace? The rules of the one step that is never undone.

Source: https://platform.claude.com/docs/en/manage-claude/cmek-admin-api; error codes from the types
of the official Python SDK (`types/organization/*_error.py`).
"""

from __future__ import annotations

from sandbox.admin_call import AdminCall
from sandbox.admin_external_keys import DISABLED
from sandbox.admin_models import Workspace
from sandbox.errors import AnthropicError
from sandbox.validation import validate_key


def check_attachable(
    call: AdminCall, workspace: Workspace, external_key_id: str, current: str | None = None
) -> None:
    """Pass when the key may be written.

    Raises:
        AnthropicError: every documented refusal, with its code.
    """
    if _already_settled(call, external_key_id, current):
        return
    switches = call.world.switches
    if not switches.cmek_enabled:
        raise AnthropicError(switches.attach_cmek_disabled_status, DISABLED)
    key = call.state.external_key(external_key_id)
    if key.user_profile_id != workspace.user_profile_id:
        raise AnthropicError(
            400, "The key and the workspace have different user profiles.", "key_profile_mismatch"
        )
    allowed = switches.workspace_policy_keys
    if allowed is not None and key.id not in allowed:
        raise AnthropicError(
            400,
            "The Workspace Policy does not allow this external key.",
            "workspace_policy_violation",
            field="external_key_id",
        )
    if call.seen_version not in {None, key.updated_at}:
        raise AnthropicError(
            409, "The external key changed during validation.", "external_key_changed"
        )
    if switches.attach_validates:
        _check_validation(call, external_key_id)


def _already_settled(call: AdminCall, external_key_id: str, current: str | None) -> bool:
    switches = call.world.switches
    if current is None:
        return False
    if current == external_key_id and switches.same_key_again == "ok":
        return True
    raise AnthropicError(switches.replace_key_status, "external_key_id cannot be changed once set.")


def _check_validation(call: AdminCall, external_key_id: str) -> None:
    failure = validate_key(call.world, call.state.external_key(external_key_id))
    if failure is None:
        return
    if failure.timed_out:
        raise AnthropicError(
            400,
            "Validation of the external key did not finish in time.",
            "external_key_validation_timed_out",
        )
    raise AnthropicError(
        400,
        f"The external key failed validation: {failure.text}",
        "external_key_validation_failed",
    )
