"""Every call that reached the sandbox, in order: what tests count and name."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Service = Literal["kms", "admin", "oauth", "google"]


@dataclass(slots=True)
class Entry:
    """One call. `call` is the same whatever the transport.

    KMS and its mixins use the RPC name (`GetCryptoKey`, `SetIamPolicy`), the Admin API the name
    in Anthropic's documentation (`external_keys.create`), the Google APIs of the checks their
    discovery method id without the version (`cloudbilling.projects.getBillingInfo`).
    """

    number: int
    time: str
    service: Service
    call: str
    transport: Literal["grpc", "http"]
    resource: str
    caller: str
    write: bool
    """Create, update, setIamPolicy, attach, …; validate and reads by POST are not writes."""
    effect: bool = False
    """Whether the call reached the state: false when a fault or an error came first."""
    status: str = "PENDING"
    """`OK`, a gRPC status name, or an HTTP status code as text."""
    request: dict[str, Any] = field(default_factory=dict)
    """The request body as JSON; for HTTP also `{"_http": {"method", "path", "query"}}`."""
    response: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


class RequestLog:
    """Append-only, cleared only by a test."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._number = 0

    def begin(self, **facts: Any) -> Entry:  # noqa: ANN401
        """Open an entry before anything happens to the call; the caller completes it."""
        self._number += 1
        entry = Entry(number=self._number, **facts)
        self.entries.append(entry)
        return entry

    def clear(self) -> None:
        """Forget what was logged; numbers go on."""
        self.entries.clear()
