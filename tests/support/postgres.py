"""PostgreSQL for the servers of a process: one cluster of our own, a database for each server.

Prefect's migrations run once: each database is a copy of the first.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

from console import postgres
from console.guardian import Guardian
from console.prefect_server import client_environment

_TEMPLATE: Final = "template_of_prefect"
_MIGRATION_SECONDS: Final = 120.0


@dataclass
class Cluster:
    """A running PostgreSQL server."""

    server: postgres.Postgres
    environment: dict[str, str]
    guardian: Guardian
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def new_database(self) -> str:
        """Make a database that Prefect's migrations have been through; its name."""
        number = next(self.numbers)
        if number == 0:
            self._make_template()
        name = f"prefect{number}"
        self._command(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
        return name

    def url(self, database: str) -> str:
        """What a Prefect server connects to."""
        return self.server.url(database)

    def client(self, program: str, *arguments: str) -> str:
        """Run one of PostgreSQL's own clients; what it prints."""
        address = (f"--host={self.server.folder}", f"--username={postgres.SUPERUSER}")
        done = subprocess.run(
            [str(self.server.programs / program), *address, *arguments],
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def _make_template(self) -> None:
        self._command(f"CREATE DATABASE {_TEMPLATE}")
        subprocess.run(
            [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"],
            env={
                **self.environment,
                "PREFECT_SERVER_DATABASE_CONNECTION_URL": self.url(_TEMPLATE),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_MIGRATION_SECONDS,
            check=True,
        )

    def _command(self, sql: str) -> None:
        self.client("psql", f"--dbname={postgres.MAINTENANCE_DATABASE}", f"--command={sql}")


@cache
def cluster() -> Cluster:
    """This process's cluster, started when first wanted; a guardian removes it when it ends."""
    home = Path(tempfile.mkdtemp(prefix="cmek-cluster-"))
    (home / "tmp").mkdir()
    folder = postgres.new_folder()
    guardian = Guardian(home, folder)
    environment = client_environment(home, port=9)
    return Cluster(postgres.start(folder, environment), environment, guardian)


def new_database() -> str:
    """A database for one server; its URL."""
    return cluster().url(cluster().new_database())
