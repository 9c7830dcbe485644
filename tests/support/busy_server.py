"""A front for a Prefect server that answers 503 before and after it hands a request on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import httpx

from tests.support.web_server import serving

BUSY = b'{"exception_message":"Service Unavailable"}'
MAKES_A_RUN = "/create_flow_run"


@contextmanager
def busy_server(api_url: str) -> Iterator[tuple[str, Counter[str]]]:
    """Its address, and how often each path was asked for.

    The first call of a path is not handed on. The second one that makes a run is, but its answer is
    lost. The rest goes through.
    """
    asked: Counter[str] = Counter()
    behind = httpx.Client(base_url=api_url.removesuffix("/api"), trust_env=False, timeout=30)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._hand_on(b"")

        def do_POST(self) -> None:
            self._hand_on(self.rfile.read(int(self.headers["content-length"])))

        def _hand_on(self, body: bytes) -> None:
            asked[self.path] += 1
            status, content = 503, BUSY
            if asked[self.path] > 1:
                answer = behind.request(
                    self.command,
                    self.path,
                    content=body,
                    headers={"content-type": "application/json"},
                )
                if asked[self.path] > 2 or not self.path.endswith(MAKES_A_RUN):
                    status, content = answer.status_code, answer.content
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    with behind, serving(Handler) as address:
        yield f"{address}/api", asked
