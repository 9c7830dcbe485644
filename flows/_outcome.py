"""Report what a run has done: a report that can't be published never hides that."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager

from prefect import get_run_logger

from cmek.errors import CmekError, listed
from tasks.attachment import ReadBackMismatchError


class ReportUnfinishedError(CmekError):
    """What the message says first has happened; only a part of its report failed."""


class Report:
    """The parts of one report: each is tried, whatever becomes of the others."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    async def part(self, name: str, doing: Awaitable[object]) -> None:
        """Do one part; a failure is logged, and named at the end."""
        with self._keeping_failure(name):
            await doing

    @contextmanager
    def _keeping_failure(self, name: str) -> Iterator[None]:
        try:
            yield
        except ReadBackMismatchError:
            raise  # it says that the outcome is another
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not hide the outcome
            get_run_logger().exception("Not published: %s", name)
            self.failed.append(f"{name} ({type(error).__name__}: {error})")


@asynccontextmanager
async def reporting(happened: str, advice: str = "") -> AsyncIterator[Report]:
    """Report an outcome in parts.

    Args:
        happened: The outcome, for the run's message.
        advice: What to do when a part of the report is missing.

    Raises:
        ReportUnfinishedError: A part failed, or what is needed for all of them; the message begins
            with the outcome.
        ReadBackMismatchError: The outcome is another.
    """
    report = Report()
    with report._keeping_failure("the whole report"):  # noqa: SLF001 - a part like the others
        yield report
    if report.failed:
        missing = listed(report.failed, separator="; ")
        raise ReportUnfinishedError(f"{happened}. Not published: {missing}. {advice}".strip())
