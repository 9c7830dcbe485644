"""Google reads with bad networks, proxies and credentials: typed errors that hold no token."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from google.auth import exceptions as auth_errors
from google.auth.credentials import Credentials as AnyCredentials
from google.oauth2.credentials import Credentials
from google.oauth2.service_account import Credentials as ServiceAccount

from cmek.addresses import EndpointError
from cmek.gcp.errors import GoogleApiError
from cmek.gcp.project_apis import GoogleReads
from tests.support.clients import Rig
from tests.support.web_server import QuietHandler, serving

pytestmark = pytest.mark.anyio

CANARY = "canary-not-a-real-token"
PROJECT = "acme-kms-prod"
CALL = "cloudresourcemanager.projects.get"


async def _project(base_url: str, credentials: AnyCredentials | None = None, **options: Any) -> Any:
    reads = GoogleReads(credentials, base_url=base_url, **options)
    try:
        return await reads.project(PROJECT)
    finally:
        await reads.aclose()


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "error", "status": 503},
        {"kind": "error", "status": 429},
        {"kind": "error", "status": 500},
        {"kind": "reset"},
        {"kind": "html", "status": 502},
    ],
    ids=lambda fault: f"{fault['kind']} {fault.get('status', '')}".strip(),
)
async def test_a_transient_fault_is_tried_again(rig: Rig, fault: dict[str, Any]) -> None:
    """Two failures, then an answer: the caller gets the answer."""
    rig.control.fault(CALL, times=2, **fault)
    assert (await _project(rig.sandbox.http)).number == "123456789012"
    assert rig.calls(service="google") == [CALL] * 3


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "error", "status": 503},
        {"kind": "reset"},
        {"kind": "html", "status": 502},
    ],
    ids=lambda fault: fault["kind"],
)
async def test_a_lasting_fault_ends_as_a_typed_error_after_bounded_attempts(
    rig: Rig, fault: dict[str, Any]
) -> None:
    """At most six attempts with the tests' settings, four otherwise; then GoogleApiError."""
    rig.control.fault(CALL, times=50, **fault)
    with pytest.raises(GoogleApiError) as error:
        await _project(rig.sandbox.http)
    assert error.value.problem.transient
    assert 1 < len(rig.calls(service="google")) <= 6


@pytest.mark.parametrize(
    "fault", [{"kind": "truncate"}, {"kind": "html", "status": 200}], ids=["cut short", "a page"]
)
async def test_an_answer_that_is_not_googles_is_a_typed_error(
    rig: Rig, fault: dict[str, Any]
) -> None:
    """A proxy's page or truncated JSON is neither taken as an answer nor a crash."""
    rig.control.fault(CALL, times=50, **fault)
    with pytest.raises(GoogleApiError) as error:
        await _project(rig.sandbox.http)
    assert error.value.problem.reason == "NOT_GOOGLE"


async def test_the_service_account_of_a_credentials_file_is_the_caller(rig: Rig) -> None:
    """Its token is fetched once, outside the event loop, and sent with each read."""
    credentials = ServiceAccount.from_service_account_file(  # type: ignore[no-untyped-call]
        rig.sandbox.google_credentials_file
    )
    reads = GoogleReads(credentials, base_url=rig.sandbox.http)
    await reads.project(PROJECT)
    await reads.billing(PROJECT)
    await reads.aclose()
    assert {one["caller"] for one in rig.control.log(service="google")} == {"onboarding"}
    assert rig.calls(service="oauth") == ["google.token"]


async def test_a_refused_token_is_an_error_that_names_no_token(rig: Rig) -> None:
    """Neither the text nor any attribute or cause of the exception holds the credential."""
    with pytest.raises(GoogleApiError) as error:
        await _project(rig.sandbox.http, google_token(CANARY))
    assert error.value.problem.status == "UNAUTHENTICATED"
    _holds_no_canary(error.value)


async def test_a_lost_connection_names_no_token() -> None:
    """Httpx's own exception would hold the request with its header."""
    with pytest.raises(GoogleApiError) as error:
        await _project("http://127.0.0.1:9", google_token(CANARY))
    assert error.value.problem.reason == "REFUSED"
    _holds_no_canary(error.value)


class _NoToken(Credentials):
    def refresh(self, request: object) -> None:
        raise auth_errors.RefreshError(  # type: ignore[no-untyped-call]
            "the account was deleted"
        )


def _no_token() -> Credentials:
    return _NoToken(None)  # type: ignore[no-untyped-call]


def google_token(token: str) -> Credentials:
    """Credentials that hold this access token."""
    return Credentials(token)  # type: ignore[no-untyped-call]


async def test_credentials_that_give_no_token_are_a_typed_error(rig: Rig) -> None:
    """A refused refresh is reported as a problem of the credentials, without a read."""
    with pytest.raises(GoogleApiError) as error:
        await _project(rig.sandbox.http, _no_token())
    assert error.value.problem.reason == "CREDENTIALS"
    assert rig.calls(service="google") == []


async def test_the_quota_project_goes_with_each_read() -> None:
    """The operator chooses the project for APIs and quota, sent as Google's own libraries do."""
    with _recorder() as (url, seen):
        await _project(url, google_token(CANARY), quota_project="acme-billing")
    assert seen == [("acme-billing", f"Bearer {CANARY}")]


async def test_plain_text_beyond_this_machine_is_refused() -> None:
    """No token leaves this machine unencrypted."""
    with pytest.raises(EndpointError):
        GoogleReads(google_token(CANARY), base_url="http://example.com")


def _holds_no_canary(error: BaseException) -> None:
    seen: BaseException | None = error
    while seen is not None:
        held = repr(seen) + str(seen) + repr(vars(seen))
        assert CANARY not in held
        assert getattr(seen, "request", None) is None
        seen = seen.__cause__ or seen.__context__
    assert CANARY not in "".join(traceback.format_exception(error))


@contextmanager
def _recorder() -> Iterator[tuple[str, list[tuple[str | None, str | None]]]]:
    seen: list[tuple[str | None, str | None]] = []

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            seen.append(
                (self.headers.get("x-goog-user-project"), self.headers.get("authorization"))
            )
            self.reply(200, b'{"name": "projects/1", "state": "ACTIVE"}')

        do_POST = do_GET

    with serving(Handler) as address:
        yield address, seen
