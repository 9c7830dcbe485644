"""The sandbox as a whole: one world behind an HTTP and a gRPC port, on loopback only.

The gRPC port takes both kinds of clients, since the handshake of local credentials sends no bytes:
`grpc.local_channel_credentials(LOCAL_TCP)` composed with call credentials (the only way in which
call credentials send their token without TLS), and plain insecure channels, which may send an
`authorization` header of their own. The switch `anonymous_caller` decides who a caller without a
token is.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, NoReturn

import grpc
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware

from cmek.own_origin import listening_socket
from sandbox import seed
from sandbox.admin import external_keys, webhooks, workspaces
from sandbox.admin.api import admin_routes
from sandbox.control import SandboxOriginGuard, control_routes
from sandbox.errors import GoogleError
from sandbox.google_apis import google_routes
from sandbox.identities import PROJECT_ID
from sandbox.kms import crypto, deletion, keys, versions
from sandbox.kms.operations import METHODS, KmsMethod, kms_routes
from sandbox.kms.state import raw, to_json
from sandbox.tokens import token_routes
from sandbox.transport import ServedCall, answer_grpc, token_in
from sandbox.world import World

# Importing these modules enters their calls into the tables that the routes are made from.
HANDLERS = (external_keys, webhooks, workspaces, crypto, keys, versions, deletion)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; connections queue up until the server runs.

    Raises:
        OSError: the port is taken; the message names it.
    """
    try:
        return listening_socket(host, port)
    except OSError as error:
        message = f"cannot listen on {host}:{port} ({error.strerror}); choose another port, or 0"
        raise OSError(error.errno, message) from error


@contextmanager
def serving(app: Starlette, listener: socket.socket) -> Iterator[None]:
    """Serve in a thread of its own until the block ends; open requests get a second to finish."""
    config = uvicorn.Config(
        app, log_level="error", access_log=False, lifespan="off", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(
        target=lambda: asyncio.run(server.serve(sockets=[listener])), name="sandbox-http"
    )
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def start_grpc(world: World, port: int) -> tuple[grpc.Server, int]:
    """A running server and its port; a `port` of 0 takes a free one.

    Raises:
        OSError: the port is taken.
    """
    if port:
        listen("127.0.0.1", port).close()  # gRPC's own refusal does not say why
    server = grpc.server(
        ThreadPoolExecutor(32, thread_name_prefix="sandbox-grpc"),
        options=[("grpc.so_reuseport", 0)],
    )
    server.add_generic_rpc_handlers([_GrpcHandlers(world)])
    credentials = grpc.local_server_credentials(grpc.LocalConnectionType.LOCAL_TCP)
    bound = server.add_secure_port(f"127.0.0.1:{port}", credentials)
    server.start()
    return server, bound


class _GrpcHandlers(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no annotations
    """Serves the calls in `METHODS`; any other is logged and answered with UNIMPLEMENTED."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._methods = {f"/{method.service}/{method.id}": method for method in METHODS}

    def service(self, details: grpc.HandlerCallDetails) -> Any:  # noqa: ANN401
        path = details.method
        method = self._methods.get(path)
        if method is None:
            return grpc.unary_unary_rpc_method_handler(partial(self._refuse, path))
        # proto-plus classes have `deserialize`, plain protobuf classes `FromString`.
        plus = hasattr(method.request, "deserialize")
        return grpc.unary_unary_rpc_method_handler(
            partial(self._serve, method),
            request_deserializer=method.request.deserialize if plus else method.request.FromString,
            response_serializer=lambda response: raw(response).SerializeToString(),
        )

    def _serve(self, method: KmsMethod, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ANN401
        world, token, message = self._world, token_in(context), to_json(request)
        call = ServedCall(
            service="kms",
            name=method.id,
            resource=attrgetter(method.field)(request),
            caller=world.identities.name_of(token),
            write=method.write,
            handler=lambda: method.run(world, world.identities.resolve(token), request),
            body=message,
            permission=method.permission,
            message=message,
            latency=lambda: world.switches.kms_latency_seconds,
        )
        return answer_grpc(world, context, call)

    def _refuse(self, path: str, _: bytes, context: grpc.ServicerContext) -> Any:  # noqa: ANN401
        def refuse() -> NoReturn:
            raise GoogleError("UNIMPLEMENTED", f"The sandbox does not serve {path}.")

        name, caller = path.rsplit("/", 1)[-1], self._world.identities.name_of(token_in(context))
        call = ServedCall("kms", name, refuse, resource=path, caller=caller, write=True)
        return answer_grpc(self._world, context, call)


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
    control_token: str
    """For the header `x-sandbox-token` of the control API."""

    def ready_line(self) -> str:
        """One line of JSON with all fields but `world`."""
        facts = {name: getattr(self, name) for name in self.__slots__ if name != "world"}
        return json.dumps(facts)


def http_app(world: World) -> Starlette:
    """Every HTTP surface; the first route that matches answers."""
    surfaces = (control_routes, token_routes, admin_routes, google_routes, kms_routes)
    routes = [route for surface in surfaces for route in surface(world)]
    return Starlette(routes=routes, middleware=[Middleware(SandboxOriginGuard)])


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

    A port of 0 takes a free one; with `world` that world is served instead of a new one.

    Raises:
        ValueError: `host` is not loopback.
        OSError: a port is taken.
    """
    if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
        message = f"host {host}: the sandbox listens on loopback only, e.g. 127.0.0.1"
        raise ValueError(message)
    world = world or seed.new_world(minimal=minimal)
    listener = listen(host, http_port)
    http = f"http://{host}:{listener.getsockname()[1]}"
    with tempfile.TemporaryDirectory(prefix="cmek-sandbox-") as scratch:
        credentials = Path(scratch) / "google-credentials.json"
        world.identities.service_account_file(credentials, f"{http}/token")
        with serving(http_app(world), listener), ExitStack() as stack:
            server, bound = start_grpc(world, grpc_port)
            stack.callback(lambda: server.stop(grace=None).wait())
            stack.callback(world.signals.close)
            yield Sandbox(
                http=http,
                grpc=f"127.0.0.1:{bound}",
                world=world,
                organization_id=world.admin.organization.id,
                admin_key=seed.ADMIN_KEY,
                workspaces=seed.workspace_states(world),
                project_id=PROJECT_ID,
                google_credentials_file=str(credentials),
                control_token=world.control_token,
            )


def serve(http_port: int = 0, grpc_port: int = 0, *, world: World | None = None) -> None:
    """Run until SIGTERM or SIGINT; print the ready line once both ports answer."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with running_sandbox(http_port=http_port, grpc_port=grpc_port, world=world) as sandbox:
        sys.stdout.write(sandbox.ready_line() + "\n")
        sys.stdout.flush()
        stop.wait()
