"""No proxy sees a run or a command on this machine, Prefect's own client included."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.deploy import PROJECT
from cli.main import bypass_proxies
from tests.support.command import clean_environment, cmek
from tests.support.production import environment_of
from tests.support.requests import APPROVER
from tests.support.stack import running_stack
from tests.support.web_server import recording_proxy


@pytest.mark.e2e
@pytest.mark.prove
def test_no_proxy_sees_a_run_or_a_command_on_this_machine(tmp_path: Path) -> None:
    """The worker has the shipped settings; the commands' environment has no exceptions."""
    shipped = environment_of(PROJECT / "deploy/env/worker.env")
    exceptions = {name: shipped[name] for name in ("NO_PROXY", "no_proxy")}
    with (
        recording_proxy() as (proxies, seen),
        running_stack(extra_environment=proxies | exceptions) as stack,
    ):
        user = clean_environment(tmp_path, PREFECT_API_URL=stack.local.api_url, **proxies)

        def run(*arguments: str) -> str:
            ended = cmek(*arguments, environment=user, directory=tmp_path)
            assert ended.returncode == 0, ended.stdout + ended.stderr
            return ended.stdout

        workspace, project = stack.workspace("fresh"), stack.local.sandbox.project_id
        run("onboard", workspace, "--project", project, "--requested-by", "ada@example.com")
        (started,) = stack.runs_of(workspace)
        asked = stack.wait_for_pending(started)
        assert str(started.id) in run("pending", "--json")
        person = ("--approver", APPROVER, "--comment", "fine", "--acknowledge-warnings")
        typed = ("--workspace-id", workspace, "--plan-digest", asked.plan_digest)
        run("approve", str(started.id), *typed, *person)
        assert stack.is_attached(workspace)
        for command in (("history", workspace), ("policy", "show"), ("leftovers",)):
            run(*command)
        cmek("status", "--all", environment=user, directory=tmp_path)
        run("evidence", "export", workspace, "--out", str(tmp_path / "evidence.json"))
        cmek("doctor", environment=user, directory=tmp_path)
        assert seen == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, "127.0.0.1,localhost,::1"),
        ({"NO_PROXY": "corp.example"}, "corp.example,127.0.0.1,localhost,::1"),
        ({"no_proxy": "localhost"}, "localhost,127.0.0.1,::1"),
        ({"no_proxy": "a", "NO_PROXY": "b"}, "a,b,127.0.0.1,localhost,::1"),
    ],
)
def test_a_commands_exceptions_are_added_to_those_of_its_environment(
    before: dict[str, str], after: str
) -> None:
    """Both spellings get them, since some libraries read only one of the two."""
    environment = dict(before)
    bypass_proxies(environment)
    assert environment == {"no_proxy": after, "NO_PROXY": after}


def test_an_exception_for_everything_is_kept() -> None:
    """An added name would end the exception: libraries compare the whole value with a star."""
    environment = {"NO_PROXY": "*"}
    bypass_proxies(environment)
    assert environment == {"NO_PROXY": "*"}
