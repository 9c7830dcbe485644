"""The base of every error that this project raises on purpose."""

from __future__ import annotations

from typing import Final

from cmek.plain_text import plain, shortened

MAX_MESSAGE: Final = 4000
"""Characters of a message: states, logs and notifications repeat it."""


class CmekError(Exception):
    """Says what happened, to which resource, and what to do; never holds a secret.

    The command prints any of them as one message without a traceback. What is no `CmekError` is a
    bug and keeps its traceback.
    """

    def __str__(self) -> str:
        # what a service or a person has said is in many messages, and every reader shows them
        text = plain(self._message(), lines=True)
        return text if len(text) <= MAX_MESSAGE else shortened(text, MAX_MESSAGE)

    def _message(self) -> str:
        """As the error was raised; a subclass with facts of its own puts them together here."""
        return super().__str__()

    @property
    def resource(self) -> str | None:
        """What it is about, by its name at the service; None where that is not known."""
        return None

    @property
    def advice(self) -> str:
        """What to do about it; empty where the message says it already."""
        return ""
