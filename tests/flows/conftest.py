"""One sandbox a file, a new state of it a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.kept import forget_made_keys
from tests.support.onboarding import Onboardings, onboardings


@pytest.fixture(scope="module")
def _bench(prefect_server: None) -> Iterator[Onboardings]:
    with onboardings() as bench:
        yield bench


@pytest.fixture
def bench(_bench: Onboardings) -> Onboardings:
    """Server, sandbox and records as new: nothing claims a workspace, nothing tells of one."""
    _bench.control.reset()
    forget_made_keys()
    for run in _bench.client.read_flow_runs():
        if run.state is None or not run.state.is_final():
            _bench.client.delete_flow_run(run.id)
    for artifact in _bench.client.read_artifacts():
        _bench.client.delete_artifact(artifact.id)
    return _bench
