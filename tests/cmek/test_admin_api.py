"""The Admin API client against the sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pydantic import SecretStr

from cmek.addresses import EndpointError
from cmek.anthropic.auth import AdminKey
from cmek.anthropic.client import AdminApi
from cmek.anthropic.errors import BadRequestError, NotFoundError
from cmek.anthropic.models import ExternalKey, Workspace
from sandbox.admin.state import AdminState
from tests.support.clients import Rig

pytestmark = pytest.mark.anyio


@contextmanager
def multiplied(admin: AdminState, stored: dict[str, Any], number: int) -> Iterator[set[str]]:
    """Store copies of the newest record while the block lasts; yields their ids."""
    model = list(stored.values())[-1]
    copies = {
        (name := f"{model.id[:-4]}{count:04}"): model.model_copy(
            update={"id": name, "sequence": admin.next_sequence()}
        )
        for count in range(number)
    }
    stored |= copies
    try:
        yield set(copies)
    finally:
        for name in copies:
            del stored[name]


async def test_me_names_the_organization_of_the_credential(rig: Rig) -> None:
    """The UUID is the one that the organization label needs; the answer has the request id, too."""
    async with rig.admin() as api:
        me = await api.organization.me()
    assert str(me.id) == rig.sandbox.organization_id
    assert me.request_id
    assert me.request_id.startswith("req_")


async def test_an_external_key_goes_through_its_life(rig: Rig) -> None:
    """Create, retrieve and list agree on one record; unknown fields are kept."""
    name = rig.key_name()
    async with rig.admin() as api:
        made = await api.external_keys.create(name, "for a test")
        assert made.gcp_key_name == name
        assert not made.is_attached
        assert made.model_extra is not None
        assert "user_profile_id" in made.model_extra
        assert await api.external_keys.retrieve(made.id) == made
        assert made.display_name == "for a test"
        assert made in [key async for key in api.external_keys.list()]
    assert rig.calls(write=True) == ["external_keys.create"]


async def test_every_page_of_external_keys_is_read(rig: Rig) -> None:
    """There are more keys than fit on a page: each is listed once, in two requests."""
    async with rig.admin() as api:
        await api.external_keys.create(rig.key_name())
        admin = rig.sandbox.world.admin
        with multiplied(admin, admin.external_keys, 101) as extra:
            rig.control.clear_log()
            listed = [key.id async for key in api.external_keys.list()]
    assert extra < set(listed)
    assert len(listed) == len(set(listed))
    assert rig.calls() == ["external_keys.list", "external_keys.list"]


async def test_every_page_of_workspaces_is_read(rig: Rig) -> None:
    """There are more workspaces than fit on a page: each is listed once, in two requests."""
    admin = rig.sandbox.world.admin
    with multiplied(admin, admin.workspaces, 1001) as extra:
        async with rig.admin() as api:
            listed = [workspace.id async for workspace in api.workspaces.list()]
    assert extra <= set(listed)
    assert len(listed) == len(set(listed))
    assert rig.calls() == ["workspaces.list", "workspaces.list"]


async def test_only_a_list_with_the_switch_shows_the_default_workspace(rig: Rig) -> None:
    """The default workspace is recognised by its absence from a list by id."""
    stored = rig.sandbox.world.admin.workspaces.values()
    default = next(one.id for one in stored if one.is_default)
    fresh = rig.fresh_workspace()
    async with rig.admin() as api:
        without = [one.id async for one in api.workspaces.list(ids=[default, fresh])]
        both = [one.id async for one in api.workspaces.list(include_default=True)]
    assert without == [fresh]
    assert default in both


async def test_a_key_is_attached_by_an_update_and_read_back(rig: Rig) -> None:
    """Attach sets the workspace's key and the external key's attachment."""
    rig.control.switches(attach_validates=False)
    workspace = rig.fresh_workspace()
    async with rig.admin() as api:
        key = await api.external_keys.create(rig.key_name())
        attached = await api.workspaces.update(workspace, external_key_id=key.id)
        assert attached.external_key_id == key.id
        assert (await api.external_keys.retrieve(key.id)).is_attached
        assert (await api.workspaces.retrieve(workspace)) == attached
        other = await api.external_keys.create(rig.key_name())
        with pytest.raises(BadRequestError):
            await api.workspaces.update(workspace, external_key_id=other.id)


async def test_a_workspace_can_be_made_with_its_key(rig: Rig) -> None:
    """External key and tags are in the create call; null removes a tag later."""
    rig.control.switches(attach_validates=False)
    async with rig.admin() as api:
        key = await api.external_keys.create(rig.key_name())
        made = await api.workspaces.create("new-team", key.id, {"owner": "security", "a": "b"})
        assert (made.external_key_id, made.tags) == (key.id, {"owner": "security", "a": "b"})
        changed = await api.workspaces.update(made.id, tags={"a": None})
        assert changed.tags == {"owner": "security"}
        assert changed.external_key_id == key.id


async def test_a_failed_validation_is_an_answer(rig: Rig) -> None:
    """A key that Anthropic cannot use gives `failure` and a text, not an exception."""
    async with rig.admin() as api:
        key = await api.external_keys.create(rig.key_name())
        validation = await api.external_keys.validate(key.id)
    assert not validation.succeeded
    assert validation.error


async def test_an_id_cannot_reach_another_path(rig: Rig) -> None:
    """Characters that mean something in a URL are sent as part of the id."""
    async with rig.admin() as api:
        with pytest.raises(NotFoundError):
            await api.workspaces.retrieve("../external_keys?limit=1")


async def test_a_plain_text_base_url_is_refused_beyond_loopback() -> None:
    with pytest.raises(EndpointError, match="plain text"):
        AdminApi("http://api.example.com", AdminKey(SecretStr("sk-ant-admin01-FAKE")))


async def test_what_could_hide_an_attached_key_is_required() -> None:
    """A workspace without `external_key_id` is not read as one without a key."""
    with pytest.raises(ValueError, match="external_key_id"):
        Workspace.model_validate({"id": "wrkspc_01", "name": "x", "archived_at": None})


@pytest.mark.parametrize("config", [{"type": "gcp"}, {"type": "gcp", "key_name": ""}])
async def test_a_cloud_kms_key_without_a_name_is_not_read_as_a_key_elsewhere(
    config: dict[str, str],
) -> None:
    """It may be any key, so that none could be said to be unused."""
    fields = {"id": "ekey_01", "attachment": {"type": "attached"}, "provider_config": config}
    with pytest.raises(ValueError, match="key_name"):
        ExternalKey.model_validate(fields)


async def test_keys_elsewhere_are_listed_without_a_cloud_kms_name() -> None:
    """Keys of other providers, even of future ones, are read without an error."""
    for kind in ("aws", "azure", "moon"):
        key = ExternalKey.model_validate(
            {
                "id": "ekey_01",
                "attachment": {"type": "unattached"},
                "provider_config": {"type": kind, "key_name": "x"},
            }
        )
        assert key.gcp_key_name is None
