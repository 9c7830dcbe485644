"""`cmek rehearse` and `cmek up` as a newcomer runs them: alone, and gone afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import CMEK, clean_environment, cmek

pytestmark = pytest.mark.e2e
SECONDS = 200


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """The temporary directory of the command, where a stack makes its home."""
    made = tmp_path / "scratch"
    made.mkdir()
    return made


@pytest.fixture
def environment(tmp_path: Path, scratch: Path) -> dict[str, str]:
    """A newcomer's environment, in which all that is started can be found again."""
    return clean_environment(tmp_path, TMPDIR=str(scratch))


def leftovers(scratch: Path) -> list[str]:
    """Processes whose environment names the directory, and what is in it."""
    found = [str(one) for one in scratch.iterdir()]
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if str(scratch).encode() in environ.read_bytes():
                found.append(environ.with_name("cmdline").read_text().replace("\0", " "))
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


def wait_for_text(process: subprocess.Popen[bytes], output: Path, text: str) -> None:
    """Wait until the command has printed something."""
    deadline = time.monotonic() + SECONDS
    while text not in output.read_text():
        assert process.poll() is None, output.read_text()
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.1)


def test_a_rehearsal_attaches_a_key_and_a_second_one_writes_nothing(
    environment: dict[str, str], tmp_path: Path, scratch: Path
) -> None:
    """One JSON object on standard output, everything else on the other, nothing left behind."""
    ended = cmek("rehearse", "--json", "--twice", environment=environment, directory=tmp_path)
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout)
    assert result["run_state"] == "Attached"
    assert result["key_name"].startswith("projects/acme-kms-prod/locations/us-east5/")
    assert result["external_key_id"].startswith("ekey_")
    assert len(result["plan_digest"]) == 64
    assert {"admin", "kms"} <= set(result["calls"])
    assert {"server", "until the ask", "total"} <= set(result["seconds"])
    assert (result["again"]["run_state"], result["again"]["writes"]) == ("Already attached", 0)
    assert "approving, because this is the sandbox" in ended.stderr
    assert leftovers(scratch) == []


def test_a_rehearsal_that_is_stopped_in_the_middle_of_a_run_leaves_nothing(
    environment: dict[str, str], tmp_path: Path, scratch: Path
) -> None:
    """SIGTERM while the run's own process works: it goes too, though it left the group."""
    with started(["rehearse"], environment, tmp_path) as (process, output):
        wait_for_text(process, output, "✓")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
    assert leftovers(scratch) == []


def test_a_rehearsal_of_a_workspace_that_cannot_be_onboarded_fails_and_cleans_up(
    environment: dict[str, str], tmp_path: Path, scratch: Path
) -> None:
    """The exit code is 0 only for an attached key; the JSON is printed all the same."""
    archived = ("--workspace", "wrkspc_01RetiredTeam11111111111")
    ended = cmek("rehearse", "--json", *archived, environment=environment, directory=tmp_path)
    assert ended.returncode == 1
    assert json.loads(ended.stdout)["external_key_id"] is None
    assert "archived" in ended.stderr
    assert leftovers(scratch) == []


def test_up_says_what_to_click_and_ends_with_ctrl_c(
    environment: dict[str, str], tmp_path: Path, scratch: Path
) -> None:
    """Addresses, sample workspaces, logs; SIGINT stops and removes all of it."""
    with started(["up"], environment, tmp_path) as (process, output):
        wait_for_text(process, output, "Ctrl-C")
        text = output.read_text()
        assert "wrkspc_01PaymentsProd1111111111" in text
        assert "export PREFECT_API_URL=http://127.0.0.1:" in text
        logs = [line.rpartition(" ")[2] for line in text.splitlines() if "Log of the" in line]
        assert all(Path(log).exists() for log in logs)
        assert len(logs) == 3
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(30) == 128 + signal.SIGINT
    assert leftovers(scratch) == []
