"""Runs without a Prefect server, and the two exceptions that stop an execution half way."""

from __future__ import annotations

import uuid
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

import flows._attach
import flows.onboard
from cmek.evidence.record import Chain, loads
from cmek.onboarding.approval_request import ApprovalRequest
from cmek.onboarding.request import OnboardingRequest
from tests.support.requests import form_of


class Suspended(BaseException):
    """The run waits for a response. Like Prefect's `Pause` it is no `Exception` to be handled."""


class Killed(BaseException):
    """The process was killed in the middle of its work."""


class _Record(BaseModel):
    text: str


@dataclass(kw_only=True)
class AnyRun:
    """What Prefect's server and the worker's records store of a run of any flow."""

    id: uuid.UUID = field(default_factory=uuid.uuid4)
    attempt: int = 1
    state: str = "Scheduled"
    message: str = ""
    error: Exception | None = None
    memory: dict[str, str] = field(default_factory=dict)

    def work(self) -> Coroutine[Any, Any, Any]:
        """The flow's code, not yet begun.

        Raises:
            NotImplementedError: A subclass must name its flow.
        """
        raise NotImplementedError

    def check_error(self, about: str) -> None:
        """Check that a run which failed has an error type of ours, whatever happened outside.

        Raises:
            AssertionError: it has another one.
        """
        owner = type(self.error).__module__.partition(".")[0]
        assert self.error is None or owner in {"cmek", "flows", "tasks"}, f"{about}: {self.message}"

    def retry(self) -> None:
        """What *Retry* in the UI does."""
        self.attempt += 1
        self.state = "Scheduled"
        self.error = None


@dataclass
class DrivenRun(AnyRun):
    """A run of the onboarding."""

    parameters: OnboardingRequest
    """The request to which the form resolves."""
    claimed: bool = False
    suspended_at: list[str] = field(default_factory=list)
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    create_sent: bool = False

    def work(self) -> Coroutine[Any, Any, Any]:
        """The onboarding flow."""
        return flows.onboard.onboard_workspace.fn(form_of(self.parameters))

    def evidence(self) -> Chain | None:
        """Its evidence, verified; None before there is any."""
        text = self.memory.get("evidence")
        return loads(_Record.model_validate_json(text).text) if text is not None else None

    @property
    def is_over(self) -> bool:
        """Whether only a retry would execute it again."""
        return self.state not in {"Scheduled", "Suspended", "Running"}

    def approval_request(self, key: str | None = None) -> ApprovalRequest | None:
        """The approval request with this key, or the latest one; None without a record of it."""
        if not self.suspended_at:
            return None
        named = key or self.suspended_at[-1]
        text = self.memory.get(named.replace("attach-", "approval-request-", 1))
        return (
            flows._attach.ApprovalRequestRecord.model_validate_json(text).approval_request
            if text
            else None
        )
