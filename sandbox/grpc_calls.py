"""One call over gRPC: log, fault script, handler, status with details."""

from __future__ import annotations

import threading
from typing import Any, Final, Literal, NoReturn

import grpc
from google.protobuf import any_pb2, json_format
from google.rpc import error_details_pb2, status_pb2

from sandbox.errors import GOOGLE_HTTP, GoogleError
from sandbox.faults import Fault
from sandbox.identities import bearer_of
from sandbox.kms_messages import to_json
from sandbox.kms_operations import Method, resource_of
from sandbox.request_log import Entry
from sandbox.world import World

# Parsing details by type name needs their descriptors, so the module must be loaded.
_DETAILS: Final = error_details_pb2.DESCRIPTOR.name
_BY_HTTP: Final = {code: status for status, code in reversed(GOOGLE_HTTP.items())} | {
    409: "ABORTED"
}


def serve_call(
    world: World,
    method: Method,
    request: Any,  # noqa: ANN401 - whatever the method takes
    context: grpc.ServicerContext,
) -> Any:  # noqa: ANN401
    """Run one call and answer it, or abort it with its error."""
    body = to_json(request)
    resource = resource_of(body, method.field)
    entry = _begin(world, context, method.rpc, resource=resource, write=method.write, request=body)
    try:
        _strike(world, entry, context, "before")
        _wait(context, world.switches.kms_latency_seconds)
        with world.lock:
            response = method.run(world, world.identities.resolve(_bearer(context)), request)
            entry.effect = True
            entry.response = to_json(response)
        _strike(world, entry, context, "after")
    except GoogleError as error:
        _abort(context, entry, error)
    entry.status = "OK"
    return response


def refuse_unserved(world: World, path: str, context: grpc.ServicerContext) -> NoReturn:
    """Log a call that the sandbox does not serve, and abort it with UNIMPLEMENTED."""
    call = path.rsplit("/", 1)[-1]
    entry = _begin(world, context, call, resource=path, write=True)
    _abort(context, entry, GoogleError("UNIMPLEMENTED", f"The sandbox does not serve {path}."))


def _begin(
    world: World,
    context: grpc.ServicerContext,
    call: str,
    **facts: Any,  # noqa: ANN401 - the entry's own types
) -> Entry:
    with world.lock:
        return world.log.begin(
            time=world.clock.now().isoformat(),
            service="kms",
            call=call,
            transport="grpc",
            caller=world.identities.name_of(_bearer(context)),
            **facts,
        )


def _strike(
    world: World, entry: Entry, context: grpc.ServicerContext, when: Literal["before", "after"]
) -> None:
    with world.lock:
        fault = world.faults.take(entry.call, when, entry.resource)
    if fault is None:
        return
    _wait(context, fault.seconds)
    if fault.kind != "delay":
        raise _error_of(fault)


def _error_of(fault: Fault) -> GoogleError:
    if fault.kind == "error":
        status = fault.status if isinstance(fault.status, str) else _BY_HTTP.get(fault.status)
        return GoogleError(status or "UNKNOWN", fault.message, fault.details)
    broken = {"reset": "UNAVAILABLE", "truncate": "INTERNAL", "html": "UNKNOWN"}
    return GoogleError(broken[fault.kind], f"injected fault: {fault.kind}")


def _wait(context: grpc.ServicerContext, seconds: float) -> None:
    """Wait, but not longer than the call lives: its client may give up earlier."""
    if seconds <= 0:
        return
    over = threading.Event()
    if context.add_callback(over.set):
        over.wait(seconds)


def _bearer(context: grpc.ServicerContext) -> str | None:
    headers = {item.key: item.value for item in context.invocation_metadata()}
    return bearer_of(headers.get("authorization"))


def _abort(context: grpc.ServicerContext, entry: Entry, error: GoogleError) -> NoReturn:
    entry.status = error.status
    code = grpc.StatusCode[error.status]
    details = [json_format.ParseDict(detail, any_pb2.Any()) for detail in error.details]
    status = status_pb2.Status(code=code.value[0], message=error.message, details=details)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(code, error.message)
    raise error  # abort has raised already; this tells the type checker
