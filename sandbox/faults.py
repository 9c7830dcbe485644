"""The fault script: which call goes wrong, when, how and how often."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Fault(BaseModel):
    """One line of the script.

    Kinds: `error` answers with `status` (HTTP code or gRPC status name) and, when given, `body`
    (HTTP JSON) or `details` (Google error details as JSON with `@type`); `delay` waits `seconds`
    and goes on; `reset` breaks the connection in the middle of the answer (gRPC: UNAVAILABLE);
    `truncate` sends half of the JSON with status 200; `html` answers as a proxy would; `late`
    (HTTP, before) breaks the connection now, and the call takes effect `seconds` later.
    """

    model_config = ConfigDict(extra="forbid")

    call: str = Field(
        description="fnmatch pattern over the log's call name, e.g. `CreateCryptoKey`"
    )
    resource: str = Field(default="*", description="fnmatch pattern over the log's resource")
    when: Literal["before", "after"] = "before"
    kind: Literal["error", "delay", "reset", "truncate", "html", "late"] = "error"
    status: int | str = 503
    message: str = "injected fault"
    error_code: str | None = Field(default=None, description="of the Admin API's typed errors")
    body: dict[str, Any] | None = None
    details: list[dict[str, Any]] = Field(default_factory=list)
    headers: dict[str, str] = Field(default_factory=dict)
    seconds: float = 0.0
    times: int = Field(default=1, ge=1, description="how often it strikes")
    skip: int = Field(default=0, ge=0, description="matching calls that pass unharmed first")


class Faults:
    """The script's state."""

    def __init__(self) -> None:
        self.script: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Append a line."""
        self.script.append(fault)

    def clear(self) -> None:
        """Forget the script."""
        self.script.clear()

    def take(self, call: str, when: Literal["before", "after"], resource: str = "") -> Fault | None:
        """The fault that strikes this call now, used up by one."""
        for fault in self.script:
            if fault.when != when or not fnmatchcase(call, fault.call):
                continue
            if not fnmatchcase(resource, fault.resource):
                continue
            if fault.skip:
                fault.skip -= 1
                continue
            fault.times -= 1
            if not fault.times:
                self.script.remove(fault)
            return fault
        return None
