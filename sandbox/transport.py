"""One call, from a transport to its handler and back: log, fault script, handler, answer.

`_steps` is the order that all calls share. HTTP waits in its event loop, gRPC in the call's own
thread; each sends answers, errors and broken answers in its own way.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NoReturn, TypeVar

import grpc
from google.protobuf import any_pb2, json_format
from google.rpc import error_details_pb2, status_pb2
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from sandbox.errors import GOOGLE_HTTP, AnthropicError, GoogleError, invalid
from sandbox.identities import Identity, bearer_of
from sandbox.kms.state import to_json
from sandbox.world import Entry, Fault, Service, World

PROXY_PAGE = "<html><head><title>502 Bad Gateway</title></head><body>proxy</body></html>"
# Parsing details by type name needs their descriptors, so the module must be loaded.
_DETAILS: Final = error_details_pb2.DESCRIPTOR.name
_HOLD_SECONDS: Final = 0.01
# Several statuses share an HTTP code: the first one is used, except for these two codes.
_BY_HTTP: Final = {code: status for status, code in reversed(GOOGLE_HTTP.items())} | {
    409: "ABORTED",
    500: "INTERNAL",
}


@dataclass(slots=True)
class ServedCall:
    """What is known about a call before its handler runs."""

    service: Service
    name: str
    handler: Callable[[], Any]
    """Runs under the world's lock; raises GoogleError or AnthropicError. JSON over HTTP."""
    resource: str = ""
    caller: str = "unknown"
    write: bool = False
    body: dict[str, Any] = field(default_factory=dict)
    permission: str | None = None
    message: dict[str, Any] = field(default_factory=dict)
    """A Google request as one message, whatever the transport; the audit log shows it."""
    headers: dict[str, str] = field(default_factory=dict)
    """Response headers that the service always sends (`request-id`, …)."""
    latency: Callable[[], float] = lambda: 0.0
    """Seconds to wait outside the lock before the handler."""
    fault: Fault | None = None
    """The fault that replaces the answer."""


def _begin(
    world: World, call: ServedCall, transport: Literal["grpc", "http"], request: dict[str, Any]
) -> Entry:
    with world.lock:
        return world.log.begin(
            time=world.clock.now().isoformat(),
            service=call.service,
            call=call.name,
            transport=transport,
            resource=call.resource,
            caller=call.caller,
            write=call.write,
            request=request,
        )


def _steps(
    world: World, call: ServedCall, entry: Entry, run: Callable[[], None]
) -> Iterator[float]:
    """Yield each wait, in seconds; a fault that ends the call is left in `call.fault`."""
    moments: tuple[Literal["before", "after"], ...] = ("before", "after")
    for when in moments:
        with world.lock:
            fault = world.faults.take(call.name, when, call.resource)
        if fault is not None:
            if fault.kind == "release":
                world.faults.release()
            # a late call's connection breaks at once: `answer` uses its seconds afterwards
            if fault.kind != "late":
                yield fault.seconds
            if fault.kind == "incomplete":
                for name in fault.without:
                    call.body.pop(name, None)
                yield call.latency()
                run()
            if fault.kind not in {"delay", "release"}:
                call.fault = fault
                return
        if when == "before":
            yield call.latency()
            # polled, and outside the lock: other calls must go on while this one is held
            while not world.may_go_on(entry):
                yield _HOLD_SECONDS
            run()


def _google_fault(fault: Fault) -> GoogleError:
    known = fault.status if isinstance(fault.status, str) else _BY_HTTP.get(fault.status)
    details = fault.details if isinstance(fault.details, list) else [fault.details]
    return GoogleError(known or "UNKNOWN", fault.message, details)


async def answer(world: World, request: Request, call: ServedCall) -> Response:
    """Run one call over HTTP with its log entry and its faults."""
    http = {"method": request.method, "path": request.url.path, "query": request.url.query}
    entry = _begin(world, call, "http", call.body | {"_http": http})
    status, body = 200, {}

    def run() -> None:
        nonlocal status, body
        with world.lock:
            try:
                body = call.handler()
                entry.effect = True
                world.signals.called(call, body)
            except GoogleError as error:
                status, body = error.http_status, error.to_json()
            except AnthropicError as error:
                request_id = call.headers.get("request-id", "req_unknown")
                status, body = error.http_status, error.to_json(request_id)

    for seconds in _steps(world, call, entry, run):
        if seconds > 0:
            await asyncio.sleep(seconds)
    if call.fault is not None:
        # the client loses its connection now; the effect comes later, without a client
        if call.fault.kind == "late" and call.fault.seconds:
            asyncio.get_running_loop().call_later(call.fault.seconds, run)
        elif call.fault.kind == "late":
            world.faults.late.append(run)
        return _faulty_response(call.fault, entry, call, body)
    entry.status = "OK" if status == 200 else str(status)
    entry.response = body
    return JSONResponse(body, status_code=status, headers=call.headers)


