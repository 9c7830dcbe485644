"""Cloud KMS over gRPC, on loopback only, never sharing its port with another process.

One port takes both kinds of clients, since the handshake of local credentials sends no bytes:
`grpc.local_channel_credentials(LOCAL_TCP)` composed with call credentials (the only way in which
call credentials send their token without TLS), and plain insecure channels, which may send an
`authorization` header of their own. Without a token the caller is who the switch
`anonymous_caller` says.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any, Final

import grpc

from sandbox.grpc_calls import refuse_unserved, serve_call
from sandbox.kms_messages import raw
from sandbox.kms_operations import METHODS, Method
from sandbox.world import World

_THREADS: Final = 32


def start_grpc(
    world: World,
    port: int = 0,
    host: str = "127.0.0.1",
) -> tuple[grpc.Server, int]:
    """Start serving; gives the server and the port that it is bound to.

    Args:
        world: the sandbox.
        port: 0 for a free one.
        host: a loopback address.

    Raises:
        RuntimeError: the port is taken.
    """
    server = grpc.server(
        ThreadPoolExecutor(_THREADS, thread_name_prefix="sandbox-grpc"),
        options=[("grpc.so_reuseport", 0)],
    )
    server.add_generic_rpc_handlers((*_handlers(world), _Unserved(world)))
    credentials = grpc.local_server_credentials(grpc.LocalConnectionType.LOCAL_TCP)
    bound = server.add_secure_port(f"{host}:{port}", credentials)
    server.start()
    return server, bound


def _handlers(world: World) -> list[Any]:
    return [
        grpc.method_handlers_generic_handler(
            service, {method.rpc: _handler(world, method) for method in methods}
        )
        for service, methods in groupby(METHODS, key=lambda method: method.service)
    ]


def _handler(world: World, method: Method) -> Any:  # noqa: ANN401
    plus = hasattr(method.request, "deserialize")

    def serve(request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ANN401
        return serve_call(world, method, request, context)

    return grpc.unary_unary_rpc_method_handler(
        serve,
        request_deserializer=method.request.deserialize if plus else method.request.FromString,
        response_serializer=lambda response: raw(response).SerializeToString(),
    )


class _Unserved:
    """Logs calls that the table lacks, deletions above all, and answers UNIMPLEMENTED."""

    def __init__(self, world: World) -> None:
        self._world = world

    def service(self, details: grpc.HandlerCallDetails) -> Any:  # noqa: ANN401
        def serve(_: bytes, context: grpc.ServicerContext) -> None:
            refuse_unserved(self._world, details.method, context)

        return grpc.unary_unary_rpc_method_handler(serve)
