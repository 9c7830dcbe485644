"""Workspaces: list, retrieve, create, update, archive, and the rules of attaching a key.

A workspace's key is written once and never changed.
Sources: https://platform.claude.com/docs/en/manage-claude/workspaces,
https://platform.claude.com/docs/en/manage-claude/cmek-admin-api; error codes from the types of the
official Python SDK (`types/organization/*_error.py`).
"""

from __future__ import annotations

import uuid
from typing import Any

from sandbox.admin.api import (
    AuthenticatedCall,
    CreateWorkspace,
    UpdateWorkspace,
    flag,
    integer,
    operation,
    page_of,
    parse_body,
)
from sandbox.admin.external_keys import DISABLED, TIMED_OUT, validate_key
from sandbox.admin.state import DataResidency, StoredWorkspace, new_id
from sandbox.errors import AnthropicError


def check_attachable(
    call: AuthenticatedCall,
    workspace: StoredWorkspace,
    external_key_id: str,
    current: str | None = None,
) -> None:
    """Raise the documented refusal, with its code, unless the key may be attached."""
    switches = call.world.switches
    if current is not None:
        if current == external_key_id and switches.same_key_again == "ok":
            return
        text = "external_key_id cannot be changed once set."
        raise AnthropicError(switches.replace_key_status, text)
    if not switches.cmek_enabled:
        raise AnthropicError(switches.attach_cmek_disabled_status, DISABLED)
    key = call.state.external_key(external_key_id)
    if key.user_profile_id != workspace.user_profile_id:
        text = "The key and the workspace have different user profiles."
        raise AnthropicError(400, text, "key_profile_mismatch")
    allowed = switches.workspace_policy_keys
    if allowed is not None and key.id not in allowed:
        text = "The Workspace Policy does not allow this external key."
        raise AnthropicError(400, text, "workspace_policy_violation", field="external_key_id")
    # the version from before the wait: a change since then would not have been validated
    if call.seen_version not in {None, key.updated_at}:
        text = "The external key changed during validation."
        raise AnthropicError(409, text, "external_key_changed")
    failure = validate_key(call.world, key) if switches.attach_validates else None
    if failure == TIMED_OUT:
        text = "Validation of the external key did not finish in time."
        raise AnthropicError(400, text, "external_key_validation_timed_out")
    if failure is not None:
        text = f"The external key failed validation: {failure}"
        raise AnthropicError(400, text, "external_key_validation_failed")


@operation("workspaces.list", "GET /workspaces")
def list_(call: AuthenticatedCall) -> dict[str, Any]:
    """One page; archived workspaces and the default one are listed only on request."""
    limit = integer(call.query, "limit", 20, 1000)
    ids = call.query.getlist("ids[]")
    if len(ids) > 100:
        raise AnthropicError(400, "ids[]: at most 100 identifiers")
    archived = flag(call.query, "include_archived")
    default = flag(call.query, "include_default") or call.world.switches.default_workspace_listed

    def visible(one: StoredWorkspace) -> bool:
        listed = (archived or not one.archived_at) and (default or not one.is_default)
        return listed and (not ids or one.id in ids)

    ordered = list(call.state.workspaces.values())
    if call.world.switches.workspace_order == "newest_first":
        ordered.reverse()
    return page_of(ordered, call.query, limit, visible)


@operation("workspaces.retrieve", "GET /workspaces/{target}")
def retrieve(call: AuthenticatedCall) -> dict[str, Any]:
    """One workspace, the default one included."""
    return call.state.workspace(call.target).render()


@operation("workspaces.create", "POST /workspaces", write=True, validates=True)
def create(call: AuthenticatedCall) -> dict[str, Any]:
    """A new workspace, with a key when one is named."""
    body = parse_body(CreateWorkspace, call.body)
    _check_room(call, body.name)
    call.state.check_user_profile(body.user_profile_id)
    workspace = StoredWorkspace(
        id=new_id("wrkspc"),
        name=body.name,
        created_at=call.now(),
        compartment_id=str(uuid.uuid4()),
        data_residency=body.data_residency or DataResidency(),
        tags=body.tags,
        user_profile_id=body.user_profile_id,
    )
    # before it is stored: a create whose key is refused must leave no workspace behind
    if body.external_key_id is not None:
        check_attachable(call, workspace, body.external_key_id)
        workspace.external_key_id = body.external_key_id
    call.state.workspaces[workspace.id] = workspace
    return workspace.render()


@operation("workspaces.update", "POST /workspaces/{target}", write=True, validates=True)
def update(call: AuthenticatedCall) -> dict[str, Any]:
    """Change all the fields that were sent, or none."""
    workspace = call.state.workspace(call.target)
    body = parse_body(UpdateWorkspace, call.body)
    sent = body.model_fields_set
    if workspace.is_default and "name" in sent:
        raise AnthropicError(400, "The default workspace cannot be renamed.")
    attach_only = sent == {"external_key_id"} and call.world.switches.attach_archived == "allowed"
    if workspace.archived_at and not attach_only:
        raise AnthropicError(400, "An archived workspace cannot be updated.")
    if "user_profile_id" in sent:
        call.state.check_user_profile(body.user_profile_id)
        if workspace.user_profile_id not in {None, body.user_profile_id}:
            raise AnthropicError(400, "user_profile_id cannot be changed once set.")
    # on a copy: a refused key must leave the other fields unchanged too
    draft = _changed(workspace.model_copy(deep=True), body)
    if "external_key_id" in sent:
        check_attachable(call, draft, body.external_key_id, current=workspace.external_key_id)
        draft.external_key_id = body.external_key_id
    call.state.workspaces[workspace.id] = draft
    return draft.render()


@operation("workspaces.archive", "POST /workspaces/{target}/archive", write=True)
def archive(call: AuthenticatedCall) -> dict[str, Any]:
    """Archive permanently; a second call changes nothing."""
    workspace = call.state.workspace(call.target)
    if workspace.is_default:
        raise AnthropicError(400, "The default workspace cannot be archived.")
    if workspace.archived_at is None:
        workspace.archived_at = call.now()
    return workspace.render()


def _check_room(call: AuthenticatedCall, name: str) -> None:
    """Check the name and the number of workspaces; how Anthropic refuses them is not documented."""
    switches = call.world.switches
    live = [one for one in call.state.workspaces.values() if not one.archived_at]
    if switches.workspace_name_again == "refused" and any(one.name == name for one in live):
        text = "A workspace with this name already exists."
        raise AnthropicError(switches.workspace_name_again_status, text)
    limit = switches.workspace_limit
    if limit is not None and sum(not one.is_default for one in live) >= limit:
        raise AnthropicError(400, "The organization has reached its limit of workspaces.")


def _changed(draft: StoredWorkspace, body: UpdateWorkspace) -> StoredWorkspace:
    sent = body.model_fields_set
    if "name" in sent:
        draft.name = body.name
    if "user_profile_id" in sent:
        draft.user_profile_id = body.user_profile_id
    for tag, value in body.tags.items():
        if value is None:
            draft.tags.pop(tag, None)
        else:
            draft.tags[tag] = value
    if body.data_residency is not None:
        changes = body.data_residency.model_dump(exclude_unset=True, exclude_none=True)
        draft.data_residency = draft.data_residency.model_copy(update=changes)
    return draft
