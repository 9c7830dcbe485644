"""The base of every error that this project raises on purpose."""

from __future__ import annotations


class CmekError(Exception):
    """Says what happened, to which resource, and what to do; never holds a secret.

    The command prints any of them as one message without a traceback. What is no `CmekError` is a
    bug and keeps its traceback.
    """

    @property
    def resource(self) -> str | None:
        """What it is about, by its name at the service; None where that is not known."""
        return None

    @property
    def advice(self) -> str:
        """What to do about it; empty where the message says it already."""
        return ""
