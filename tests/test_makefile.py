"""`make` makes the virtual environment, and makes it anew when it could not be finished."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from cli.deploy import PROJECT

PYTHON = """#!/bin/sh
# in the place of the interpreter: a whole environment costs seconds and needs its packages
[ "$1" = "-c" ] || echo "$@" >> calls
[ "$1 $2" = "-m venv" ] || exit 0
rm -rf .venv && mkdir -p .venv/bin && cp "$0" .venv/bin/python
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the Makefile, what the environment is made of, and an interpreter that notes its use."""
    shutil.copy(PROJECT / "Makefile", tmp_path)
    for name in ("requirements-dev.lock", "pyproject.toml"):
        (tmp_path / name).touch()
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def run_make(folder: Path, target: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run it with the interpreter of the folder."""
    return subprocess.run(
        ["make", target, "PYTHON=./python"],
        cwd=folder,
        env={"PATH": os.environ["PATH"], **more},
        capture_output=True,
        text=True,
        check=False,
    )


def install(folder: Path) -> list[str]:
    """What `make install` had the interpreter do."""
    calls = folder / "calls"
    calls.unlink(missing_ok=True)
    done = run_make(folder, "install")
    assert done.returncode == 0, done.stdout + done.stderr
    return calls.read_text().splitlines() if calls.exists() else []


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@needs_make
def test_an_environment_without_pip_is_made_anew(folder: Path) -> None:
    """As Debian without python3-venv leaves it, or Ctrl-C during the first step."""
    venv.create(folder / ".venv", with_pip=False, symlinks=True)
    assert install(folder)[0] == "-m venv --clear .venv"
    assert install(folder) == []


@needs_make
def test_a_whole_environment_is_kept_when_the_lock_changes(folder: Path) -> None:
    """Only what changed is installed."""
    assert install(folder)[0] == "-m venv --clear .venv"
    later = (folder / ".venv" / ".ready").stat().st_mtime + 2
    os.utime(folder / "requirements-dev.lock", (later, later))
    calls = install(folder)
    assert [call for call in calls if "venv" in call] == []
    assert any("--require-hashes" in call for call in calls)


@needs_make
@pytest.mark.parametrize("version", [(2, 7, 18), (3, 10, 13)])
def test_an_older_python_is_named_before_anything_is_installed(
    folder: Path, version: tuple[int, int, int]
) -> None:
    """The check itself runs, on this interpreter, which is told that it is an older one."""
    older = f"#!{sys.executable}\nimport sys\nsys.version_info = {version}\nexec(sys.argv[2])\n"
    (folder / "python").write_text(older)
    done = run_make(folder, "install")
    assert done.returncode
    assert f"is Python {version[0]}.{version[1]}, and this needs 3.11 or newer" in done.stderr
    assert not (folder / ".venv").exists()


@needs_make
def test_an_environment_that_was_copied_with_its_folder_is_made_anew(
    folder: Path, tmp_path: Path
) -> None:
    """Its programs would run the code of the other folder."""
    install(folder)
    other = tmp_path / "a copy"
    shutil.copytree(folder, other, ignore=shutil.ignore_patterns("a copy"))
    assert install(other)[0] == "-m venv --clear .venv"
    assert install(other) == install(folder) == []


@needs_make
def test_an_environment_whose_python_has_gone_is_made_anew(folder: Path) -> None:
    """As after an upgrade of the system's, which a virtual environment only links to."""
    install(folder)
    (folder / ".venv" / "bin" / "python").unlink()
    assert install(folder)[0] == "-m venv --clear .venv"


@needs_make
def test_a_scan_for_secrets_that_sees_no_files_is_not_taken_for_a_clean_one(folder: Path) -> None:
    """As in a tarball, or where git does not trust the folder's owner."""
    done = run_make(folder, "secrets", GIT_CEILING_DIRECTORIES=str(folder.parent))
    assert done.returncode
    assert "not a git repository" in done.stderr
