"""The local stack: PostgreSQL, Prefect server, worker and sandbox, in a home that is removed again.

The database is behind a Unix socket, the others are on free loopback ports.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import certifi
import httpx
import prefect
from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import PrefectHTTPStatusError

from cli.client import local_client
from cli.deploy import PROJECT
from cli.local import postgres, processes
from cli.local._reaper import Reaper
from cli.local._server import SERVER_NAMES
from cli.local.processes import Child, start_module, wait_for
from cli.local.sandbox import SandboxAddress, start_sandbox, wait_for_sandbox
from cli.local.signed import FLOW, VARIABLE, RehearsalSigners, start_gateway
from cmek.own_origin import listening_socket

WORKER: Final = "Prefect worker"
FIRST_WORKER: Final = "local"
WORK_POOL: Final = "cmek"
AT_ONCE: Final = 8
"""Runs that execute at the same time, each with a core and 200 MB; suspended ones do not count."""
LOOPBACK: Final = "127.0.0.1"

_POOL: Final = {"work_pool_name": WORK_POOL}
_START_SECONDS: Final = 120.0
_ANSWER_SECONDS: Final = 60.0
_ASK_SECONDS: Final = 0.3
_KEPT_VARIABLES: Final = (
    *("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ"),
    "LD_LIBRARY_PATH",  # a Python that was moved finds its own library by it
)


def client_environment(home: Path, port: int) -> dict[str, str]:
    """The environment of every process that talks to the server: no more than it needs.

    Nothing of the caller's Prefect profiles, cloud credentials or proxies comes through, because
    only the variables named here are passed on and `HOME` is the private one.
    """
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    # the work pool runs the first `python` in PATH: it must be this one
    path = os.pathsep.join((str(Path(sys.executable).parent), kept.get("PATH", os.defpath)))
    return kept | {
        "PATH": path,
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "PYTHONUNBUFFERED": "1",
        "DO_NOT_TRACK": "1",
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": f"http://{LOOPBACK}:{port}/api",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_API_SSL_CERT_FILE": str(one_authority(home)),
    }


def one_authority(folder: Path) -> Path:
    """A file in the folder with one certificate authority, for clients of a server on loopback.

    They use no TLS, but Prefect reads the authorities for each new client, a dozen times in a run:
    reading all of certifi's would cost a seventh of the run's processor time.
    """
    first, end, _ = (
        Path(certifi.where()).read_text(encoding="utf-8").partition("-----END CERTIFICATE-----")
    )
    file = folder / "authority.pem"
    file.write_text(first + end, encoding="utf-8")
    return file


def start_server(
    home: Path, listener: socket.socket, environment: Mapping[str, str], database_url: str
) -> Child:
    """Start the server on this socket, which is closed here.

    It listens before the server runs, so no other process can take the port.

    Args:
        home: The directory of the server and of its log.
        listener: Bound to the port that is in the environment's address of the API.
        environment: Its variables override those that are set here.
        database_url: Of SQLAlchemy, for asyncpg.
    """
    port = listener.getsockname()[1]
    own = {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database_url,
        "PREFECT_SERVER_API_HOST": LOOPBACK,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_UI_URL": f"http://{LOOPBACK}:{port}",
        # Under each of its names: cli/local/_server.py refuses the pages of others.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(
            f"http://{name}:{port}" for name in SERVER_NAMES
        ),
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        # Registering all block types takes three seconds; those in use are registered when a
        # block is saved.
        "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
        "PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION": "false",
        # Else Prefect keeps the key in the database, beside what it encrypts.
        "PREFECT_SERVER_ENCRYPTION_KEY": base64.urlsafe_b64encode(os.urandom(32)).decode(),
        # By default a restarted server forgets who holds which slot, and no slot becomes free.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
            "prefect.server.concurrency.lease_storage.filesystem"
        ),
    }
    if not os.access(prefect.__ui_static_path__.parent, os.W_OK):
        # Prefect copies its UI into its own package; where it can't, it serves no pages.
        own["PREFECT_SERVER_UI_STATIC_DIRECTORY"] = str(home / "ui")
    with listener:
        return start_module(
            "Prefect server",
            ["cli.local._server", str(listener.fileno())],
            home,
            {**own, **environment},
            log="server.log",
            inherits=[listener.fileno()],
        )


def patient_client(api_url: str) -> httpx.Client:
    """A client for a server that may have just started on a busy machine."""
    return httpx.Client(base_url=api_url, trust_env=False, timeout=_ANSWER_SECONDS)


def wait_for_server(server: Child, api: httpx.Client) -> None:
    """Wait until the server says that it is healthy."""

    def healthy() -> bool | None:
        with contextlib.suppress(httpx.TransportError):
            return True if api.get("/health").status_code == 200 else None
        return None

    wait_for(server, healthy, what="healthy", seconds=_START_SECONDS)


def start_worker(
    home: Path, environment: Mapping[str, str], name: str, files: Sequence[Path | str] = ()
) -> Child:
    """Start a worker; with the `files` of `cli.local._set_up` it first sets everything up."""
    command = ["cli.local._set_up", name, *map(str, files)]
    return start_module(WORKER, command, home, environment, log=f"worker-{name}.log")


@dataclass
class LocalStack:
    """What runs, where it is, and how long each phase of the start took."""

    home: Path
    api_url: str
    environment: Mapping[str, str]
    sandbox: SandboxAddress
    seconds: dict[str, float]
    children: list[Child] = field(default_factory=list)
    gateway: str | None = None
    """Base URL of the gateway, where approvals are signed."""

    @property
    def approver_key(self) -> Path | None:
        """The private key of the one approver who is enrolled."""
        return RehearsalSigners(_signers_folder(self.home)).key if self.gateway else None

    @property
    def ui_url(self) -> str:
        """Where a browser goes."""
        return self.api_url.removesuffix("/api")

    @property
    def logs(self) -> dict[str, Path]:
        """The log file of each part."""
        return {child.name: child.log for child in self.children}

    def check(self) -> None:
        """Make sure that no part has ended by itself.

        Raises:
            StackError: one has; names it and shows its log.
        """
        for child in self.children:
            if not child.is_running:
                raise child.failure("is gone")

    def start_worker(self, name: str = FIRST_WORKER) -> Child:
        """Start a worker and wait until it is online."""
        worker = start_worker(self.home, self.environment, name)
        self.children.append(worker)
        with local_client(self.api_url) as client:
            _wait_until_online(worker, client, name)
        return worker


def _wait_until_online(worker: Child, client: SyncPrefectClient, name: str) -> None:
    def online() -> bool | None:
        try:
            found = client.request(
                "POST", "/work_pools/{work_pool_name}/workers/filter", path_params=_POOL, json={}
            )
        except PrefectHTTPStatusError as error:
            # the first worker is about to make the pool
            if error.response.status_code == httpx.codes.NOT_FOUND:
                return None
            raise
        return (name, "ONLINE") in {(one["name"], one["status"]) for one in found.json()} or None

    # with pauses: a call costs the server as much as a step of the deployments that it waits for
    wait_for(worker, online, what="online", seconds=_START_SECONDS, pause=_ASK_SECONDS)


@contextlib.contextmanager
def local_stack(
    *,
    prefect_file: Path = PROJECT / "prefect.yaml",
    sandbox_arguments: Sequence[str] = (),
    extra_environment: Mapping[str, str] | None = None,
    database_url: str | None = None,
    signed: bool = False,
) -> Iterator[LocalStack]:
    """Start everything; at the end, whatever caused it, stop everything and remove the home.

    The server's database is a PostgreSQL of the stack's own, unless `database_url` names another.
    With `signed` approvals must be signed, and a gateway alone holds the Admin API credential.
    SIGINT and SIGTERM end the block with `SystemExit`; after SIGKILL the reaper cleans up.

    Raises:
        StackError: a part did not start; names it and shows its log.
    """
    with processes.ending_on_signals(), listening_socket(LOOPBACK, 0) as listener:
        home = Path(tempfile.mkdtemp(prefix="cmek-"))
        database = postgres.new_folder() if database_url is None else None
        # before any part: from here on, even after SIGKILL nothing stays
        reaper = Reaper(home, database)
        children: list[Child] = []
        watch = _Stopwatch()
        try:
            (home / "tmp").mkdir()
            port = listener.getsockname()[1]
            environment = {**client_environment(home, port), **(extra_environment or {})}
            if signed:
                environment |= {VARIABLE: str(_signers_folder(home))}
                prefect_file = _with_signers(prefect_file, home)
            children.append(start_sandbox(home, environment, sandbox_arguments))
            if database is not None:
                own = postgres.start(database, environment)
                children.append(own.child)
                database_url = own.url()
            watch.lap("database")
            children.append(start_server(home, listener, environment, str(database_url)))
            yield _set_up(home, environment, children, prefect_file, watch)
        finally:
            with processes.ignore_signals():
                # not the database, for which SIGTERM means to wait for its clients, and SIGKILL
                # leaves shared memory behind: the reaper stops it
                processes.stop(one for one in children if one.name != postgres.NAME)
                reaper.finish()
                for one in children:  # the database has ended as well, and is no zombie then
                    one.process.poll()


def _signers_folder(home: Path) -> Path:
    return home / "signers"


def _with_signers(prefect_file: Path, home: Path) -> Path:
    """Enrol an approver, and write a copy of the deployments whose flow knows this approver."""
    RehearsalSigners(_signers_folder(home)).enrol()
    changed = home / "prefect.yaml"
    changed.write_text(prefect_file.read_text(encoding="utf-8").replace(*FLOW), encoding="utf-8")
    return changed


def _set_up(
    home: Path,
    environment: Mapping[str, str],
    children: list[Child],
    prefect_file: Path,
    watch: _Stopwatch,
) -> LocalStack:
    """Start the server's clients while the server starts: most of their time is importing."""
    sandbox, server = children[0], children[-1]
    address = wait_for_sandbox(sandbox)
    watch.lap("sandbox")
    address_file = home / "sandbox.json"
    address_file.touch(mode=0o600)
    address_file.write_text(address.model_dump_json(), encoding="utf-8")
    files = [str(address_file), str(prefect_file)]
    gateway = None
    if VARIABLE in environment:
        folder = _signers_folder(home)
        child, gateway = start_gateway(folder, home, environment, address.http, address.admin_key)
        children.append(child)
        files.append(gateway)
    worker = start_worker(home, environment, FIRST_WORKER, files)
    children.append(worker)
    api_url = environment["PREFECT_API_URL"]
    with patient_client(api_url) as api:
        wait_for_server(server, api)
        watch.lap("server")
    with local_client(api_url) as client:
        _wait_until_online(worker, client, FIRST_WORKER)
    watch.lap("deployments and worker")
    return LocalStack(home, api_url, environment, address, watch.seconds, children, gateway)


class _Stopwatch:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name] = round(now - self._last, 2)
        self._last = now
