"""The `cmek` command line."""

from __future__ import annotations

from collections.abc import Sequence

import typer
from prefect.exceptions import PrefectHTTPStatusError
from rich.console import Console

from cli import deploy as automations
from cli import show as evidence
from cli.approve import approve_command, pending_command, reject_command, sign_command
from cli.deploy import deploy_command
from cli.local.rehearse import rehearse_command, up_command
from cli.onboard import FIELDS_HELP, check_command, onboard_command
from cli.show import history_command, status_command, terraform_command
from cli.terminal import printable
from cmek.errors import CmekError
from sandbox.__main__ import sandbox_command

app = typer.Typer(
    help="Put Cloud KMS keys under Anthropic workspaces, with a plan and an approval.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("rehearse")(rehearse_command)
app.command("up")(up_command)
app.command("deploy")(deploy_command)
app.command("onboard", epilog=FIELDS_HELP)(onboard_command)
app.command("pending")(pending_command)
app.command("approve")(approve_command)
app.command("reject")(reject_command)
app.command("sign")(sign_command)
app.command("check", epilog=FIELDS_HELP)(check_command)
app.command("status")(status_command)
app.command("history")(history_command)
app.command("terraform")(terraform_command)
app.command("sandbox")(sandbox_command)
app.add_typer(evidence.app, name="evidence")
app.add_typer(automations.app, name="automations")

_EXPECTED = (CmekError, OSError, PrefectHTTPStatusError)
"""What a person can act on by its text alone; anything else is a defect and shows its trace."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; 1 and one message on standard error when something was refused."""
    try:
        app(args=arguments)
    except _EXPECTED as error:
        Console(stderr=True).print(f"[red]error:[/] {printable(error)}", soft_wrap=True)
        raise SystemExit(1) from None
