"""Signals that a key may have changed: Anthropic's webhook, and Cloud Audit Logs by Pub/Sub push.

A signal decides nothing: it names a key, which is then read again. A forged signal could only cause
an unnecessary check; it is refused nevertheless, with the reason.

Source: https://platform.claude.com/docs/en/api/sdks/python (the official SDK verifies by
https://www.standardwebhooks.com) and
https://docs.cloud.google.com/pubsub/docs/authenticate-push-subscriptions
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from google.auth import exceptions as auth_errors
from google.auth.transport import Request
from google.oauth2 import id_token
from pydantic import AliasPath, BaseModel, Field, ValidationError

from cmek.addresses import check_endpoint, is_loopback
from cmek.errors import CmekError
from cmek.gcp._transport import TokenRequest
from cmek.keys.health_rules import THREATENING_METHODS
from cmek.models import FrozenModel

TOLERANCE_SECONDS: Final = 300
"""How far a webhook's time may be from ours; as in the official SDK."""
MIN_SECRET: Final = 24
"""Bytes, by the specification; with an empty secret anybody could sign."""
MAX_WEBHOOK: Final = 64 * 1024
MAX_PUSH: Final = 1024 * 1024
"""A log entry has at most 256 KiB."""
GOOGLE_CERTS: Final = "https://www.googleapis.com/oauth2/v1/certs"
CERTS_SECONDS: Final = 3600.0
_ISSUERS: Final = frozenset({"accounts.google.com", "https://accounts.google.com"})
_PREFIX: Final = "whsec_"
_SECONDS: Final = re.compile(r"[0-9]{1,12}")
_KEY_EVENT: Final = re.compile(r"external_key\.\w+")


class SignalRefusedError(CmekError):
    """A request without a valid proof of its sender (forged, stale), or not in the documented form.

    Attributes:
        status: The response's status: 401 when the sender was not authenticated, else 400.
    """

    def __init__(self, why: str, *, status: Literal[400, 401] = 400) -> None:
        super().__init__(why)
        self.status = status


class Signal(FrozenModel):
    """One signal; it has either an external key or a resource."""

    source: Literal["webhook", "audit log"]
    id: str
    """The id of the delivery: the same when the sender repeats it."""
    what: str
    external_key_id: str | None = None
    resource: str | None = None
    """A crypto key, one of its versions, or a key ring."""


class _WebhookData(BaseModel):
    type: str
    id: str


class _Webhook(BaseModel):
    id: str
    data: _WebhookData


class _LogEntry(BaseModel):
    service: Annotated[str, Field(validation_alias=AliasPath("protoPayload", "serviceName"))]
    method: Annotated[str, Field(validation_alias=AliasPath("protoPayload", "methodName"))]
    resource: Annotated[str, Field(validation_alias=AliasPath("protoPayload", "resourceName"))]


class _Push(BaseModel):
    id: Annotated[str, Field(validation_alias=AliasPath("message", "messageId"))]
    data: Annotated[str, Field(validation_alias=AliasPath("message", "data"))]


