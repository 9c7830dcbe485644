"""The gateway over HTTP: an ASGI application, and how `cmek gateway` serves it.

It answers like the Admin API, and its own refusals have the Admin API's error body, so that the
product's client only needs another base URL. No page in a browser can use it: a request with an
origin, another host name or a body that is not JSON is refused.

    GET /gateway/health          what it holds and whether it could attach, without secrets
    GET /gateway/journal/RUN_ID  what it intended to attach for a flow run, and the outcome
    /v1/…                        the calls of the Admin API that `gateway.rules` permits
"""

from __future__ import annotations

import json
import logging
import socket
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import uvicorn
from pydantic import JsonValue
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cmek.anthropic.auth import APPROVALS_HEADER, decoded_approvals
from cmek.anthropic.client import AdminApi
from cmek.anthropic.errors import (
    APPROVAL_SPENT,
    GATEWAY_NOT_SENT,
    GATEWAY_REFUSED,
    AdminApiError,
)
from cmek.errors import CmekError
from cmek.own_origin import LOOPBACK_NAMES, OwnOrigin, listening_socket
from cmek.plain_text import shortened
from cmek.signatures.signers import Signers, SignersRefusedError, find_signers
from cmek.signatures.statement import MAX_TEXT
from cmek.signatures.verification import CLOCK_SKEW
from gateway.attach import Attacher, KeyUnusableError, SteadyClock
from gateway.journal import Journal, JournalError, NonceUsedError
from gateway.rules import Attach, Call, Create, Forward, PolicyError, Tag, decide, tag_problem
from gateway.settings import GatewaySettings, GatewaySettingsError

_log = logging.getLogger("cmek.gateway")
MAX_BODY: Final = 64 * 1024
_LONGEST: Final = 2000
"""The most characters of outside text in a line of the log."""
MAX_HEADERS: Final = 4 * MAX_TEXT // 3 + 16 * 1024
"""In bytes: the longest signed approvals as base64, and the other headers."""
_PASSED_HEADERS: Final = (
    "content-type",
    "request-id",
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
)


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """An error of the gateway's own, in the form of the Admin API's errors."""

    status: int
    type: str
    message: str
    error_code: str | None = None
    details: dict[str, Any] | None = None
    request_id: str | None = None
    retry: bool | None = None

    def response(self) -> JSONResponse:
        """The HTTP response."""
        details = (self.details or {}) | (
            {"error_code": self.error_code} if self.error_code else {}
        )
        error = {"type": self.type, "message": self.message, "details": details}
        request_id = self.request_id or f"gw_{uuid.uuid4().hex}"
        headers = {"request-id": request_id}
        if self.retry is not None:
            headers["x-should-retry"] = str(self.retry).lower()
        body = {"type": "error", "error": error, "request_id": request_id}
        return JSONResponse(body, self.status, headers=headers)


def gateway_app(
    settings: GatewaySettings,
    *,
    find: Callable[[], Signers | None] | None = None,
    clock: Callable[[Journal], SteadyClock] = lambda journal: SteadyClock(journal.latest_time()),
) -> Starlette:
    """The application, which holds credential and journal until it is shut down.

    Args:
        settings: The administrator's settings.
        find: Reads the signers when they are not root's: in rehearsals and tests.
        clock: For tests.

    Raises:
        GatewaySettingsError: The credential can't be read.
        JournalError: The journal can't be opened.
    """
    find = find or (lambda: find_signers(settings.signers))
    credential, journal = settings.credential(), Journal(settings.journal)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        api = AdminApi(settings.upstream, credential)
        attacher = Attacher(
            api,
            journal,
            find,
            requester_excluded=settings.requester_excluded,
            clock=clock(journal),
        )
        app.state.service = _Service(settings, api, journal, attacher, find)
        await _settle(attacher)
        try:
            yield
        finally:
            await api.aclose()
            journal.close()

    def service(request: Request) -> _Service:
        found: _Service = request.app.state.service
        return found

    async def health(request: Request) -> Response:
        return await service(request).health(request)

    async def journal_of(request: Request) -> Response:
        return await service(request).journal_of(request)

    async def other(request: Request, _: Exception) -> Response:
        return await service(request).admin(request)

    return Starlette(
        routes=[
            Route("/gateway/health", health, methods=["GET"]),
            Route("/gateway/journal/{run_id}", journal_of, methods=["GET"]),
        ],
        # every other path and method is a call of the Admin API, or refused as one
        exception_handlers={404: other, 405: other},
        lifespan=lifespan,
    )


