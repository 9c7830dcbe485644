"""One call over HTTP: log, fault script, handler, answer. Shared by every HTTP surface.

One call over gRPC: log, fault script, handler, status with details.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NoReturn

import grpc
from google.protobuf import any_pb2, json_format
from google.rpc import error_details_pb2, status_pb2
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from sandbox.errors import GOOGLE_HTTP, AnthropicError, GoogleError
from sandbox.identities import bearer_of
from sandbox.kms.operations import Method, resource_of
from sandbox.kms.state import to_json
from sandbox.world import Entry, Fault, Service, World

PROXY_PAGE = "<html><head><title>502 Bad Gateway</title></head><body>proxy</body></html>"


@dataclass(slots=True)
class HttpCall:
    """What the routing has found out about a request before its handler runs."""

    service: Service
    call: str
    resource: str
    caller: str
    write: bool
    handler: Callable[[], dict[str, Any]]
    """Runs under the world's lock; returns the JSON body; raises GoogleError or AnthropicError."""
    body: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    """Response headers that the service always sends (`request-id`, …)."""
    before: Callable[[], float] = lambda: 0.0
    """Seconds to wait outside the lock before the handler (latency switches)."""


async def answer(world: World, request: Request, call: HttpCall) -> Response:
    """Run one call with its log entry and its faults."""
    http = {"method": request.method, "path": request.url.path, "query": request.url.query}
    with world.lock:
        entry = world.log.begin(
            time=world.clock.now().isoformat(),
            service=call.service,
            call=call.call,
            transport="http",
            resource=call.resource,
            caller=call.caller,
            write=call.write,
            request=call.body | {"_http": http},
        )
        fault = world.faults.take(call.call, "before", entry.resource)
    struck = await _strike_http(fault, entry, call, {})
    if fault is not None and fault.kind == "late":
        asyncio.get_running_loop().call_later(fault.seconds, _run, world, call, entry)
    if struck is not None:
        return struck
    if (wait := call.before()) > 0:
        await asyncio.sleep(wait)
    status, body = _run(world, call, entry)
    with world.lock:
        fault = world.faults.take(call.call, "after", entry.resource)
    struck = await _strike_http(fault, entry, call, body)
    if struck is not None:
        return struck
    entry.status = "OK" if status == 200 else str(status)
    entry.response = body
    return JSONResponse(body, status_code=status, headers=call.headers)


def _run(world: World, call: HttpCall, entry: Entry) -> tuple[int, dict[str, Any]]:
    with world.lock:
        try:
            body = call.handler()
        except GoogleError as error:
            return error.http_status, error.to_json()
        except AnthropicError as error:
            return error.http_status, error.to_json(call.headers.get("request-id", "req_unknown"))
        entry.effect = True
        return 200, body


async def _strike_http(
    fault: Fault | None, entry: Entry, call: HttpCall, body: dict[str, Any]
) -> Response | None:
    if fault is None:
        return None
    if fault.seconds and fault.kind != "late":
        await asyncio.sleep(fault.seconds)
    if fault.kind == "delay":
        return None
    entry.status = f"FAULT {fault.kind} {fault.status if fault.kind == 'error' else ''}".strip()
    headers = call.headers | fault.headers
    if fault.kind == "html":
        return HTMLResponse(PROXY_PAGE, status_code=_http_code(fault), headers=headers)
    if fault.kind == "truncate":
        text = json.dumps(body or {"id": "truncated", "type": "truncated"})
        return Response(text[: len(text) // 2], media_type="application/json", headers=headers)
    if fault.kind in {"reset", "late"}:
        return StreamingResponse(
            _broken(), headers=headers | {"content-length": "4096"}, media_type="application/json"
        )
    return JSONResponse(_error_body(fault, call), status_code=_http_code(fault), headers=headers)


async def _broken() -> AsyncIterator[bytes]:
    yield b'{"id": "'
    raise ConnectionResetError  # uvicorn drops the connection: fewer bytes than announced


def _http_code(fault: Fault) -> int:
    if isinstance(fault.status, int):
        return fault.status
    return GoogleError(fault.status, "").http_status


def _error_body(fault: Fault, call: HttpCall) -> dict[str, Any]:
    if fault.body is not None:
        return fault.body
    if call.service in {"kms", "google"}:
        status = fault.status if isinstance(fault.status, str) else _google_status(fault.status)
        body = GoogleError(status, fault.message, fault.details).to_json()
        body["error"]["code"] = _http_code(fault)
        return body
    error = AnthropicError(_http_code(fault), fault.message, fault.error_code)
    return error.to_json(call.headers.get("request-id", "req_fault"))


def _google_status(code: int) -> str:
    known = {
        401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 409: "ABORTED",
        429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
    }  # fmt: skip
    return known.get(code, "UNKNOWN")


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
        _strike_grpc(world, entry, context, "before")
        _wait(context, world.switches.kms_latency_seconds)
        with world.lock:
            response = method.run(world, world.identities.resolve(_bearer(context)), request)
            entry.effect = True
            entry.response = to_json(response)
        _strike_grpc(world, entry, context, "after")
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


def _strike_grpc(
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
