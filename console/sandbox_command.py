"""`cmek sandbox`: the stand-in for Cloud KMS, the Google APIs and the Admin API, alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sandbox.server import serve


def sandbox_command(
    http_port: Annotated[int, typer.Option(help="0 chooses a free one.")] = 0,
    grpc_port: Annotated[int, typer.Option(help="0 chooses a free one.")] = 0,
    state: Annotated[
        Path | None, typer.Option(help="File that keeps the state across restarts.")
    ] = None,
) -> None:
    """Run the sandbox on loopback until SIGTERM or Ctrl-C.

    Prints one line of JSON when it is ready: addresses, fake credentials, sample workspaces.
    """
    serve(http_port, grpc_port, state)
