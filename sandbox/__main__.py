"""`python -m sandbox` and `cmek sandbox`: run the sandbox until SIGTERM or Ctrl-C."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from sandbox.server import serve


def sandbox_command(
    http_port: Annotated[int, typer.Option(help="0 chooses a free one.")] = 0,
    grpc_port: Annotated[int, typer.Option(help="0 chooses a free one.")] = 0,
    minimal: Annotated[bool, typer.Option("--minimal", help="Only two fresh workspaces.")] = False,
) -> None:
    """Run the sandbox on loopback until SIGTERM or Ctrl-C.

    Prints one line of JSON when it is ready: addresses, fake credentials, sample workspaces.
    """
    try:
        serve(http_port, grpc_port, minimal=minimal)
    except (OSError, RuntimeError) as error:
        sys.stderr.write(f"error: {error}\n")
        raise typer.Exit(1) from None


if __name__ == "__main__":
    typer.run(sandbox_command)
