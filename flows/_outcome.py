"""Report the outcome of a run: a report that can't be published never hides the outcome."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

from prefect import get_run_logger

from cmek.errors import CmekError, listed


class ReportUnfinishedError(CmekError):
    """The outcome that the message begins with is real; only a part of its report is missing."""


class Report:
    """The parts of one report; each is tried, even if others fail."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    async def part(self, name: str, doing: Awaitable[object]) -> None:
        """Await one part; a failure is logged, and named in the final message."""
        try:
            await doing
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not hide the outcome
            self.add_failure(name, error)

    def add_failure(self, name: str, error: Exception) -> None:
        """Log a failure, and name it in the final message."""
        get_run_logger().error("Not published: %s", name, exc_info=error)
        self.failed.append(f"{name} ({type(error).__name__}: {error})")


@asynccontextmanager
async def reporting(
    happened: str, advice: str = "", *, denial: type[Exception] | tuple[()] = ()
) -> AsyncIterator[Report]:
    """Report an outcome in parts.

    Args:
        happened: The outcome, for the run's message.
        advice: What to do when a part of the report is missing.
        denial: An error that contradicts the outcome; it is raised unchanged.

    Raises:
        ReportUnfinishedError: A part failed, or something outside the parts; the message begins
            with the outcome.
    """
    report = Report()
    try:
        yield report
    except denial:
        raise
    except Exception as error:  # noqa: BLE001 - as of a part
        report.add_failure("the whole report", error)
    if report.failed:
        missing = listed(report.failed, separator="; ")
        raise ReportUnfinishedError(f"{happened}. Not published: {missing}. {advice}".strip())
