"""Several workspaces appear at once: one run each waits, and all are attached at the end."""

from __future__ import annotations

import pytest

from benchmarks.burst import burst
from tests.support.stack import running_stack

pytestmark = [pytest.mark.e2e, pytest.mark.prove, pytest.mark.timeout(600)]


def test_workspaces_that_appear_at_once_are_all_attached_and_none_twice() -> None:
    """Two discoveries that start together find them; `make bench` does it with a hundred."""
    with running_stack() as stack:
        assert burst(stack, 6).problems == []
