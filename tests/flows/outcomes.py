"""How a run ends that must not attach, as one assertion each."""

from __future__ import annotations

from tests.support.onboarding import Run


def assert_stopped(run: Run, *says: str) -> None:
    """Failed with these words, and nothing was written outside."""
    assert run.state == "Failed", run.message
    for words in says:
        assert words in run.message
    assert run.bench.writes() == []


def assert_not_attached(run: Run, *says: str) -> None:
    """Failed with these words, and no attach was sent."""
    assert run.state == "Failed", run.message
    for words in says:
        assert words in run.message
    assert run.bench.attaches() == []


def assert_waiting(run: Run, *says: str) -> None:
    """Waits for a response, with a text that has these words, and no attach was sent."""
    assert run.state == "Suspended", run.message
    for words in says:
        assert words in run.text()
    assert run.bench.attaches() == []