async def _settle(attacher: Attacher) -> None:
    """Read the outcome of attaches that an earlier process left open."""
    try:
        await attacher.settle_unsettled()
    # no reason not to start: an open intent can't be sent again
    except CmekError as error:
        _log.warning("open intents are not settled yet: %s", error)


class _Service:
    """What the three endpoints share."""

    def __init__(
        self,
        settings: GatewaySettings,
        api: AdminApi,
        journal: Journal,
        attacher: Attacher,
        find: Callable[[], Signers | None],
    ) -> None:
        self._settings = settings
        self._api = api
        self._journal = journal
        self._attacher = attacher
        self._find = find
        self._own = OwnOrigin(LOOPBACK_NAMES.union(settings.names), pages=False)

    async def health(self, request: Request) -> Response:
        """What the gateway holds and whether it could attach."""
        if refused := self._foreign(request):
            return refused.response()
        body: dict[str, JsonValue] = {"upstream": self._settings.upstream, "problems": []}
        problems: list[JsonValue] = []
        try:
            signers = self._find()
            body["minimum_signatures"] = signers.minimum if signers else None
            if signers is None:
                problems.append("no approver is enrolled, so nothing can be attached")
            elif signers.shortage:
                problems.append(signers.shortage)
        except SignersRefusedError as error:
            problems.append(str(error))
        try:
            body["unsettled"] = len(self._journal.unsettled())
        except JournalError as error:
            problems.append(str(error))
        behind = self._attacher.clock.behind()
        if behind > CLOCK_SKEW:
            problems.append(
                f"the clock is {behind} behind the journal's last time, by which approvals expire: "
                "set it right; if it is right, the journal was written while it was ahead"
            )
        body["problems"] = problems
        return JSONResponse(body, 503 if problems else 200)

    async def journal_of(self, request: Request) -> Response:
        """The journal's entries of one flow run."""
        if refused := self._foreign(request):
            return refused.response()
        try:
            entries = self._journal.of_run(request.path_params["run_id"])
        except JournalError as error:
            return ErrorAnswer(503, "api_error", str(error)).response()
        return JSONResponse({"entries": [one.model_dump(mode="json") for one in entries]})

    async def admin(self, request: Request) -> Response:
        """Handle one call of the Admin API; it leaves one line in the log, whatever happens."""
        started = time.monotonic()
        asked = f"{request.method} {shortened(request.url.path, _LONGEST)}"
        try:
            verdict, response = await self._answer(request)
        except Exception:
            _log.exception("failed %s", asked)
            raise
        milliseconds = (time.monotonic() - started) * 1000
        request_id = response.headers.get("request-id", "-")
        _log.info(
            "%s: %s, %d, %.0f ms, %s",
            asked,
            verdict,
            response.status_code,
            milliseconds,
            request_id,
        )
        return response

    async def _answer(self, request: Request) -> tuple[str, Response]:
        try:
            if refused := self._foreign(request):
                return f"refused: {refused.message}", refused.response()
            decision = decide(await _call(request))
            if isinstance(decision, Tag):
                workspace = await self._api.workspaces.retrieve(decision.workspace_id)
                if problem := tag_problem(decision, workspace):
                    raise PolicyError(problem)
                decision = decision.call
            if isinstance(decision, Forward):
                return f"passed {decision.verb}", await self._forward(decision)
            return await self._attach(decision, request.headers.get(APPROVALS_HEADER, ""))
        except AdminApiError as error:
            return f"no success: {shortened(error.message, _LONGEST)}", _of_anthropic(
                error
            ).response()
        except CmekError as error:
            return f"refused: {shortened(str(error), _LONGEST)}", _refusal(error).response()

    async def _forward(self, call: Forward) -> Response:
        response = await self._api.forward(call.method, call.path, call.query, call.body)
        # not passed on: the credential is the gateway's, so the caller could do nothing about it
        if response.status_code == 401:
            return _credential_refused().response()
        headers = {n: v for n in _PASSED_HEADERS if (v := response.headers.get(n)) is not None}
        return Response(response.content, response.status_code, headers)

    async def _attach(self, target: Attach | Create, header: str) -> tuple[str, Response]:
        try:
            approvals = decoded_approvals(header)
        except ValueError as error:
            raise PolicyError(str(error)) from error
        try:
            workspace = await self._attacher.attach(target, approvals)
        except AdminApiError as error:
            if answer := _certainly_not_attached(error):
                return f"no success: {shortened(error.message, _LONGEST)}", answer.response()
            raise
        body = workspace.model_dump(mode="json", exclude={"request_id"})
        headers = {"request-id": workspace.request_id} if workspace.request_id else {}
        done = f"attached {target.external_key_id} to {workspace.id}"
        return done, JSONResponse(body, headers=headers)

    def _foreign(self, request: Request) -> ErrorAnswer | None:
        """Why a request is refused: it is a browser's, or its host name is not ours (rebinding)."""
        why = self._own.refusal(request.headers)
        return ErrorAnswer(403, "permission_error", why, GATEWAY_REFUSED) if why else None


