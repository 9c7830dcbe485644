"""A sandbox for each test file, and retries that do not wait."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandbox.server import Sandbox
from tests.support.clients import Rig, no_waiting
from tests.support.sandbox import running
from tests.support.staging import Stage

__all__ = ["no_waiting"]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """One sandbox for the file, whose world tests change directly."""
    with running(minimal=True) as (sandbox, _):
        yield sandbox


@pytest.fixture
def stage(sandbox: Sandbox) -> Stage:
    stage = Stage(sandbox.world)
    stage.reset()
    return stage


@pytest.fixture
def rig(shared_rig: Rig) -> Iterator[Rig]:
    """The file's sandbox with an empty log, no faults and the switches as at the start."""
    before = shared_rig.control.switches()
    shared_rig.control.clear_log()
    yield shared_rig
    shared_rig.control.clear_faults()
    shared_rig.control.switches(**before)
    shared_rig.control.constraints(
        allowed_policy_member_domains=None,
        allowed_protection_levels=None,
        resource_locations=None,
        perimeter_blocks="nobody",
    )
