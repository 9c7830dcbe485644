"""What a read gave: an answer, or a refusal that no check takes for good news."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Final, Generic, TypeAlias

from cmek.admin_errors import AdminApiError
from cmek.google_errors import GoogleApiError
from cmek.transport_retry import T

READ_SECONDS: Final = 25.0
"""How long one read may take with all its attempts; a check then says `unknown`."""


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """The service answered."""

    value: T


@dataclass(frozen=True, slots=True)
class Refused:
    """The service refused, failed, or did not answer in time."""

    status: str
    """Google's canonical name (`PERMISSION_DENIED`), the Admin API's HTTP status, or `TIMEOUT`."""
    text: str
    reason: str | None = None
    """Google's ErrorInfo reason, such as `SERVICE_DISABLED`."""
    service: str | None = None
    """The API that refused, where Google names it."""
    consumer: str | None = None
    """`projects/N`, in which that API has to be on: the caller's quota project, at times."""
    remedy: str | None = None

    def __str__(self) -> str:
        return self.text

    @property
    def is_api_off(self) -> bool:
        """Whether the API is not enabled."""
        return self.reason == "SERVICE_DISABLED"

    @property
    def is_perimeter(self) -> bool:
        """Whether VPC Service Controls turned the read away."""
        return self.reason == "SECURITY_POLICY_VIOLATED"


Read: TypeAlias = Answer[T] | Refused


async def attempt(read: Awaitable[T]) -> Read[T]:
    """Wait for a read and catch what the clients raise.

    Other exceptions are bugs and go through.
    """
    try:
        async with asyncio.timeout(READ_SECONDS):
            return Answer(await read)
    except GoogleApiError as error:
        return _google(error)
    except AdminApiError as error:
        return Refused(str(error.status or "CONNECTION"), str(error), remedy=error.advice or None)
    except TimeoutError:
        return Refused("TIMEOUT", f"no answer within {READ_SECONDS:.0f} s")


def value_of(read: Read[T] | None) -> T | None:
    """The answer, or None when there is none."""
    return read.value if isinstance(read, Answer) else None


def _google(error: GoogleApiError) -> Refused:
    problem = error.problem
    return Refused(
        problem.status,
        str(error),
        reason=problem.reason,
        service=problem.metadata.get("service"),
        consumer=problem.metadata.get("consumer"),
        remedy=problem.advice or None,
    )
