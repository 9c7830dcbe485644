"""How many requests the checks make, and how deep they depend on each other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import accumulate

import pytest

from sandbox.server import Sandbox
from sandbox.world import Entry
from tests.support.checking import check
from tests.support.sandbox import running
from tests.support.staging import EXTERNAL_KEY, WORKSPACE, Stage

pytestmark = pytest.mark.anyio

WAVES = (18, 10, 1)
"""How many requests wait for no other one, for one and for two."""


@pytest.fixture(scope="module")
def stage() -> Iterator[tuple[Sandbox, Stage]]:
    """A key, ring and attached workspace under one folder, so that every read has a subject."""
    with running(minimal=True) as (sandbox, _):
        stage = Stage(sandbox.world)
        stage.reset()
        stage.key()
        stage.perimeter()
        stage.world.admin.workspaces[WORKSPACE].external_key_id = EXTERNAL_KEY
        stage.world.log.clear()
        yield sandbox, stage


async def test_all_checks_make_29_requests_in_3_waves(
    stage: tuple[Sandbox, Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is one folder level, every read has a subject, and no request is made twice.

    No request is answered before its whole wave has arrived.
    """
    sandbox, set_up = stage
    await check(sandbox)  # warms the server
    set_up.world.log.clear()
    entries = set_up.world.log.entries

    def wave_is_complete(entry: Entry) -> bool:
        before = entry.number - entries[0].number
        return len(entries) >= next((all_ for all_ in accumulate(WAVES) if before < all_), 0)

    monkeypatch.setattr(set_up.world, "may_go_on", wave_is_complete)
    async with asyncio.timeout(30):
        await check(sandbox)
    assert len(entries) == sum(WAVES)
    assert len({(one.call, one.resource, str(one.request)) for one in entries}) == len(entries)


async def test_the_names_of_all_requests(stage: tuple[Sandbox, Stage]) -> None:
    """The requests by name, as the documentation lists them."""
    sandbox, set_up = stage
    set_up.world.log.clear()
    await check(sandbox)
    counts: dict[str, int] = {}
    for entry in set_up.world.log.entries:
        counts[_name(entry)] = counts.get(_name(entry), 0) + 1
    assert counts == {
        "kms GetLocation": 1, "kms GetKeyRing": 1, "kms GetCryptoKey": 1,
        "kms GetIamPolicy": 2, "kms TestIamPermissions": 2,
        "admin organization.me": 1, "admin external_keys.list": 1,
        "admin workspaces.retrieve": 1, "admin external_keys.retrieve": 1,
        "google cloudresourcemanager.projects.get": 1,
        "google cloudresourcemanager.projects.getAncestry": 1,
        "google cloudresourcemanager.projects.getIamPolicy": 1,
        "google cloudresourcemanager.folders.getIamPolicy": 1,
        "google cloudresourcemanager.organizations.getIamPolicy": 1,
        "google cloudresourcemanager.projects.testIamPermissions": 1,
        "google cloudbilling.projects.getBillingInfo": 1,
        "google serviceusage.services.get": 1,
        "google orgpolicy.projects.policies.getEffectivePolicy": 6,
        "google orgpolicy.organizations.customConstraints.list": 1,
        "google accesscontextmanager.accessPolicies.list": 1,
        "google accesscontextmanager.accessPolicies.servicePerimeters.list": 1,
        "google kmsinventory.projects.locations.keyRings.cryptoKeys"
        ".getProtectedResourcesSummary": 1,
    }  # fmt: skip
    assert sum(counts.values()) == 29


def _name(entry: Entry) -> str:
    return f"{entry.service} {entry.call}"
