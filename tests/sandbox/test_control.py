"""No web page can control the sandbox: own origin, loopback hosts, a token that no page has."""

from __future__ import annotations

import http.server
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandbox.control import TOKEN_HEADER
from sandbox.server import Sandbox
from tests.support.browser import CHROMIUM, NO_CHROMIUM, chromium
from tests.support.sandbox import running
from tests.support.web_server import serving

ROOT = "/_sandbox/switches"
MAKE_RING = "/v1/projects/acme-kms-prod/locations/us-east5/keyRings?keyRingId=forged"
CHANGE = {"kms_api_enabled": False}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """One sandbox for the file; nothing here may change it."""
    with running(minimal=True) as (sandbox, _):
        yield sandbox
        assert sandbox.world.switches.kms_api_enabled
        assert not sandbox.world.kms.key_rings


def _send(sandbox: Sandbox, method: str, path: str, **headers: str) -> httpx.Response:
    own = {"x-sandbox-token": sandbox.control_token} if path.startswith("/_sandbox") else {}
    given = own | {name.replace("_", "-"): value for name, value in headers.items()}
    body = CHANGE if path == ROOT else {}
    return httpx.request(
        method, sandbox.http + path, json=body, headers=given, trust_env=False, timeout=10
    )


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"host": "evil.example"},
        {"host": "evil.example:80"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "localhost.evil.example:8080"},
        {"host": ""},
    ],
    ids=str,
)
@pytest.mark.parametrize(("method", "path"), [("PATCH", ROOT), ("POST", MAKE_RING)])
def test_what_only_another_origins_page_can_send_is_refused_before_it_has_an_effect(
    sandbox: Sandbox, method: str, path: str, headers: dict[str, str]
) -> None:
    """The services' APIs are protected too: without a token their caller is an administrator."""
    assert _send(sandbox, method, path, **headers).status_code == 403


@pytest.mark.parametrize("token", [b"", b"guess", b"\xc3"])
def test_control_without_the_ready_lines_token_is_refused(sandbox: Sandbox, token: bytes) -> None:
    response = httpx.patch(
        sandbox.http + ROOT,
        json=CHANGE,
        headers={TOKEN_HEADER.encode(): token} if token else None,
        trust_env=False,
    )
    assert response.status_code == 403
    assert TOKEN_HEADER in response.json()["error"]


@pytest.mark.parametrize("page", [False, True])
def test_the_own_origin_and_programs_are_served(sandbox: Sandbox, page: bool) -> None:
    host = f"localhost:{sandbox.http.rpartition(':')[2]}"
    sent = {"origin": f"http://{host}", "sec_fetch_site": "same-origin"} if page else {}
    assert _send(sandbox, "GET", ROOT, host=host, **sent).status_code == 200


ATTACK = """<script>
const target = "%s", done = [];
const tries = [
  ["%s", {method: "PATCH", body: '{"kms_api_enabled": false}'}],
  ["%s", {method: "PATCH", body: "{}", headers: {"x-sandbox-token": "guess"}}],
  ["%s", {method: "POST", mode: "no-cors", body: "{}"}],
  ["/_sandbox/log", {}],
];
Promise.all(tries.map(([path, how]) => fetch(target + path, how)
  .then(answer => done.push(path + " " + answer.type), () => done.push(path + " blocked"))))
  .then(() => { document.title = "done " + done.sort().join(", "); });
</script>
<form id=form method=post action="%s" target=frame enctype="text/plain"><input name='{"a":"' value='"}'></form>
<iframe name=frame></iframe><script>document.getElementById("form").submit()</script>
"""  # noqa: E501


@pytest.mark.e2e
@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
def test_a_page_of_another_origin_changes_and_learns_nothing(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """A real browser tries it with fetch and a form, from another port of this machine."""
    page = ATTACK % (sandbox.http, ROOT, ROOT, MAKE_RING, sandbox.http + MAKE_RING)
    (tmp_path / "index.html").write_text(page)
    before = len(sandbox.world.log.entries)
    handler = partial(_Quiet, directory=str(tmp_path))
    with serving(handler) as address, chromium(address) as browser:
        browser.page.goto(address)
        browser.page.wait_for_function("document.title.startsWith('done')")
        browser.page.frame_locator("iframe").get_by_text("own origin only").wait_for()
        readable = [one for one in browser.page.title().split(", ") if one.endswith(" cors")]
    assert readable == []
    assert len(sandbox.world.log.entries) == before


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Log nothing."""
