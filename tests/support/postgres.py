"""PostgreSQL for the stacks of a test session: a cluster of our own, a database for each stack."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from console.prefect_server import LOOPBACK, free_port
from console.processes import Child, wait_for

PASSWORD: Final = "fake-password-of-a-test"
_SUPERUSER: Final = "prefect"
_SYSTEM_USER: Final = "postgres"
"""Debian's; PostgreSQL refuses to run as root."""


@dataclass
class Cluster:
    """A running PostgreSQL server."""

    binaries: Path
    home: Path
    port: int
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def new_database(self) -> str:
        """Make an empty database; its name."""
        name = f"prefect{next(self.numbers)}"
        self.client("psql", "--dbname=postgres", f"--command=CREATE DATABASE {name}")
        return name

    def url(self, database: str) -> str:
        """What a Prefect server connects to."""
        return f"postgresql+asyncpg://{_SUPERUSER}:{PASSWORD}@{LOOPBACK}:{self.port}/{database}"

    def client(self, program: str, *arguments: str) -> str:
        """Run one of PostgreSQL's own clients; what it prints."""
        address = (f"--host={LOOPBACK}", f"--port={self.port}", f"--username={_SUPERUSER}")
        done = subprocess.run(
            [str(self.binaries / program), *address, *arguments],
            env={"PATH": os.environ["PATH"], "PGPASSWORD": PASSWORD},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """Make and start a cluster on loopback; stop and remove it at the end."""
    binaries = newest_binaries()
    home = Path(tempfile.mkdtemp(prefix="cmek-postgres-"))
    user = _SYSTEM_USER if os.getuid() == 0 else None
    password = home / "password"
    password.write_text(PASSWORD)
    for path in (home, password):
        if user:
            shutil.chown(path, user)
    cluster = Cluster(binaries, home, free_port())
    process = None
    try:
        subprocess.run(
            [
                *(str(binaries / "initdb"), "--pgdata", str(home / "data"), "--no-sync"),
                *("--username", _SUPERUSER, "--pwfile", str(password)),
                *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"),
            ],
            user=user,
            cwd=home,
            check=True,
            capture_output=True,
        )
        process = _start(cluster, user)
        yield cluster
    finally:
        if process is not None:
            process.process.send_signal(signal.SIGINT)  # "fast shutdown"
            process.process.wait(30)
        shutil.rmtree(home, ignore_errors=True)


def newest_binaries() -> Path:
    """Where PostgreSQL's programs are; Debian keeps the server's out of PATH.

    Raises:
        FileNotFoundError: PostgreSQL is not installed.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=_version)
    in_path = shutil.which("initdb")
    if not found and in_path is None:
        raise FileNotFoundError("PostgreSQL is not installed: `make test-postgres` installs it")
    return found[-1].parent if found else Path(str(in_path)).parent


def _version(initdb: Path) -> int:
    return int(initdb.parent.parent.name)


def _start(cluster: Cluster, user: str | None) -> Child:
    options = {
        "listen_addresses": LOOPBACK,
        "port": str(cluster.port),
        "unix_socket_directories": str(cluster.home),
        "max_connections": "200",
        "fsync": "off",  # nothing here outlives the test
    }
    log = cluster.home / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(str(cluster.binaries / "postgres"), "-D", str(cluster.home / "data")),
                *(f"--{name}={value}" for name, value in options.items()),
            ],
            user=user,
            cwd=cluster.home,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    child = Child("PostgreSQL", process, log)
    wait_for(child, lambda: _accepts(cluster), what="accepting connections", seconds=60)
    return child


def _accepts(cluster: Cluster) -> bool | None:
    try:
        cluster.client("psql", "--dbname=postgres", "--command=SELECT 1")
    except subprocess.CalledProcessError:
        return None
    return True
