"""What the Google clients share, and an HTTP transport for the APIs that only the checks read.

Google has a client library for each of these APIs. Together they would be seven dependencies for a
dozen reads, so these reads use httpx with google-auth.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Literal, TypeVar

import httpx
from google.auth import exceptions as auth_errors
from google.auth.credentials import AnonymousCredentials, Credentials, with_scopes_if_required
from google.auth.transport.requests import Request
from google.oauth2 import id_token, service_account
from google.protobuf.json_format import ParseError
from pydantic import BaseModel, ValidationError

from cmek._http import RetryDecision, http_client, retrying, send_bounded
from cmek.addresses import GOOGLE_APIS, check_base_url, is_loopback
from cmek.errors import CmekError
from cmek.gcp.errors import GoogleApiError, GoogleProblem, classify
from cmek.models import refusals

CONCURRENT: Final = 16
"""Most concurrent requests; enough for one wave of the checks."""
TIMEOUT: Final = httpx.Timeout(15.0, connect=5.0)
TOKEN_SECONDS: Final = 15.0
"""For one request for a token; google-auth itself sends at most four."""

T = TypeVar("T")
Json = dict[str, Any]
Parse = Callable[[Json], T]
SCOPES: Final = ("https://www.googleapis.com/auth/cloud-platform",)


def scoped(credentials: Credentials | None) -> Credentials | None:
    """The credentials with the scope that all calls need; None for an anonymous caller."""
    if credentials is None or isinstance(credentials, AnonymousCredentials):
        return None
    # google-auth has no annotations for this
    result: Credentials = with_scopes_if_required(credentials, SCOPES)  # type: ignore[no-untyped-call]
    return result


class TokenRequest(Request):
    """The HTTP transport with which google-auth fetches tokens; uses no proxy for loopback."""

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = TOKEN_SECONDS,
        **options: Any,  # noqa: ANN401 - as google-auth has it
    ) -> Any:  # noqa: ANN401 - as above
        """Send one request, as google-auth's own class does, which waits for two minutes."""
        self.session.trust_env = not is_loopback(url)
        return super().__call__(url, method, body, headers, timeout, **options)  # type: ignore[no-untyped-call]


class _ServiceAccountKey(BaseModel):
    """The fields of a key file that signing needs; all others are dropped.

    google-auth would use other fields too: with another `universe_domain` it would send signed
    assertions to hosts of that domain.
    """

    client_email: str
    private_key: str
    private_key_id: str | None = None
    project_id: str | None = None
    token_uri: str
    universe_domain: Literal["googleapis.com"] = GOOGLE_APIS


def service_account_info(key: str | Mapping[str, Any]) -> dict[str, Any]:
    """A service-account key, from the text of its JSON file or as parsed JSON.

    Raises:
        MalformedError: It is not such a key (also a ValueError). Names the wrong fields, not their
            values.
    """
    try:
        if isinstance(key, str):
            return _ServiceAccountKey.model_validate_json(key).model_dump()
        return _ServiceAccountKey.model_validate(key).model_dump()
    except ValidationError as error:
        problem = "; ".join(refusals(error, values=False))
    # outside the handler: Pydantic's error holds the private key
    raise _malformed(problem)


def service_account_credentials(key: Mapping[str, Any]) -> Credentials:
    """Credentials that sign with this key.

    Args:
        key: As `service_account_info` returns it.

    Raises:
        ValueError: `private_key` is not a private key.
    """
    made: Credentials = service_account.Credentials.from_service_account_info(  # type: ignore[no-untyped-call]
        key, scopes=list(SCOPES)
    )
    return made


def _malformed(problem: str) -> auth_errors.MalformedError:
    return auth_errors.MalformedError(  # type: ignore[no-untyped-call]
        f"no service-account key in Google's JSON form ({problem}): copy its file again"
    )


def token_endpoint(credentials: Credentials | None) -> str | None:
    """Where the credentials get their tokens; None for none, and for a machine's own identity."""
    # `_token_uri`: a key or a person's login; `_token_url`: workload identity federation
    found = (getattr(credentials, name, None) for name in ("_token_uri", "_token_url"))
    return next((str(one) for one in found if one), None)


def id_token_provider(key: Mapping[str, Any] | None) -> Callable[[str], str]:
    """A blocking function that returns a Google ID token for an audience.

    The function raises google-auth's errors.

    Args:
        key: The service-account key that signs; None for this machine's identity (metadata
            server, or the service-account file in GOOGLE_APPLICATION_CREDENTIALS).

    Raises:
        MalformedError: The key can't sign (also a ValueError).
    """
    if key is None:
        return _own_id_token
    try:
        signer = service_account.IDTokenCredentials.from_service_account_info(  # type: ignore[no-untyped-call]
            key, target_audience=""
        )
    except ValueError:  # its own text is about OpenSSL and does not help
        raise _malformed("private_key: no private key in PEM") from None

    def fetch(audience: str) -> str:
        aimed = signer.with_target_audience(audience)
        aimed.refresh(TokenRequest())
        return str(aimed.token)

    return fetch


