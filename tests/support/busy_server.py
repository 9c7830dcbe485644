"""A proxy in front of a Prefect server: it answers 503 before or after it forwards a request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.support.web_server import QuietHandler, serving

BUSY = b'{"exception_message":"Service Unavailable"}'
MAKES_A_RUN = "/create_flow_run"
_HANDED_ON = {"content-type", "authorization", "prefect-csrf-token", "prefect-csrf-client"}


@contextmanager
def busy_server(api_url: str) -> Iterator[tuple[str, Counter[str]]]:
    """The proxy's address, and the number of requests for each path.

    The first request to a path is not forwarded. The second one that makes a run is, but its answer
    is lost. All others pass.
    """
    asked: Counter[str] = Counter()
    behind = httpx.Client(base_url=api_url.removesuffix("/api"), trust_env=False, timeout=30)

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            body = self.body()
            asked[self.path] += 1
            status, content = 503, BUSY
            if asked[self.path] > 1:
                answer = behind.request(
                    self.command,
                    self.path,
                    content=body,
                    headers={
                        name: value
                        for name, value in self.headers.items()
                        if name.lower() in _HANDED_ON
                    },
                )
                if asked[self.path] > 2 or not self.path.endswith(MAKES_A_RUN):
                    status, content = answer.status_code, answer.content
            self.reply(status, content)

    with behind, serving(Handler) as address:
        yield f"{address}/api", asked
