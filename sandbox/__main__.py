"""`python -m sandbox` and `cmek sandbox`: run the sandbox until SIGTERM or Ctrl-C."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sandbox import seed
from sandbox.admin import webhooks
from sandbox.server import serve
from sandbox.world import World


def sandbox_command(  # noqa: PLR0913 - the options of a command
    *,
    http_port: Annotated[int, typer.Option(min=0, max=65535, help="0 chooses a free one.")] = 0,
    grpc_port: Annotated[int, typer.Option(min=0, max=65535, help="0 chooses a free one.")] = 0,
    minimal: Annotated[bool, typer.Option("--minimal", help="Only two fresh workspaces.")] = False,
    webhook_url: Annotated[
        str | None, typer.Option(help="Loopback address for webhooks about external keys.")
    ] = None,
    webhook_secret_file: Annotated[
        Path | None, typer.Option(help="File with the signing secret, whsec_… .")
    ] = None,
    push_url: Annotated[
        str | None, typer.Option(help="Loopback address for pushes of audit log entries.")
    ] = None,
    push_audience: Annotated[
        str | None, typer.Option(help="Audience of the pushes' token; the address by default.")
    ] = None,
    push_account: Annotated[
        str | None, typer.Option(help="Service account that the pushes' token names.")
    ] = None,
) -> None:
    """Run the sandbox on loopback until SIGTERM or Ctrl-C.

    Prints one line of JSON when it is ready: addresses, fake credentials, sample workspaces.
    """
    try:
        world = seed.new_world(minimal=minimal)
        for name, value in (("url", push_url), ("audience", push_audience)):
            setattr(world.signals.push, f"push_{name}", value)
        if push_account is not None:
            world.signals.push.push_account = push_account
        if webhook_url is not None:
            _register_webhook(world, webhook_url, webhook_secret_file)
        serve(http_port, grpc_port, world=world)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        raise typer.Exit(1) from None


def _register_webhook(world: World, url: str, secret_file: Path | None) -> None:
    if secret_file is None:
        message = "--webhook-url needs --webhook-secret-file, which holds the signing secret"
        raise ValueError(message)
    secret = secret_file.read_text(encoding="utf-8").strip()
    webhooks.register(world, url, ["external_key.failed", "external_key.recovered"], secret)


if __name__ == "__main__":
    typer.run(sandbox_command)
