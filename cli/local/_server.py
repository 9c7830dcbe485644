"""Prefect's server as the local stack runs it: for its own origin and account only.

Run as a child process, with the number of the listening socket that it inherits.

`prefect server start` has no login by default, answers every origin (`Access-Control-Allow-Origin:
*`) and ignores the Host header, so any web page that a developer visits could use it, directly or
by DNS rebinding. Here a request passes only if its host is this address, and if no browser sent it
or a browser sent it from a page of this address. A write also needs the server's CSRF token, which
no page of another origin can read. The UI may load and contact nothing but this server.

Whoever can use the server can run code as the person who started it. So a connection passes only if
a process of this person opened it: `cli/local/_own_account.py`.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cmek.own_origin import OwnOrigin

SERVER_NAMES: Final = ("127.0.0.1", "localhost")
"""The names by which it is reached; it listens on IPv4 only."""
_POLICY_VIOLATION: Final = 1008


class ServerOriginGuard:
    """ASGI middleware that refuses what a web page of another origin sends."""

    def __init__(self, app: ASGIApp, port: int) -> None:
        self._app = app
        self._own = OwnOrigin(frozenset(SERVER_NAMES), port)
        self._policy = content_security_policy(f"{name}:{port}" for name in SERVER_NAMES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 403 with the reason."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
        elif why := self._own.refusal(Headers(scope=scope), may_open=not _is_api(scope)):
            await _refuse(why, scope, receive, send)
        else:
            await self._app(scope, receive, self._with_headers(send))

    def _with_headers(self, send: Send) -> Send:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = self._policy
                headers["Cross-Origin-Resource-Policy"] = "same-origin"
                headers["Referrer-Policy"] = "no-referrer"
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        return sending


def content_security_policy(hosts: Iterable[str]) -> str:
    """What the UI may load and contact: the server that it comes from, under any of its names.

    Prefect's V2 UI asks a third party for a session-replay configuration even when analytics are
    off, and block types name pictures elsewhere; neither is fetched under this policy.
    """
    own = " ".join(f"{scheme}://{host}" for host in sorted(hosts) for scheme in ("http", "ws"))
    return "; ".join(
        (
            "default-src 'self'",
            f"connect-src 'self' {own}",
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            "style-src 'self' 'unsafe-inline'",
            # the graph of a run is drawn by workers, with code that its library builds
            "script-src 'self' 'unsafe-eval' blob:",
            "worker-src 'self' blob:",
            "object-src 'none'",
            "base-uri 'self'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        )
    )


def _is_api(scope: Scope) -> bool:
    return str(scope["path"]).startswith("/api")


async def _refuse(why: str, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()  # ASGI: the connect message comes first
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": why})
        return
    await JSONResponse({"detail": why}, status_code=403)(scope, receive, send)


def main(listener: socket.socket) -> None:
    """Serve on this socket until SIGTERM."""
    # imported here: the command needs only the names above, not the server
    import uvicorn  # noqa: PLC0415
    from prefect.server.api.server import create_app  # noqa: PLC0415
    from prefect.settings import get_current_settings  # noqa: PLC0415

    from cli.local._own_account import OwnAccountProtocol  # noqa: PLC0415

    api = get_current_settings().server.api
    config = uvicorn.Config(
        ServerOriginGuard(create_app(final=True), api.port),
        http=OwnAccountProtocol,
        timeout_keep_alive=api.keepalive_timeout,
        log_level="warning",
    )
    server = uvicorn.Server(config)
    server.run(sockets=[listener])
    if not server.started:
        sys.exit(1)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
