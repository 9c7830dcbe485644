"""The sandbox as a whole: one world behind an HTTP and a gRPC port."""

from __future__ import annotations

import ipaddress
import json
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette
from starlette.routing import Route

from sandbox import seed
from sandbox.admin_routes import admin_routes
from sandbox.control import control_routes
from sandbox.google_rest import google_routes
from sandbox.grpc_server import start_grpc
from sandbox.http_server import listen, serving
from sandbox.identities import PROJECT_ID
from sandbox.identity_routes import identity_routes
from sandbox.kms_rest import kms_routes
from sandbox.oauth import oauth_routes
from sandbox.world import World


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A running sandbox and what a caller needs to use it."""

    http: str
    """Base URL of everything that speaks HTTP."""
    grpc: str
    """`127.0.0.1:port` of Cloud KMS."""
    world: World
    organization_id: str
    admin_key: str
    workspaces: list[dict[str, str]]
    """`id`, `name` and `state` of each."""
    project_id: str
    google_credentials_file: str

    def ready_line(self) -> str:
        """One line of JSON, all of the above but the world."""
        facts = {name: getattr(self, name) for name in self.__slots__ if name != "world"}
        return json.dumps(facts)


def http_app(world: World) -> Starlette:
    """Every HTTP surface; the first route that matches answers."""
    surfaces: list[list[Route]] = [
        control_routes(world),
        identity_routes(world),
        oauth_routes(world),
        admin_routes(world),
        google_routes(world),
        kms_routes(world),
    ]
    return Starlette(routes=[route for surface in surfaces for route in surface])


@contextmanager
def running_sandbox(
    *,
    http_port: int = 0,
    grpc_port: int = 0,
    host: str = "127.0.0.1",
    minimal: bool = False,
    world: World | None = None,
) -> Iterator[Sandbox]:
    """Run a sandbox in this process, in threads, until the block ends.

    Args:
        http_port: 0 for a free one.
        grpc_port: 0 for a free one.
        host: A loopback address.
        minimal: Only two fresh workspaces.
        world: What it contains, instead of a new world.

    Raises:
        ValueError: `host` is not loopback.
        OSError: a port is taken.
    """
    _check_loopback(host)
    world = world or seed.new_world(minimal=minimal)
    listener = listen(host, http_port)
    http = f"http://{host}:{listener.getsockname()[1]}"
    with tempfile.TemporaryDirectory(prefix="cmek-sandbox-") as scratch:
        credentials = Path(scratch) / "google-credentials.json"
        world.identities.service_account_file(credentials, f"{http}/token")
        with serving(http_app(world), listener), _grpc(world, grpc_port) as grpc:
            yield Sandbox(
                http=http,
                grpc=grpc,
                world=world,
                organization_id=world.admin.organization.id,
                admin_key=seed.ADMIN_KEY,
                workspaces=seed.workspace_states(world),
                project_id=PROJECT_ID,
                google_credentials_file=str(credentials),
            )


def serve(
    http_port: int = 0, grpc_port: int = 0, *, minimal: bool = False, world: World | None = None
) -> None:
    """Run until SIGTERM or SIGINT; print the ready line once both ports answer."""
    stop = threading.Event()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with running_sandbox(
        http_port=http_port, grpc_port=grpc_port, minimal=minimal, world=world
    ) as sandbox:
        sys.stdout.write(sandbox.ready_line() + "\n")
        sys.stdout.flush()
        stop.wait()


def _check_loopback(host: str) -> None:
    if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
        message = f"host {host}: the sandbox listens on loopback only, e.g. 127.0.0.1"
        raise ValueError(message)


@contextmanager
def _grpc(world: World, port: int) -> Iterator[str]:
    server, bound = start_grpc(world, port)
    try:
        yield f"127.0.0.1:{bound}"
    finally:
        server.stop(grace=None).wait()
