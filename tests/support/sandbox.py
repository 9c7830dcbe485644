"""A sandbox for a test, in this process or as a child, and a client of its control API."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any
from unittest.mock import patch

import httpx

from cli.local.sandbox import SandboxAddress
from sandbox.control import TOKEN_HEADER
from sandbox.server import Sandbox, http_app, running_sandbox
from sandbox.world import Fault


class SandboxControl:
    """The sandbox's control API."""

    def __init__(self, http_url: str, token: str) -> None:
        self._http = httpx.Client(
            base_url=f"{http_url}/_sandbox/",
            headers={TOKEN_HEADER: token},
            timeout=10,
            trust_env=False,
        )

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def reset(self, *, minimal: bool = False) -> None:
        """Reset everything: state, clock, switches, faults, log."""
        self._send("POST", "reset", {"minimal": minimal})

    def log(self, **facts: object) -> list[dict[str, Any]]:
        """Log entries whose fields equal `facts`, e.g. `log(service="admin", write=True)`."""
        entries: list[dict[str, Any]] = self._send("GET", "log")
        return [one for one in entries if all(one[name] == value for name, value in facts.items())]

    def calls(self, **facts: object) -> list[str]:
        """The names of those calls, in order."""
        return [one["call"] for one in self.log(**facts)]

    def clear_log(self) -> None:
        """Clear the log."""
        self._send("DELETE", "log")

    def fault(self, call: str, **fields: object) -> None:
        """Add a line to the fault script; see `sandbox.world.Fault` for the fields."""
        self._send("POST", "faults", {"call": call, **fields})

    def faults(self) -> list[dict[str, Any]]:
        """The lines that have not been used up."""
        return self._send("GET", "faults")  # type: ignore[no-any-return]

    def clear_faults(self) -> None:
        """Clear the fault script."""
        self._send("DELETE", "faults")

    def advance(self, seconds: float) -> datetime:
        """Move the clock; returns its new time."""
        moved = self._send("POST", "clock", {"advance_seconds": seconds})
        return datetime.fromisoformat(moved["now"])

    def switches(self, **changes: object) -> dict[str, Any]:
        """Set some switches and return all of them."""
        return self._send("PATCH", "switches", changes)  # type: ignore[no-any-return]

    def constraints(self, **changes: object) -> dict[str, Any]:
        """Set some of the organization's constraints and return all of them."""
        return self._send("PATCH", "constraints", changes)  # type: ignore[no-any-return]

    def google(self, **changes: object) -> dict[str, Any]:
        """Set some states of the other Google APIs (`sandbox.world.GoogleState`) and return all."""
        return self._send("PATCH", "google", changes)  # type: ignore[no-any-return]

    def signals(self, **changes: object) -> dict[str, Any]:
        """Set some fields of `sandbox.signals.PushSubscription`; returns these and deliveries."""
        if changes:
            self._send("PATCH", "signals", changes)
        return self._send("GET", "signals")  # type: ignore[no-any-return]

    def audit(self) -> list[dict[str, Any]]:
        """The audit log entries of all writes since the last reset, oldest first."""
        return self._send("GET", "audit")  # type: ignore[no-any-return]

    def identity(self, name: str, **change: object) -> str:
        """Make or change an identity (`member`, `permissions`, `deny`); returns a token for it."""
        return self._send("POST", "identities", {"name": name, **change})["token"]  # type: ignore[no-any-return]

    def _send(self, method: str, path: str, body: object = None) -> Any:
        response = self._http.request(method, path, json=body)
        assert response.status_code == 200, response.text
        return response.json()


def admin_call(
    sandbox: Sandbox | SandboxAddress, method: str, path: str, body: object = None
) -> dict[str, Any]:
    """The JSON of an Admin API call as the organization's administrator."""
    answer = httpx.request(
        method,
        f"{sandbox.http}/v1/organizations/{path}",
        json=body,
        headers={"x-api-key": sandbox.admin_key, "anthropic-version": "2023-06-01"},
        trust_env=False,
    )
    return dict(answer.raise_for_status().json())


@contextmanager
def running(**options: Any) -> Iterator[tuple[Sandbox, SandboxControl]]:
    """A sandbox in this process (`sandbox.server.running_sandbox`) and its control."""
    with running_sandbox(**options) as sandbox:
        control = SandboxControl(sandbox.http, sandbox.control_token)
        try:
            yield sandbox, control
        finally:
            control.close()


@contextmanager
def handed_over(sandbox: Sandbox, when: Callable[[httpx.URL], bool]) -> Iterator[None]:
    """Pass requests of asynchronous clients to the sandbox without a socket, at half the cost.

    Args:
        sandbox: A sandbox in this process.
        when: Whether a request to this address needs no connection.
    """
    inside = httpx.ASGITransport(http_app(sandbox.world))
    before = httpx.AsyncClient._transport_for_url

    def transport(self: httpx.AsyncClient, url: httpx.URL) -> Any:
        return inside if when(url) else before(self, url)

    with patch.object(httpx.AsyncClient, "_transport_for_url", transport):
        yield


def breaks_connection(fault: Fault) -> bool:
    """Whether the fault changes the connection or the time, not only the content of a response."""
    return fault.kind not in {"error", "html"}


@dataclass(slots=True)
class SandboxProcess:
    """A sandbox as a child process."""

    process: subprocess.Popen[str]
    ready: dict[str, Any]
    control: SandboxControl

    def __getattr__(self, name: str) -> Any:
        """A field of the ready line: `http`, `grpc`, `admin_key` and the rest."""
        try:
            return self.ready[name]
        except KeyError:
            raise AttributeError(name) from None


@contextmanager
def sandbox_process(*arguments: str, module: str = "sandbox") -> Iterator[SandboxProcess]:
    """Start `python -m sandbox`, wait for its ready line, and end it with the block."""
    command = [sys.executable, "-m", module, *arguments]
    with tempfile.TemporaryFile("w+") as errors, _child(command, errors) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            errors.seek(0)
            raise AssertionError(f"the sandbox did not start: {errors.read()}")
        ready = json.loads(line)
        control = SandboxControl(ready["http"], ready["control_token"])
        try:
            yield SandboxProcess(process, ready, control)
        finally:
            control.close()


@contextmanager
def _child(command: list[str], errors: IO[str]) -> Iterator[subprocess.Popen[str]]:
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=root
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