async def _call(request: Request) -> Call:
    """The request, bounded and parsed.

    Raises:
        PolicyError: Its body is too long or not JSON.
    """
    # undecoded: the policy compares exactly the path that is sent on
    raw = request.scope.get("raw_path") or request.url.path.encode()
    path = raw.decode("latin-1").partition("?")[0]
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > MAX_BODY:
            raise PolicyError(f"the body is longer than {MAX_BODY} bytes")
    query = tuple(request.query_params.multi_items())
    if not content:
        return Call(request.method, path, query)
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise PolicyError("a body must be application/json")
    try:
        body = json.loads(content, object_pairs_hook=_once_each, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"the body is not JSON: {error}") from error
    if body is None:
        raise PolicyError("the body is null")
    return Call(request.method, path, query, body)


def _once_each(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    # with a name given twice, Anthropic could read another value than the one checked here
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is given more than once")
    return found


def _no_constant(text: str) -> JsonValue:
    raise ValueError(f"{text} is not JSON")


def _refusal(error: CmekError) -> ErrorAnswer:
    if isinstance(error, KeyUnusableError):
        return ErrorAnswer(
            400, "invalid_request_error", str(error), "external_key_validation_failed"
        )
    if isinstance(error, NonceUsedError):
        return ErrorAnswer(409, "conflict_error", str(error), APPROVAL_SPENT)
    # also an unusable journal or signers file: nothing was sent, and a repeat won't help now
    return ErrorAnswer(403, "permission_error", str(error), GATEWAY_REFUSED)


def _certainly_not_attached(error: AdminApiError) -> ErrorAnswer | None:
    """The answer to an attach that had no effect, where Anthropic's own would leave that open.

    A caller must take 5xx for an attach of unknown outcome.
    """
    failure = error.failure
    status = failure.status or 0
    if failure.status == 401:
        return ErrorAnswer(403, "permission_error", _CREDENTIAL_REFUSED, GATEWAY_REFUSED)
    if failure.ambiguous or 400 <= status < 500:
        return None
    return ErrorAnswer(409, "conflict_error", str(error), GATEWAY_NOT_SENT)


def _of_anthropic(error: AdminApiError) -> ErrorAnswer:
    """Anthropic's own error; 502 when there was no answer."""
    failure = error.failure
    if failure.status == 401:
        return _credential_refused()
    return ErrorAnswer(
        status=failure.status if failure.status and failure.status >= 400 else 502,
        type=failure.error_type or "api_error",
        message=failure.message,
        details=failure.details,
        request_id=failure.request_id,
        retry=failure.should_retry,
    )


def _credential_refused() -> ErrorAnswer:
    code = "cmek_gateway_credential"
    return ErrorAnswer(502, "api_error", _CREDENTIAL_REFUSED, code, retry=False)


_CREDENTIAL_REFUSED: Final = (
    "Anthropic refused the gateway's own credential: replace it in the gateway's settings, then "
    "`systemctl restart cmek-gateway`, which reads it"
)


def serve(settings: GatewaySettings, *, find: Callable[[], Signers | None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; one line of JSON on standard output when ready.

    Args:
        settings: The administrator's settings.
        find: As for `gateway_app`.

    Raises:
        GatewaySettingsError: The port is taken.
        CmekError: Credential or journal can't be used.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        listener = listening_socket(settings.host, settings.port)
    except OSError as error:
        raise GatewaySettingsError(
            f"port {settings.port} of {settings.host}: {error.strerror}; choose another in the "
            "settings (`port`)"
        ) from error
    app = gateway_app(settings, find=find)  # after the port is ours, since it opens the journal
    url = f"http://{settings.host}:{listener.getsockname()[1]}"
    _Announced(server_config(app), url).run(sockets=[listener])


class _Announced(uvicorn.Server):
    """Prints its address once it listens."""

    def __init__(self, config: uvicorn.Config, url: str) -> None:
        super().__init__(config)
        self._url = url

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then print the line that a caller waits for."""
        await super().startup(sockets)
        if self.started:
            sys.stdout.write(json.dumps({"gateway": self._url}) + "\n")
            sys.stdout.flush()


def server_config(app: Starlette) -> uvicorn.Config:
    """How the gateway is served: without uvicorn's access log, with room for signed approvals."""
    return uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        http="h11",
        ws="none",
        h11_max_incomplete_event_size=MAX_HEADERS,
    )
