"""`cmek rehearse` and `cmek up` as a newcomer runs them: alone, and without leftovers."""

from __future__ import annotations

import contextlib
import io
import json
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from cli.client import local_client
from cli.local.rehearse import rehearse
from tests.support.command import CMEK, clean_environment, cmek
from tests.support.stack import Stack, start_run, wait_for_state
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e


@pytest.fixture
def scratch() -> Iterator[Path]:
    """The temporary directory of the command, where a stack makes its home.

    Not pytest's directory, which only its owner can enter: root's PostgreSQL has another user.
    """
    with tempfile.TemporaryDirectory(prefix="cmek-scratch-") as made:
        Path(made).chmod(0o711)
        yield Path(made)


@pytest.fixture
def environment(tmp_path: Path, scratch: Path) -> dict[str, str]:
    """A newcomer's environment, by which everything that is started can be found."""
    return clean_environment(tmp_path, TMPDIR=str(scratch))


def leftovers(scratch: Path) -> list[str]:
    """Processes whose environment names the directory, and what is in it."""
    found = [str(one) for one in scratch.iterdir()]
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(str(scratch) in value for value in process.environ().values()):
                found.append(" ".join(process.cmdline()))
    return found


@contextlib.contextmanager
def started(
    arguments: list[str], environment: dict[str, str], directory: Path
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """`cmek` in the background, its output in a file; killed at the end if it still runs."""
    output = directory / "output.txt"
    with output.open("wb") as sink:
        process = subprocess.Popen(
            [CMEK, *arguments],
            env=environment,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process, output
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30)


def end_while_it_starts(
    environment: dict[str, str], directory: Path, scratch: Path, number: int
) -> tuple[int, str]:
    """Send a rehearsal this signal when its server starts; returns its exit code and output."""
    with started(["rehearse"], environment, directory) as (process, output):
        wait_until(lambda: any(scratch.glob("*/server.log")), "starting")
        process.send_signal(number)
        return process.wait(30), output.read_text()


def test_a_rehearsal_attaches_a_key_and_a_second_one_writes_nothing(
    environment: dict[str, str], tmp_path: Path, scratch: Path
) -> None:
    """Standard output has one JSON object, standard error the rest, and nothing is left behind."""
    ended = cmek("rehearse", "--json", "--twice", environment=environment, directory=tmp_path)
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout)
    assert result["run_state"] == "Attached"
    assert result["key_name"].startswith("projects/acme-kms-prod/locations/us-east5/")
    assert result["external_key_id"].startswith("ekey_")
    assert len(result["plan_digest"]) == 64
    assert {"admin", "kms"} <= set(result["calls"])
    assert {"server", "until it waits", "total"} <= set(result["seconds"])
    assert (result["again"]["run_state"], result["again"]["writes"]) == ("Already attached", 0)
    assert "approving, because this is the sandbox" in ended.stderr
    story, _, again = ended.stderr.partition("\nOnboarding ")[2].partition("\nOnboarding ")
    assert len(story.splitlines()) <= 75, story
    assert again
    for step in ("1 Key ring", "2 Crypto key", "3 Grants", "4 Key name", "5 External key"):
        assert story.count(step) == 1, story
    assert "What to do next" in story
    assert "warning" not in story.lower().replace("other warnings", "")
    assert leftovers(scratch) == []


@pytest.mark.prove
def test_a_signed_rehearsal_attaches_through_a_gateway_and_leaves_nothing(
    environment: dict[str, str], tmp_path: Path, scratch: Path
) -> None:
    """Requester and approver are two people, and the gateway's own record names who signed."""
    ended = cmek("rehearse", "--signed", environment=environment, directory=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    story = ended.stdout.partition("\nOnboarding ")[2]
    assert len(story.splitlines()) <= 80, story
    assert "requester@example.com" in story
    assert re.search(r"journal: attached, signed by approver@example.com \(ED25519 key SHA", story)
    assert leftovers(scratch) == []


def test_a_rehearsal_that_is_stopped_while_it_starts_leaves_nothing(
    environment: dict[str, str], tmp_path: Path, scratch: Path
) -> None:
    """SIGTERM ends it after the clean-up, with the exit code of a signal."""
    code, output = end_while_it_starts(environment, tmp_path, scratch, signal.SIGTERM)
    assert code == 128 + signal.SIGTERM, output
    assert leftovers(scratch) == []


def test_a_rehearsal_that_is_killed_is_cleaned_up_by_its_reaper(
    environment: dict[str, str], tmp_path: Path, scratch: Path
) -> None:
    """There are no orphans even when none of our code could run at the end."""
    end_while_it_starts(environment, tmp_path, scratch, signal.SIGKILL)
    wait_until(lambda: leftovers(scratch) == [], "cleaned up")


@pytest.mark.prove
def test_up_says_what_to_click_and_ends_with_ctrl_c(
    environment: dict[str, str], tmp_path: Path, scratch: Path
) -> None:
    """SIGINT stops and removes everything, also a run's process, which has left its group."""
    with started(["up", "--json"], environment, tmp_path) as (process, output):
        wait_until(
            lambda: '{"ui"' in output.read_text() or process.poll() is not None, "ready", 200
        )
        text = output.read_text()
        (ready,) = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        assert f"PREFECT_API_URL={ready['api']}\n" in text
        assert "admin_key" not in str(ready)
        logs = [line.rpartition(" ")[2] for line in text.splitlines() if "Log of the" in line]
        assert [Path(log).exists() for log in logs] == [True] * 4
        workspace, url = "wrkspc_01PaymentsProd1111111111", r"PREFECT_API_URL=(http://\S+)"
        assert workspace in text
        start_a_run(re.findall(url, text)[0], workspace)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 128 + signal.SIGINT
    assert leftovers(scratch) == []


def start_a_run(api_url: str, workspace: str) -> None:
    """Start an onboarding and wait until its process works."""
    with local_client(api_url) as client:
        request = {"workspace": workspace, "project_id": "acme-kms-prod"}
        run = start_run(api_url, {**request, "requested_by": "ada@example.com"})
        wait_for_state(client, run.id, "Running", seconds=200)


def test_a_workspace_that_cannot_be_onboarded_is_no_success(stack: Stack) -> None:
    """The run's own message is shown, and nothing is reported as attached."""
    console = Console(width=200, record=True, quiet=False, file=io.StringIO())
    archived = stack.workspace("archived")
    ended = rehearse(stack.local, stack.client, archived, console)
    assert (ended.is_attached, ended.writes, ended.external_key_id) == (False, 0, None)
    assert "archived" in console.export_text()
