"""The base of every error that this project raises on purpose, and why a connection was lost."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable, Iterator
from typing import Final, Literal

from cmek.plain_text import plain

MAX_MESSAGE: Final = 4000
"""Most characters of a message, since states, logs and notifications repeat it."""
_ADVICE_KEPT: Final = 1200
"""Characters kept at the end of a message that is too long: the end says what to do."""


class CmekError(Exception):
    """Says what happened, to which resource, and what to do; never holds a secret.

    The command prints each of these errors as a message, without a traceback. Any other exception
    is a bug and keeps its traceback.
    """

    def __str__(self) -> str:
        # many messages quote a service or a person: make them harmless once, for every reader
        return bounded(plain(self._message(), lines=True), MAX_MESSAGE)

    def _message(self) -> str:
        """The message as given; a subclass with attributes builds its message here."""
        return super().__str__()

    @property
    def resource(self) -> str | None:
        """The resource that it is about, by its name at the service; None when not known."""
        return None

    @property
    def advice(self) -> str:
        """What to do about it; empty when the message says so already."""
        return ""


def bounded(text: str, limit: int) -> str:
    """The text, cut to `limit` characters: beginning and end stay, the number left out is named."""
    if len(text) <= limit:
        return text
    gap = f" … ({len(text) - limit} characters left out) … "
    room = limit - len(gap)
    if room < len(gap):  # too short for a beginning and an end
        return text[:limit]
    end = min(_ADVICE_KEPT, room // 2)
    return text[: room - end] + gap + text[-end:]


def listed(names: Iterable[str], most: int = 8, separator: str = ", ") -> str:
    """The names, joined; beyond `most` only how many more there are."""
    every = tuple(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return separator.join(every[:most]) + more


UNKNOWN_CONNECTION: Final = (
    "Check the address, the network, proxies and TLS inspection, then try again."
)
SET_CLOCK: Final = (
    "Compare `date -u` with a clock that is right, and let the machine set its own (timedatectl "
    "set-ntp true)."
)
Lost = Literal["TLS_TIME", "TLS_UNTRUSTED", "TLS_HOST", "HOST_UNKNOWN", "REFUSED", "CONNECTION"]
"""Why there is no connection, as far as the exceptions show; `CONNECTION`: not known."""
LOST: Final[dict[str, str]] = {
    "TLS_TIME": (
        f"The clock of this machine is wrong, or the certificate's time is over. {SET_CLOCK}"
    ),
    "TLS_UNTRUSTED": (
        "This machine does not trust the certificate, as where a network opens and signs "
        "connections itself: give the worker that network's certificates (SSL_CERT_FILE, "
        "REQUESTS_CA_BUNDLE and GRPC_DEFAULT_SSL_ROOTS_FILE_PATH), or have the host excepted."
    ),
    "TLS_HOST": "The certificate is another host's: check the address, and what answers there.",
    "HOST_UNKNOWN": "The host's name is not known: check the address, DNS, and whether a proxy "
    "(HTTPS_PROXY) is needed.",
    "REFUSED": "Nothing listens there, or a firewall refuses: check host, port and firewall.",
    "CONNECTION": UNKNOWN_CONNECTION,
}
_NOT_YET_VALID, _EXPIRED, _OTHER_HOST, _OTHER_ADDRESS = 9, 10, 62, 64
"""OpenSSL's `X509_V_ERR_…`."""


def lost_connection(error: BaseException) -> tuple[Lost, str]:
    """Why there is no connection, and what a person can do; judged by types, never by texts."""
    cause: Lost = "CONNECTION"
    for one in _below(error):
        if isinstance(one, ssl.SSLCertVerificationError):
            by_code: dict[int, Lost] = {
                _NOT_YET_VALID: "TLS_TIME",
                _EXPIRED: "TLS_TIME",
                _OTHER_HOST: "TLS_HOST",
                _OTHER_ADDRESS: "TLS_HOST",
            }
            cause = by_code.get(one.verify_code, "TLS_UNTRUSTED")
        elif isinstance(one, socket.gaierror):
            cause = "HOST_UNKNOWN"
        elif isinstance(one, ConnectionRefusedError):
            cause = "REFUSED"
    return cause, LOST[cause]


def _below(error: BaseException) -> Iterator[BaseException]:
    """The exception and every exception inside it: the HTTP libraries nest causes in many ways."""
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        inside = (one.__cause__, one.__context__, getattr(one, "reason", None), *one.args)
        grouped = one.exceptions if isinstance(one, BaseExceptionGroup) else ()
        waiting += [each for each in (*inside, *grouped) if isinstance(each, BaseException)]
