"""The sandbox as a child process, and the content of its ready line."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from cli.local.processes import Child, start_module, wait_for
from cmek.models import FrozenModel

_SANDBOX_START_SECONDS = 30.0


class SampleWorkspace(FrozenModel):
    """A workspace that the sandbox starts with, and the state that it is in."""

    id: str
    name: str
    state: str


class SandboxAddress(FrozenModel):
    """The sandbox's ready line: where it listens, and its (fake) identities."""

    http: str
    grpc: str
    organization_id: str
    admin_key: str
    workspaces: tuple[SampleWorkspace, ...]
    project_id: str
    google_credentials_file: Path
    control_token: str

    def workspace_in(self, state: str) -> str:
        """The id of the first sample workspace in this state.

        Raises:
            LookupError: there is none; names the states that there are.
        """
        ids = {one.state: one.id for one in reversed(self.workspaces)}
        if state not in ids:
            raise LookupError(
                f"no sample workspace is {state!r}; there are {', '.join(sorted(ids))}"
            )
        return ids[state]


def start_sandbox(
    home: Path, environment: Mapping[str, str], arguments: Sequence[str] = ()
) -> Child:
    """Start the sandbox on ports of its own choice."""
    command = ["sandbox", "--http-port", "0", "--grpc-port", "0", *arguments]
    return start_module("sandbox", command, home, environment, log="sandbox.log")


def wait_for_sandbox(sandbox: Child) -> SandboxAddress:
    """Wait for the ready line.

    Raises:
        StackError: the sandbox ended, or printed none in time.
    """
    return wait_for(
        sandbox, lambda: _ready_line(sandbox.log), what="ready", seconds=_SANDBOX_START_SECONDS
    )


def _ready_line(log: Path) -> SandboxAddress | None:
    for line in log.read_text(errors="replace", encoding="utf-8").splitlines(keepends=True):
        if line.startswith("{") and line.endswith("\n"):
            with contextlib.suppress(ValidationError):
                return SandboxAddress.model_validate_json(line)
    return None
