"""`cmek gateway`: the process that holds the Admin API credential."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.app import serve
from gateway.settings import CONFIG, load_settings


def gateway_command(
    config: Annotated[Path, typer.Option(help="The settings, a TOML file.")] = CONFIG,
) -> None:
    """Hold the Admin API credential, and attach only what approvers have signed.

    Prints one line of JSON with its address when it is ready; its log is on standard error.
    """
    serve(load_settings(config))
