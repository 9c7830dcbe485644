"""Any server in place of a service: only typed errors, and a bounded use of memory."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from cmek._http import MAX_BYTES
from cmek.anthropic.auth import AdminKey
from cmek.anthropic.client import AdminApi
from cmek.anthropic.errors import AdminApiError
from cmek.gcp.errors import GoogleApiError
from cmek.gcp.project_apis import GoogleReads
from tests.support.web_server import QuietHandler, serving

pytestmark = pytest.mark.anyio

LONG = b'{"id": "' + b"a" * (MAX_BYTES + 1) + b'"}'
HOSTILE = {
    "too long": (LONG, {}),
    "too long when unpacked": (gzip.compress(LONG), {"content-encoding": "gzip"}),
    "packed badly": (b"no gzip", {"content-encoding": "gzip"}),
    "nested deeply": (b"[" * 100_000, {}),
    "nested deeply, well formed": (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, {}),
    "not text": (b"\xff\xfe\x00", {}),
    "a number too large": (b'{"id": 1e999999, "created_at": ' + b"9" * 5000 + b"}", {}),
}


class _Answers(QuietHandler):
    """Gives the same answer to every request."""

    protocol_version = "HTTP/1.1"
    status, content, headers_given = 200, b"", dict[str, str]()

    def do_GET(self) -> None:
        """Send the answer."""
        self.body()
        with suppress(ConnectionError):
            self.send_response(self.status)
            for name, value in self.headers_given.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(self.content)))
            self.end_headers()
            self.wfile.write(self.content)

    do_POST = do_GET


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving(_Answers) as address:
        yield address


@contextmanager
def answering(status: int, body: bytes, headers: dict[str, str]) -> Iterator[None]:
    _Answers.status, _Answers.content, _Answers.headers_given = status, body, headers
    yield


@asynccontextmanager
async def clients(server: str) -> AsyncIterator[tuple[AdminApi, GoogleReads]]:
    """Both HTTP clients, aimed at the server."""
    async with (
        aclosing(AdminApi(server, AdminKey(SecretStr("sk-ant-admin01-not-a-real-key")))) as admin,
        aclosing(GoogleReads(None, base_url=server)) as google,
    ):
        yield admin, google


@pytest.mark.parametrize("status", [200, pytest.param(400, marks=pytest.mark.prove)])
@pytest.mark.parametrize("case", HOSTILE)
async def test_a_hostile_answer_is_a_typed_error(server: str, case: str, status: int) -> None:
    body, headers = HOSTILE[case]
    with answering(status, body, headers):
        async with clients(server) as (admin, google):
            with pytest.raises(AdminApiError):
                await admin.organization.me()
            with pytest.raises(GoogleApiError):
                await google.billing("acme-kms-prod")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    ["id", "type", "name", "data", "external_key_id", "bindings", "members", "role", "etag"]
) | st.sampled_from(["condition", "billingEnabled", "error", "details", "has_more", "first_id"])
SHAPED = st.dictionaries(FIELDS, JSON, max_size=6)


@given(status=st.sampled_from([200, 404, 409]), body=JSON | SHAPED)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
async def test_any_json_is_read_or_refused_with_a_type(
    server: str, status: int, body: object
) -> None:
    """Any field may have a value of a type other than the documented one."""
    with answering(status, json.dumps(body).encode(), {"content-type": "application/json"}):
        async with clients(server) as (admin, google):
            with suppress(AdminApiError):
                await admin.organization.me()
            with suppress(AdminApiError):
                await admin.workspaces.retrieve("wrkspc_01Something")
            with suppress(GoogleApiError):
                await google.billing("acme-kms-prod")
            with suppress(GoogleApiError):
                await google.iam_policy("acme-kms-prod")