def _own_id_token(audience: str) -> str:
    with credential_errors():
        return str(id_token.fetch_id_token(TokenRequest(), audience))  # type: ignore[no-untyped-call]


@contextmanager
def credential_errors() -> Iterator[None]:
    """Wrap code that reads credentials from a block, a file or this machine.

    Raises:
        GoogleAuthError: There are no credentials, or they are damaged or can't be read. For these
            google-auth also raises Python's own errors, which are converted here.
    """
    try:
        yield
    except (AttributeError, OSError, RecursionError, TypeError, ValueError) as error:
        if isinstance(error, auth_errors.GoogleAuthError | CmekError):
            raise
        problem = f"the credentials can't be used: {type(error).__name__}: {error}"
    else:
        return
    raise auth_errors.DefaultCredentialsError(problem)  # type: ignore[no-untyped-call]


def transient(error: Exception) -> RetryDecision:
    """Retry a transient problem; wait as long as Google requested, if it did."""
    if not isinstance(error, GoogleApiError) or not error.problem.transient:
        return False
    wait = error.problem.retry_after
    return True if wait is None else wait


class GoogleTransport:
    """JSON over HTTPS with the caller's token and quota project; use it in one event loop only."""

    def __init__(
        self, credentials: Credentials | None, *, base_url: str | None, quota_project: str | None
    ) -> None:
        self._credentials = scoped(credentials)
        self._base_url = check_base_url(base_url) if base_url else None
        self._quota_project = quota_project or getattr(credentials, "quota_project_id", None)
        self._http = http_client(base_url, timeout=TIMEOUT)
        self._slots = asyncio.Semaphore(CONCURRENT)
        self._refreshing = asyncio.Lock()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def get(
        self, parse: Parse[T], service: str, path: str, query: Mapping[str, str] | None = None
    ) -> T:
        """GET `https://SERVICE/PATH` and parse its JSON.

        Raises:
            GoogleApiError: Refused, failed, no response in time after all attempts, or a response
                of an undocumented shape.
        """
        url = self._url(service, path)
        return await self._send(parse, self._http.build_request("GET", url, params=query or {}))

    async def post(self, parse: Parse[T], service: str, path: str, body: Json) -> T:
        """Send a read that is a POST, such as `:getIamPolicy`; errors as `get`."""
        url = self._url(service, path)
        return await self._send(parse, self._http.build_request("POST", url, json=body))

    def _url(self, service: str, path: str) -> str:
        return f"{self._base_url or f'https://{service}'}/{path}"

    async def _send(self, parse: Parse[T], request: httpx.Request) -> T:
        call = f"{request.method} {request.url.copy_with(query=None)}"

        async def once() -> T:
            try:
                async with self._slots:
                    # at each attempt: the token may have expired during the wait
                    request.headers.update(await self._headers())
                    response = await send_bounded(self._http, request)
            except (httpx.TransportError, auth_errors.GoogleAuthError) as error:
                problem = classify(error, call=call)
            except httpx.DecodingError:
                problem = _unexpected(call)
            else:
                return _parsed(parse, response, call)
            # outside the handler: httpx's exception holds the request, and with it the token
            raise GoogleApiError(problem)

        return await retrying(once, transient)

    async def _headers(self) -> dict[str, str]:
        headers = {"x-goog-user-project": self._quota_project} if self._quota_project else {}
        if self._credentials is None:
            return headers
        async with self._refreshing:
            if not self._credentials.valid:
                # in a thread: google-auth's refresh blocks
                await asyncio.to_thread(self._credentials.refresh, TokenRequest())
        return headers | {"authorization": f"Bearer {self._credentials.token}"}


def _parsed(parse: Parse[T], response: httpx.Response, call: str) -> T:
    if not response.is_success:
        raise GoogleApiError(classify(response, call=call))
    try:
        return parse(response.json())
    except (ParseError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        problem = _unexpected(call)
    raise GoogleApiError(problem)


def endless_list(call: str, resource: str | None = None) -> GoogleProblem:
    """A list whose next page is one that was read: it would be read for ever."""
    message = "the list does not end: a page that was read comes again"
    return _unexpected(call, message).model_copy(update={"resource": resource})


def _unexpected(
    call: str, message: str = "an answer of a shape that Google's documentation does not have"
) -> GoogleProblem:
    return GoogleProblem(
        status="UNKNOWN",
        reason="NOT_GOOGLE",
        message=message,
        advice="Something between here and Google may have answered: check proxies.",
        call=call,
    )
