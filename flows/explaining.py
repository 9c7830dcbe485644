"""A key that Anthropic can't use: say why, and what mends it."""

from __future__ import annotations

from cmek.keys.diagnosis import Failure
from cmek.keys.rules import Cause
from cmek.markdown import escape
from cmek.onboarding.reports import causes_table
from cmek.onboarding.request import OnboardingRequest
from tasks.artifacts import publish
from tasks.reads import find_causes


class UnusableKeyError(Exception):
    """Anthropic can't use the key; the message has the most likely cause and what mends it."""


async def explain(request: OnboardingRequest, failure: Failure, said: str | None) -> str:
    """Diagnose, publish the table of causes, and return the first cause as a sentence.

    Args:
        request: The pinned request.
        failure: Which validation or attach failed.
        said: Anthropic's free text; shown, never interpreted.
    """
    causes = await find_causes(request, failure)
    await publish(
        "diagnosis",
        request.subject,
        f"# Why Anthropic can't use {escape(request.key_name)}\n\n"
        f"Anthropic said: {escape(said or 'nothing')} "
        f"(request {escape(failure.request_id or 'unknown')})\n\n{causes_table(causes)}",
        "causes, the most likely first",
    )
    return _first(causes)


def _first(causes: tuple[Cause, ...]) -> str:
    likely = [cause for cause in causes if cause.verdict != "excluded"]
    if not likely:
        return "every known cause is excluded; see the diagnosis artifact"
    cause = likely[0]
    return f"{cause.title} ({cause.verdict}): {cause.why} To mend it: {cause.command}"
