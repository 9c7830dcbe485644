"""Credentials for the Admin API: a static key, workload identity federation, or a gateway's.

Source: https://platform.claude.com/docs/en/manage-claude/wif-reference
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, Final, Protocol
from uuid import UUID

from google.auth.exceptions import GoogleAuthError
from pydantic import AfterValidator, ConfigDict, Field, SecretStr

from cmek.anthropic.errors import CallFailure, GoogleIdentityError
from cmek.anthropic.models import AdminObject

GRANT_TYPE: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
FEDERATION_BETA: Final = "oauth-2025-04-20,oidc-federation-2026-04-01"
TOKEN_BETA: Final = "oauth-2025-04-20"  # noqa: S105 - a header value
_RENEW_BEFORE_SECONDS: Final = 60.0
APPROVALS_HEADER: Final = "cmek-signed-approvals"
"""Header that carries signed approvals to a gateway, in the request that needs them."""


def usable_in_header(secret: SecretStr) -> SecretStr:
    """Refuse a secret that is no valid header value: an HTTP library would quote it in its error.

    Raises:
        ValueError: It is empty, or not printable ASCII without blanks; does not quote it.
    """
    value = secret.get_secret_value()
    if not value or not all("!" <= character <= "~" for character in value):
        raise ValueError(
            "the credential is empty or has characters that no key has (a blank, a line break or a "
            "zero byte inside, as of a UTF-16 file?): copy it again"
        )
    return secret


class AccessToken(AdminObject):
    """The response to a token request."""

    model_config = ConfigDict(extra="ignore")

    access_token: Annotated[SecretStr, AfterValidator(usable_in_header)]
    expires_in: float = Field(gt=0, allow_inf_nan=False)
    """Seconds from now."""


Exchange = Callable[[dict[str, str]], Awaitable[AccessToken]]
"""Sends a token request (the form with the assertion); the client provides it, since it has the
connection, the retries and the errors."""


class Credential(Protocol):
    """Gives the client the headers that authenticate a request."""

    async def headers(self, exchange: Exchange) -> dict[str, str]:
        """The headers that authenticate a request."""

    def refused(self) -> bool:
        """React to a 401; return whether another attempt would have other headers."""


@dataclass(frozen=True, slots=True)
class AdminKey:
    """A static Admin API key (`sk-ant-admin01-…`).

    Blanks at the ends (`echo` adds a line break) and a byte order mark are removed.

    Raises:
        ValueError: It has characters that no key has.
    """

    secret: SecretStr

    def __post_init__(self) -> None:
        stripped = SecretStr(self.secret.get_secret_value().strip("\ufeff \t\r\n"))
        object.__setattr__(self, "secret", usable_in_header(stripped))

    async def headers(self, exchange: Exchange) -> dict[str, str]:  # noqa: ARG002 - a key needs none
        """The key in the documented header."""
        return {"x-api-key": self.secret.get_secret_value()}

    def refused(self) -> bool:
        """Always False: a static key has no replacement."""
        return False


@dataclass(frozen=True, slots=True)
class GatewayAccess:
    """No credential: a cmek gateway at the base URL holds it, and checks signed approvals."""

    async def headers(self, exchange: Exchange) -> dict[str, str]:  # noqa: ARG002 - as above
        """No headers: what is allowed is decided by the gateway's policy."""
        return {}

    def refused(self) -> bool:
        """Always False: a 401 is about the gateway's own credential."""
        return False


def encoded_approvals(signed_approvals: str) -> str:
    """Signed approvals as a header value: base64 of UTF-8."""
    return base64.b64encode(signed_approvals.encode()).decode()


def decoded_approvals(header: str) -> str:
    """The reverse of `encoded_approvals`.

    Raises:
        ValueError: It is not base64 of UTF-8.
    """
    try:
        return base64.b64decode(header, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{APPROVALS_HEADER} is not base64 of UTF-8 text") from error


@dataclass(slots=True)
class WorkloadIdentity:
    """Exchanges a Google ID token for an `org:admin` access token, so that no static secret exists.

    The access token is kept in memory. It is renewed a minute before it expires, or after half of
    its lifetime when that is later.
    """

    federation_rule_id: str
    organization_id: UUID
    service_account_id: str
    audience: str
    id_token: Callable[[str], str]
    """Returns a Google ID token for an audience; blocks (see `id_token_provider`)."""
    token_endpoint: str | None = None
    """Where the ID token comes from; None for this machine's own identity."""
    _token: AccessToken | None = field(default=None, init=False, repr=False)
    _renew_at: float = field(default=0.0, init=False, repr=False)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock, init=False, repr=False)

    async def headers(self, exchange: Exchange) -> dict[str, str]:
        """The access token as a bearer token, renewed when needed.

        Raises:
            GoogleIdentityError: There is no Google ID token to exchange.
            AdminApiError: The exchange was refused or had no response.
        """
        async with self._lock:  # concurrent requests share one exchange
            if self._token is None or time.monotonic() >= self._renew_at:
                await self._renew(exchange)
            assert self._token is not None  # noqa: S101 - just set
            bearer = f"Bearer {self._token.access_token.get_secret_value()}"
            return {"authorization": bearer, "anthropic-beta": TOKEN_BETA}

    def refused(self) -> bool:
        """Discard the token: it was revoked, or the federation rule was changed."""
        self._token = None
        return True

    async def _renew(self, exchange: Exchange) -> None:
        assertion = await self._assertion()
        form = {
            "grant_type": GRANT_TYPE,
            "assertion": assertion,
            "federation_rule_id": self.federation_rule_id,
            "organization_id": str(self.organization_id),
            "service_account_id": self.service_account_id,
        }
        token = await exchange(form)
        # a rule may give tokens of one minute: with a fixed minute each call would exchange again
        early = min(_RENEW_BEFORE_SECONDS, token.expires_in / 2)
        self._renew_at = time.monotonic() + token.expires_in - early
        self._token = token

    async def _assertion(self) -> str:
        try:
            return await asyncio.to_thread(self.id_token, self.audience)
        except (GoogleAuthError, ValueError) as error:  # ValueError: the response is no token
            # only the first argument: some errors have a second one, which may quote the key
            said = error.args[0] if error.args else type(error).__name__
            problem = f"no Google ID token for audience {self.audience}: {said}"
        # outside the handler, so that the traceback does not hold google-auth's error
        raise GoogleIdentityError(CallFailure("GET", "Google ID token", problem))