def webhook_secrets(text: str) -> tuple[bytes, ...]:
    """The signing keys of a file, one in each line: two while a secret is being replaced.

    Raises:
        ValueError: There is none, or a line is not a `whsec_…`.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines or not all(line.startswith(_PREFIX) for line in lines):
        raise ValueError(f"expected one {_PREFIX}… a line, as Anthropic shows it once")
    return tuple(_signing_key(line.removeprefix(_PREFIX)) for line in lines)


def _signing_key(text: str) -> bytes:
    digits = text.rstrip("=")  # the secret may come without padding
    try:
        key = base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except ValueError:
        key = b""
    if len(key) < MIN_SECRET:
        raise ValueError(
            f"{_PREFIX} is not followed by {MIN_SECRET} bytes or more in base64: copy the secret "
            "whole, as Anthropic shows it once"
        )
    return key


def verified_webhook(
    headers: Mapping[str, str], body: bytes, secrets: Sequence[bytes], now: float
) -> Signal | None:
    """The signal of a webhook that Anthropic signed; None for an event that is not about a key.

    Args:
        headers: With lower-case names.
        body: Unchanged, since the signature is over its bytes.
        secrets: From `webhook_secrets`.
        now: Seconds since the epoch.

    Raises:
        SignalRefusedError: Not signed by any of the secrets, too old or too new, or not an event.
    """
    sent, at = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not sent or not _SECONDS.fullmatch(at):
        raise SignalRefusedError("webhook-id or webhook-timestamp is missing", status=401)
    # the time is signed too, so an old webhook can't be sent again with a new time
    if abs(now - int(at)) > TOLERANCE_SECONDS:
        raise SignalRefusedError(
            f"the webhook is of {at}, more than {TOLERANCE_SECONDS} s from now: an old one sent "
            "again, or a clock that is wrong",
            status=401,
        )
    signed = b".".join((sent.encode(), at.encode(), body))
    # once for each secret: a stranger may send thousands of signatures and a long body
    wanted = [base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)) for secret in secrets]
    given = headers.get("webhook-signature", "").split(" ")
    if not any(_is_signature(one, right) for one in given for right in wanted):
        raise SignalRefusedError("no signature of the webhook's secret", status=401)
    try:
        event = _Webhook.model_validate_json(body)
    except ValidationError as error:
        raise SignalRefusedError(f"no event of the documented form: {_first(error)}") from None
    if not _KEY_EVENT.fullmatch(event.data.type):
        return None
    return Signal(source="webhook", id=sent, what=event.data.type, external_key_id=event.data.id)


def _is_signature(given: str, wanted: bytes) -> bool:
    version, _, text = given.partition(",")
    return version == "v1" and hmac.compare_digest(wanted, text.encode())


def _first(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


class PushVerifier:
    """Verifies by its OIDC token that a push comes from our subscription.

    Args:
        audience: As set in the subscription.
        account: The subscription's service account.
        certs_url: Google's certificates; another address must be on this machine.

    Raises:
        ValueError: `certs_url` is neither Google's nor on this machine.
    """

    def __init__(self, audience: str, account: str, certs_url: str = GOOGLE_CERTS) -> None:
        local = is_loopback(check_endpoint(certs_url))
        if certs_url != GOOGLE_CERTS and not local:
            raise ValueError(f"{certs_url}: the certificates are Google's, {GOOGLE_CERTS}")
        self._audience, self._account, self._certs_url = audience, account, certs_url
        self._request = _Remembered(TokenRequest())

    def verified(self, headers: Mapping[str, str], body: bytes) -> Signal | None:
        """The signal of a push; None for an entry that is not about a key.

        It blocks while it fetches certificates.

        Raises:
            SignalRefusedError: Not sent by our subscription, or not a log entry.
        """
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise SignalRefusedError("no OIDC token", status=401)
        try:
            claims: Mapping[str, Any] = id_token.verify_token(
                token, self._request, audience=self._audience, certs_url=self._certs_url
            )
        except (ValueError, RecursionError, auth_errors.GoogleAuthError) as error:
            why = str(error).replace(token, "…")  # some of google-auth's messages quote it
            raise SignalRefusedError(f"the OIDC token is not valid: {why}", status=401) from None
        # anyone can get a token of Google's for this audience: issuer and account decide
        caller = claims.get("email") if claims.get("email_verified") is True else None
        if claims.get("iss") not in _ISSUERS or caller != self._account:
            raise SignalRefusedError(
                f"the OIDC token is of {caller!r}, issued by {claims.get('iss')!r}, not of "
                f"{self._account}, issued by Google",
                status=401,
            )
        return pushed_signal(body)


def pushed_signal(body: bytes) -> Signal | None:
    """The signal in a verified push; None when it is not about a key, or not a threat.

    Raises:
        SignalRefusedError: Not in the documented form.
    """
    try:
        push = _Push.model_validate_json(body)
        entry = _LogEntry.model_validate_json(base64.b64decode(push.data, validate=True))
    except ValidationError as error:
        raise SignalRefusedError(f"no log entry in a push: {_first(error)}") from None
    except ValueError as error:
        raise SignalRefusedError(f"no log entry in a push: {error}") from None
    method = entry.method.rpartition(".")[2]
    about_a_key = entry.service == "cloudkms.googleapis.com" and "/keyRings/" in entry.resource
    if not about_a_key or method not in THREATENING_METHODS:
        return None
    return Signal(source="audit log", id=push.id, what=method, resource=entry.resource)


class _Remembered(Request):
    """Caches Google's certificates for an hour; google-auth would fetch them for every token."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._kept: tuple[float, Any] | None = None

    def __call__(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - as google-auth has it
        """The cached response while it is fresh, else a new one."""
        if self._kept is None or time.monotonic() > self._kept[0]:
            # only what was given, so that the request keeps its own time limit
            response = self._request(*arguments, **options)
            if response.status != 200:
                return response  # an error is not cached
            self._kept = (time.monotonic() + CERTS_SECONDS, response)
        return self._kept[1]


class KnownKeys:
    """The watched keys; finds those that a signal is about.

    Args:
        names: The name of the crypto key, by external key.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = dict(names)

    def about(self, signal: Signal) -> tuple[str, ...]:
        """The external keys that the signal is about; none for a key that is not watched.

        Projects are not compared, since a log may name a project by its number.
        """
        if signal.external_key_id is not None:
            return (signal.external_key_id,) if signal.external_key_id in self._names else ()
        wanted = _below_project(signal.resource or "").partition("/cryptoKeyVersions/")[0]
        return tuple(
            key
            for key, name in sorted(self._names.items())
            if _below_project(name) == wanted or _below_project(name).startswith(f"{wanted}/")
        )


def _below_project(resource: str) -> str:
    return resource.partition("/locations/")[2]


class Merger:
    """Says when the event of a signal is posted, so that a flood starts few checks.

    The first signal about something gives an event at once. Later ones are not dropped but delayed:
    they may be about a change after the reads of the check that the first one has started. All that
    is delayed becomes one event, so that one change of many keys starts one check of them.

    Args:
        seconds: Between two events about the same.
        at_once: Events in that time that need not wait.
    """

    def __init__(self, seconds: float, at_once: int) -> None:
        self._seconds, self._at_once = seconds, at_once
        self._free_at: dict[str, float] = {}
        self._recent: list[float] = []
        self._waiting: dict[str, tuple[str, ...]] = {}

    def wait(self, about: str, keys: tuple[str, ...], now: float) -> float | None:
        """What to do with a signal.

        Args:
            about: An external key, or a resource above several.
            keys: The external keys that are to be checked.
            now: Seconds of a clock that only goes forward.

        Returns:
            0: post its event now. More: in so many seconds, post one for what `taken` returns then.
            None: the event that is due includes it.
        """
        if about in self._waiting:
            return None
        self._recent = [at for at in self._recent if now - at < self._seconds]
        free_at = self._free_at.get(about, now)
        if free_at <= now and len(self._recent) < self._at_once:
            self._free_at[about] = now + self._seconds
            self._recent.append(now)
            return 0
        is_first = not self._waiting
        self._waiting[about] = keys
        return (free_at - now if free_at > now else self._seconds) if is_first else None

    def taken(self, now: float) -> dict[str, tuple[str, ...]]:
        """What waited, with the external keys of each; the next signals about it wait again."""
        waiting, self._waiting = self._waiting, {}
        self._free_at |= dict.fromkeys(waiting, now + self._seconds)
        return waiting

    def forget(self, about: str) -> None:
        """The event could not be posted: the next signal gives an event at once."""
        self._free_at.pop(about, None)


def as_json(signal: Signal) -> dict[str, Any]:
    """The signal as JSON, for the event's payload and for the log."""
    shown: dict[str, Any] = json.loads(signal.model_dump_json(exclude_none=True))
    return shown
