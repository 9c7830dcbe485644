"""A list without its next cursor, or without an end, is an error, never a shorter list."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from google.cloud import kms_v1
from hypothesis import example, given
from hypothesis import strategies as st

from cmek.anthropic.client import ExternalKeys, Workspaces
from cmek.anthropic.errors import AdminResponseError
from cmek.errors import CmekError
from cmek.gcp._transport import GoogleTransport
from cmek.gcp.errors import GoogleApiError
from cmek.gcp.kms import CloudKms
from cmek.gcp.project_apis import GoogleReads
from tests.support.clients import Rig

STEPS: st.SearchStrategy[dict[str, str | None]] = st.fixed_dictionaries(
    {at: st.sampled_from(["a", "b", "c", None]) for at in ("", "a", "b", "c")}
)
"""The next cursor for each cursor: the first page has an empty one, after the last comes None."""
ENDLESS = {"": "a", "a": "b", "b": "a", "c": None}


@dataclass
class Cursors:
    """The order of the pages; a list that is read without end fails the test."""

    after: Mapping[str, str | None]
    reads: int = 0

    def __getitem__(self, at: str) -> str | None:
        self.reads += 1
        assert self.reads <= 2 * len(self.after), "read without end"
        return self.after[at]


class _Admin:
    """Pages of the Admin API, each with one object that names its page."""

    base_url = "https://api.example.com"

    def __init__(self, steps: Cursors) -> None:
        self.steps = steps

    async def get(self, model: Any, _path: str, query: Mapping[str, Any]) -> Any:
        at = query.get("after_id", query.get("page", ""))
        then = self.steps[at]
        shared = {"id": at, "name": at, "archived_at": None, "external_key_id": None}
        key = {"attachment": {"type": "unattached"}, "provider_config": {"type": "aws"}}
        more = {"next_page": then, "has_more": then is not None, "last_id": then}
        return model.model_validate({"data": [shared | key]} | more)


async def workspaces(steps: Cursors) -> list[str]:
    admin: Any = _Admin(steps)
    return [one.id for one in await Workspaces(admin).everything()]


async def external_keys(steps: Cursors) -> list[str]:
    admin: Any = _Admin(steps)
    return [one.id async for one in ExternalKeys(admin).list()]


def cloud_kms(steps: Cursors) -> CloudKms:
    async def keys(request: Any, **_: Any) -> Any:
        at = request.page_token
        page = kms_v1.ListCryptoKeysResponse(next_page_token=steps[at] or "")
        page.crypto_keys.append(kms_v1.CryptoKey(name=at))
        return page

    async def versions(request: Any, **_: Any) -> Any:
        at = request.page_token
        page = kms_v1.ListCryptoKeyVersionsResponse(next_page_token=steps[at] or "")
        page.crypto_key_versions.append(kms_v1.CryptoKeyVersion(name=at))
        return page

    client: Any = SimpleNamespace(list_crypto_keys=keys, list_crypto_key_versions=versions)
    return CloudKms(client)


async def crypto_keys(steps: Cursors) -> list[str]:
    return [one.name async for one in cloud_kms(steps).list_crypto_keys("ring")]


async def crypto_key_versions(steps: Cursors) -> list[str]:
    return [one.name for one in await cloud_kms(steps).list_crypto_key_versions("key")]


async def custom_constraints(steps: Cursors) -> list[str]:
    async def get(_: Any, parse: Any, _service: str, _path: str, query: Any) -> Any:
        at = query.get("pageToken", "")
        token = steps[at]
        more = {"nextPageToken": token} if token else {}
        return parse({"customConstraints": [{"name": at}]} | more)

    with patch.object(GoogleTransport, "get", get):
        return [one.name for one in await GoogleReads(None).custom_constraints("organizations/1")]


LISTS: dict[str, tuple[Callable[[Cursors], Awaitable[list[str]]], type[CmekError]]] = {
    "/v1/organizations/workspaces": (workspaces, AdminResponseError),
    "/v1/organizations/external_keys": (external_keys, AdminResponseError),
    "ListCryptoKeys": (crypto_keys, GoogleApiError),
    "ListCryptoKeyVersions": (crypto_key_versions, GoogleApiError),
    "v2/organizations/1/customConstraints": (custom_constraints, GoogleApiError),
}


@pytest.mark.parametrize("endpoint", LISTS)
@given(steps=STEPS)
@example(steps=ENDLESS)
@example(steps={"": "a", "a": "a", "b": None, "c": None})
def test_a_list_is_whole_or_an_error_that_names_its_endpoint(
    endpoint: str, steps: dict[str, str | None]
) -> None:
    """This holds for any order of pages, even if one leads back to a page read before."""
    read, error = LISTS[endpoint]

    async def reading() -> list[str]:
        return await read(Cursors(steps))

    pages: list[str] = []
    at: str | None = ""
    while at is not None and at not in pages:
        pages.append(at)
        at = steps[at]
    if at is None:
        assert asyncio.run(reading()) == pages
    else:
        with pytest.raises(error, match="does not end") as caught:
            asyncio.run(reading())
        assert endpoint in str(caught.value)


@pytest.mark.anyio
@pytest.mark.parametrize("cursor", [{"last_id": None}, {}], ids=["null", "missing"])
async def test_more_workspaces_without_a_cursor_are_an_error(
    rig: Rig, cursor: dict[str, None]
) -> None:
    """Taken as the end, it would hide used names and other users of a key."""
    body = {"data": [], "has_more": True} | cursor
    rig.control.fault("workspaces.list", status=200, body=body, times=9)
    async with rig.admin() as api:
        with pytest.raises(AdminResponseError, match="last_id") as caught:
            await api.workspaces.everything()
    assert "/v1/organizations/workspaces" in str(caught.value)
