"""The local stack's Prefect server serves no page of another origin, and no other account."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Page, sync_playwright

from cli.local import _own_account
from cli.local._own_account import is_own_account
from cmek.own_origin import listening_socket
from tests.support.browser import ARGUMENTS, CHROMIUM, NO_CHROMIUM
from tests.support.stack import Stack
from tests.support.web_server import QuietHandler, serving

pytestmark = pytest.mark.e2e

REBOUND = "rebound.example"
"""A name for which the attacker's name server returns this machine's address."""
FOREIGN: tuple[dict[str, str], ...] = (
    {"host": REBOUND},
    {"host": "127.0.0.1:1"},
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:1"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
)
"""Headers that a browser sends for a page of another origin; no page can leave them out."""
ATTACK = """
const api = "http://127.0.0.1:%d/api", body = JSON.stringify({name: "planted"});
const tries = {
  read: () => fetch(api + "/admin/version"),
  blind: () => fetch(api + "/flows/", {method: "POST", mode: "no-cors", body,
                                       headers: {"content-type": "text/plain"}}),
  json: () => fetch(api + "/flows/", {method: "POST", body,
                                      headers: {"content-type": "application/json"}}),
  token: () => fetch(api + "/csrf-token?client=evil"),
  socket: () => new Promise((yes, no) => {
    const one = new WebSocket(api.replace("http", "ws") + "/events/in");
    one.onopen = yes; one.onerror = no; }),
};
window.done = Promise.all(Object.entries(tries).map(async ([name, act]) => {
  try { const got = await act(); return [name, got.type === "opaque" ? "opaque" : "done"]; }
  catch { return [name, "refused"]; }
})).then(Object.fromEntries);
"""


UI_PAGES = {
    "dashboard": "Flow Runs",
    "deployments": "onboard-workspace",
    "blocks": "anthropic-admin",
    "automations": "cmek-workspace-created",
}
"""Pages of Prefect's V2 UI, and a text that each shows when it has loaded all that it needs."""


@contextmanager
def page(*more: str) -> Iterator[Page]:
    """A page of a Chromium that can reach only this machine."""
    with sync_playwright() as playwright:
        arguments = [*ARGUMENTS, *more]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        try:
            yield browser.new_page()
        finally:
            browser.close()


def port_of(stack: Stack) -> int:
    """The server's port."""
    return urlsplit(stack.local.ui_url).port or 0


needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root, to open a socket as another account"
)


def connected(port: int, family: int = socket.AF_INET, *, account: int = 0) -> socket.socket:
    """A connection; its socket belongs to the account that made it, whoever uses it then."""
    if account:
        os.seteuid(account)
    try:
        made = socket.socket(family, socket.SOCK_STREAM)
    except OSError:
        pytest.skip("needs a kernel with IPv6")
    finally:
        if account:
            os.seteuid(0)
    made.connect(("::ffff:127.0.0.1" if family == socket.AF_INET6 else "127.0.0.1", port))
    return made


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("other_way", ["_asked", "_looked_up"])
def test_a_connection_of_this_account_is_known_until_its_process_closes_it(
    family: int, other_way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In each of two ways. The kernel shows a socket that was closed as one of root's."""
    monkeypatch.setattr(_own_account, other_way, lambda client, server: None)
    with listening_socket("127.0.0.1", 0) as listener:
        client = connected(listener.getsockname()[1], family)
        here, peer = listener.accept()
        with here:
            assert is_own_account(peer, here.getsockname())
            assert not is_own_account((peer[0], 1), here.getsockname())
            assert not is_own_account(peer, ("127.0.0.1", 1))
            client.close()
            assert not is_own_account(peer, here.getsockname())


@needs_root
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_another_account_of_the_machine_gets_no_response_but_a_refusal(
    stack: Stack, family: int
) -> None:
    """It could make a deployment, whose run would be code of its own."""
    port = port_of(stack)
    ask = f"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
    said = []
    for account in (65534, 0):
        with connected(port, family, account=account) as one:
            one.sendall(ask.encode())
            said.append(b"".join(iter(lambda: one.recv(4096), b"")))
    assert said[0].startswith(b"HTTP/1.1 403 ")
    assert b"for the account that started it only" in said[0]
    assert said[1].startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("headers", FOREIGN, ids=json.dumps)
def test_a_request_of_another_origin_is_refused_whatever_it_asks(
    stack: Stack, headers: dict[str, str]
) -> None:
    """This covers reads and writes, API and UI; each refusal has its reason."""
    with httpx.Client(base_url=stack.local.ui_url, trust_env=False, headers=headers) as http:
        for method, path in (("GET", "/api/admin/version"), ("POST", "/api/flows/"), ("GET", "/")):
            answer = http.request(method, path)
            assert answer.status_code == 403, (method, path)
            assert "access-control-allow-origin" not in answer.headers
            assert answer.json()["detail"]


def test_a_write_needs_a_token_that_only_the_servers_own_pages_can_read(stack: Stack) -> None:
    """The clients of this project and of Prefect fetch the token themselves."""
    with httpx.Client(base_url=stack.local.api_url, trust_env=False) as http:
        bare = http.post("/flows/", json={"name": "planted"})
        assert (bare.status_code, bare.json()["detail"]) == (403, "Missing CSRF token.")
        token = http.get("/csrf-token", params={"client": "test"})
        assert "access-control-allow-origin" not in token.headers


@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
def test_a_real_browsers_page_of_another_origin_reads_and_writes_nothing(stack: Stack) -> None:
    """It tries fetch, blind requests, a socket, and a name that was rebound to this machine."""

    class Evil(QuietHandler):
        def do_GET(self) -> None:
            script = ATTACK % port_of(stack)
            self.reply(200, f"<script>{script}</script>".encode(), "text/html")

    rebind = f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1"
    with serving(Evil) as address, page(rebind) as evil:
        evil.goto(address)
        outcome: dict[str, Any] = evil.evaluate("window.done")
        rebound = evil.goto(f"http://{REBOUND}:{port_of(stack)}/")
    refused = dict.fromkeys(("read", "json", "token", "socket"), "refused")
    # a page cannot see the result of a blind request; the server shows that it had no effect
    assert outcome == refused | {"blind": "opaque"} or outcome == refused | {"blind": "refused"}
    assert rebound is not None
    assert rebound.status == 403
    assert "planted" not in {flow.name for flow in stack.client.read_flows()}


@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
def test_the_ui_contacts_nothing_but_its_server_and_works(stack: Stack) -> None:
    """Prefect's UI asks a third party for a session-replay configuration; here it cannot."""
    with page() as own:
        asked: list[str] = []
        blocked: list[str] = []
        own.on("requestfinished", lambda request: asked.append(str(request.url)))
        own.on("console", lambda line: blocked.append(line.text) if line.type == "error" else None)
        for path, shown in UI_PAGES.items():
            answer = own.goto(f"{stack.local.ui_url}/v2/{path}")
            own.get_by_text(shown).first.wait_for()
            own.wait_for_load_state("networkidle")
    assert answer is not None
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert {urlsplit(url).hostname for url in asked if url.startswith("http")} == {"127.0.0.1"}
    # the policy must block only requests to other hosts: any other block would break the UI
    own_parts = [text for text in blocked if "127.0.0.1" in text.partition("violates")[0]]
    assert own_parts == []
