"""PostgreSQL for the servers of a process: one cluster of our own, a database for each server."""

from __future__ import annotations

import itertools
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from cli.local import postgres
from cli.local._reaper import Reaper
from cli.local.stack import client_environment


@dataclass
class Cluster:
    """A running PostgreSQL server."""

    server: postgres.Postgres
    reaper: Reaper
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def new_database(self) -> str:
        """Make an empty database; returns its name.

        It is not a copy of a migrated one: to make that takes longer than Prefect's migrations for
        the few servers that a process starts.
        """
        name = f"prefect{next(self.numbers)}"
        self.client(
            "psql",
            f"--dbname={postgres.MAINTENANCE_DATABASE}",
            f"--command=CREATE DATABASE {name}",
        )
        return name

    def url(self, database: str) -> str:
        """The address to which a Prefect server connects."""
        return self.server.url(database)

    def client(self, program: str, *arguments: str) -> str:
        """Run one of PostgreSQL's own clients; returns its output."""
        address = (f"--host={self.server.folder}", f"--username={postgres.SUPERUSER}")
        done = subprocess.run(
            [str(self.server.programs / program), *address, *arguments],
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout


@cache
def cluster() -> Cluster:
    """This process's cluster, started when first needed; a reaper removes it afterwards."""
    home = Path(tempfile.mkdtemp(prefix="cmek-cluster-"))
    (home / "tmp").mkdir()
    folder = postgres.new_folder()
    reaper = Reaper(home, folder)
    environment = client_environment(home, port=9)
    return Cluster(postgres.start(folder, environment), reaper)


def new_database() -> str:
    """Make a database for one server; returns its URL."""
    return cluster().url(cluster().new_database())
