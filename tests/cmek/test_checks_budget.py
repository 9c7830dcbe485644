"""How many requests the checks make, and how deep they depend on each other."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import pytest

from sandbox.server import Sandbox
from sandbox.world import Entry
from tests.support.checking import check
from tests.support.sandbox import running
from tests.support.staging import EXTERNAL_KEY, WORKSPACE, Stage

pytestmark = pytest.mark.anyio

LATENCY = 1.0


@pytest.fixture(scope="module")
def stage() -> Iterator[tuple[Sandbox, Stage]]:
    """A key, ring and attached workspace under one folder: the most that there is to read."""
    with running(minimal=True) as (sandbox, _):
        stage = Stage(sandbox.world)
        stage.reset()
        stage.key()
        stage.perimeter()
        stage.world.admin.workspaces[WORKSPACE].external_key_id = EXTERNAL_KEY
        stage.world.log.clear()
        yield sandbox, stage


async def test_all_checks_make_at_most_32_requests_in_3_waves(
    stage: tuple[Sandbox, Stage],
) -> None:
    """With one folder level and everything there to be read; none is made twice."""
    sandbox, set_up = stage
    await check(sandbox)  # warms the server
    set_up.world.log.clear()
    set_up.world.google.latency_seconds = LATENCY
    set_up.world.switches.kms_latency_seconds = LATENCY
    await check(sandbox)
    entries = set_up.world.log.entries
    assert len(entries) <= 32
    assert len({(one.call, one.resource, str(one.request)) for one in entries}) == len(entries)
    starts = sorted(datetime.fromisoformat(one.time).timestamp() for one in entries)
    assert _longest_chain(starts) == 3


def _longest_chain(starts: list[float]) -> int:
    """How many requests can have waited for one another: each begins when the one before has ended.

    Requests of one wave begin apart on a busy machine, and yet never by a whole latency.
    """
    chain, ended = 0, 0.0
    for start in starts:
        if start >= ended:
            chain, ended = chain + 1, start + LATENCY
    return chain


async def test_the_names_of_all_requests(stage: tuple[Sandbox, Stage]) -> None:
    """The list that the documentation gives, each request by its name."""
    sandbox, set_up = stage
    set_up.world.google.latency_seconds = set_up.world.switches.kms_latency_seconds = 0.0
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
