"""Assertions about the end of a run that must not attach."""

from __future__ import annotations

from tests.support.onboarding import Run


def assert_stopped(run: Run, *says: str) -> None:
    """The run failed with these words, and nothing was written outside."""
    assert run.state == "Failed", run.message
    for words in says:
        assert words in run.message
    assert run.bench.writes() == []


def assert_not_attached(run: Run, *says: str) -> None:
    """The run failed with these words, and no attach was sent."""
    assert run.state == "Failed", run.message
    for words in says:
        assert words in run.message
    assert run.bench.attaches() == []


def assert_waiting(run: Run, *says: str) -> None:
    """The run waits for a response, with these words in its text, and no attach was sent."""
    assert run.state == "Suspended", run.message
    for words in says:
        assert words in run.text()
    assert run.bench.attaches() == []
