"""One sandbox for the whole folder, emptied for each test of Cloud KMS."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from sandbox.kms.state import KmsState
from sandbox.server import Sandbox
from sandbox.world import GoogleState, Switches
from tests.support.admin import Admin, running_admin
from tests.support.discovery import discovery
from tests.support.kms import Client, Kms, grpc_client, rest_client
from tests.support.sandbox import running


@pytest.fixture(scope="session")
def room() -> Iterator[tuple[Sandbox, Client, Client]]:
    """The folder's sandbox and its clients; a test takes `kms` instead."""
    with running(minimal=True) as (sandbox, _):
        yield sandbox, grpc_client(sandbox), rest_client(sandbox)


@pytest.fixture
def kms(room: tuple[Sandbox, Client, Client]) -> Iterator[Kms]:
    """An empty Cloud KMS; afterwards every REST call of the test must fit Google's document."""
    sandbox, grpc, rest = room
    world = sandbox.world
    world.kms = KmsState()
    world.google = GoogleState()
    world.clock.offset = timedelta(0)
    world.faults.clear()
    world.log.clear()
    for name, value in Switches():
        setattr(world.switches, name, value)
    for identity in (world.identities.administrator, world.identities.onboarding):
        identity.permissions = "all"
        identity.denied.clear()
    world.identities.anthropic.denied.clear()
    yield Kms(sandbox, grpc, rest)
    document = discovery("cloudkms.v1")
    for entry in world.log.entries:
        served = entry.service == "kms" and entry.transport == "http"
        if served and not entry.status.startswith(("FAULT", "400")):
            assert document.violations(entry.to_json()) == []


@pytest.fixture(params=["grpc", "rest"])
def client(request: pytest.FixtureRequest, kms: Kms) -> Client:
    """The official client on each of its transports."""
    return kms.grpc if request.param == "grpc" else kms.rest


@pytest.fixture(scope="module")
def admin_sandbox() -> Iterator[Admin]:
    """A sandbox for the Admin API, in this process, one for each file."""
    with running_admin() as one:
        yield one


@pytest.fixture
def admin(admin_sandbox: Admin) -> Admin:
    """A new organization with fresh workspaces only."""
    admin_sandbox.control.reset(minimal=True)
    return admin_sandbox


@pytest.fixture
def full(admin_sandbox: Admin) -> Admin:
    """A new organization with every sample workspace."""
    admin_sandbox.control.reset()
    return admin_sandbox