def _faulty_response(
    fault: Fault, entry: Entry, call: ServedCall, body: dict[str, Any]
) -> Response:
    entry.status = f"FAULT {fault.kind} {fault.status if fault.kind == 'error' else ''}".strip()
    headers = call.headers | fault.headers
    code = fault.status if isinstance(fault.status, int) else GOOGLE_HTTP[fault.status]
    if fault.kind == "html":
        return HTMLResponse(PROXY_PAGE, status_code=code, headers=headers)
    if fault.kind == "truncate":
        text = json.dumps(body or {"id": "truncated", "type": "truncated"})
        return Response(text[: len(text) // 2], media_type="application/json", headers=headers)
    if fault.kind in {"reset", "late"}:
        return StreamingResponse(
            _broken(), headers=headers | {"content-length": "4096"}, media_type="application/json"
        )
    if fault.body is not None:
        body = fault.body
    elif call.service in {"kms", "google"}:
        body = _google_fault(fault).to_json()
        body["error"]["code"] = code  # of the script: several codes share one status name
    else:
        details = fault.details if isinstance(fault.details, dict) else {}
        error = AnthropicError(code, fault.message, fault.error_code, **details)
        if fault.kind == "incomplete":
            made = {"error_code": "workspace_created_incomplete", "workspace_id": body.get("id")}
            error.details |= made
        body = error.to_json(call.headers.get("request-id", "req_fault"))
    return JSONResponse(body, status_code=code, headers=headers)


async def _broken() -> AsyncIterator[bytes]:
    yield b'{"id": "'
    raise ConnectionResetError  # uvicorn drops the connection: fewer bytes than announced


@dataclass(frozen=True, kw_only=True)
class HttpMethod:
    """What the tables of Google's methods have in common."""

    id: str
    """The method's name in the log: the RPC's, or the discovery document's id."""
    verb: str
    path: re.Pattern[str]
    """The first group is the resource that the log names."""
    write: bool
    permission: str | None = None


MethodT = TypeVar("MethodT", bound=HttpMethod)


@dataclass(frozen=True, slots=True)
class GoogleCall:
    """An HTTP request, after its method and its caller were found."""

    world: World
    caller: Identity
    match: re.Match[str]
    query: QueryParams
    body: dict[str, Any]
    message: dict[str, Any]
    """Filled by the method with the request as one message."""

    @property
    def names(self) -> dict[str, str]:
        """The path's named parts."""
        return self.match.groupdict()


def google_endpoint(
    world: World,
    service: Service,
    methods: Sequence[MethodT],
    run: Callable[[MethodT, GoogleCall], dict[str, Any]],
    latency: Callable[[], float],
) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of one of Google's HTTP surfaces: finds the method, the caller and the body."""

    async def serve(request: Request) -> Response:
        path, found = request.url.path, None
        for method in methods:
            if method.verb == request.method and (match := method.path.fullmatch(path)):
                found = method, match
                break
        content, token = await request.body(), bearer_of(request.headers.get("authorization"))
        body, problem = _object(content)
        message: dict[str, Any] = {}

        # errors are raised in the handler, so that they are logged and fault scripts apply to them
        def handler() -> dict[str, Any]:
            caller = world.identities.resolve(token)
            if problem:
                raise invalid(f"Invalid JSON payload received. {problem}")
            if found is None:
                text = f"The sandbox does not serve {request.method} {path}."
                raise GoogleError("UNIMPLEMENTED", text)
            method, match = found
            query = request.query_params
            return run(method, GoogleCall(world, caller, match, query, body, message))

        call = ServedCall(
            service=service,
            name=found[0].id if found else "Unserved",
            resource=found[1][1] if found and found[1].re.groups else path,
            caller=world.identities.name_of(token),
            write=found[0].write if found else request.method != "GET",
            handler=handler,
            body=body,
            permission=found[0].permission if found else None,
            message=message,
            latency=latency,
        )
        return await answer(world, request, call)

    return serve


def _object(content: bytes) -> tuple[dict[str, Any], str]:
    try:
        body = json.loads(content or b"{}")
    except ValueError as error:
        return {}, str(error) or "Not JSON."
    return (body, "") if isinstance(body, dict) else ({}, "Expected an object.")


def answer_grpc(world: World, context: grpc.ServicerContext, call: ServedCall) -> Any:  # noqa: ANN401
    """Run one call over gRPC and answer with its message, or abort it with its error."""
    entry = _begin(world, call, "grpc", call.body)
    response: Any = None

    def run() -> None:
        nonlocal response
        with world.lock:
            response = call.handler()
            entry.effect = True
            entry.response = to_json(response)
            world.signals.called(call, entry.response)

    try:
        for seconds in _steps(world, call, entry, run):
            _wait(context, seconds)
        if call.fault is not None:
            raise _grpc_fault(call.fault)
    except GoogleError as error:
        _abort(context, entry, error)
    entry.status = "OK"
    return response


def token_in(context: grpc.ServicerContext) -> str | None:
    """The bearer token that the call's metadata carries."""
    headers = {item.key: item.value for item in context.invocation_metadata()}
    return bearer_of(headers.get("authorization"))


def _grpc_fault(fault: Fault) -> GoogleError:
    if fault.kind == "error":
        return _google_fault(fault)
    broken = {"truncate": "INTERNAL", "html": "UNKNOWN"}
    return GoogleError(broken.get(fault.kind, "UNAVAILABLE"), f"injected fault: {fault.kind}")


def _wait(context: grpc.ServicerContext, seconds: float) -> None:
    """Wait, but no longer than the call exists: its client may give up earlier."""
    if seconds <= 0:
        return
    over = threading.Event()
    if context.add_callback(over.set):
        over.wait(seconds)


def _abort(context: grpc.ServicerContext, entry: Entry, error: GoogleError) -> NoReturn:
    entry.status = error.status
    code = grpc.StatusCode[error.status]
    details = [json_format.ParseDict(detail, any_pb2.Any()) for detail in error.details]
    status = status_pb2.Status(code=code.value[0], message=error.message, details=details)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(code, error.message)
    raise error  # abort has raised already; this tells the type checker
