"""Which addresses of services are accepted, and which of them are this machine's own."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final
from urllib.parse import SplitResult, urlsplit

from cmek.errors import CmekError

ADMIN_API: Final = "https://api.anthropic.com"
"""Also the audience that Anthropic's federation rules expect unless told otherwise."""
ADMIN_API_VERSION: Final = "2023-06-01"
"""Of the header `anthropic-version`."""
GOOGLE_APIS: Final = "googleapis.com"
"""Stands for all of Google's addresses, of which each service has its own."""


class EndpointError(CmekError, ValueError):
    """An address that no credential may be sent to: names it and says what is allowed."""


def check_endpoint(url: str) -> str:
    """Accept `https://host`, `http://` on loopback, or gRPC's `host:port`; drop a final slash.

    A `host:port` beyond loopback is spoken to over TLS (see `CloudKms.connect`).

    Raises:
        EndpointError: plain text beyond loopback, another scheme, user information or a query.
    """
    parts = _split(url)
    if parts.scheme not in {"", "http", "https"}:
        raise EndpointError(f"endpoint {url!r}: use https://HOST, or HOST:PORT for gRPC")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise EndpointError(f"endpoint of {parts.hostname!r}: only scheme, host, port and path")
    if parts.scheme == "http" and not is_loopback(url):
        raise EndpointError(
            f"endpoint {url!r} is plain text: use https, http is allowed on this machine only"
        )
    return url.rstrip("/")


_VERSION: Final = re.compile(r"/v[0-9]+(?:(?:alpha|beta)[0-9]*)?(?=/|$)")
_SERVICES: Final = ("anthropic.com", "googleapis.com")


def check_base_url(url: str) -> str:
    """Accept what `check_endpoint` accepts, where a client can put an API's paths behind it.

    A path is for a proxy; the services themselves have none, and an API's version is ours to add.

    Raises:
        EndpointError: As `check_endpoint`; or a path such as `/v1`, which would be there twice.
    """
    accepted = check_endpoint(url)
    parts = _split(accepted)
    version = _VERSION.search(parts.path)
    if version is None and not (parts.path and f".{parts.hostname}".endswith(_SERVICES)):
        return accepted
    kept = (
        accepted[: len(accepted) - len(parts.path)]
        + parts.path[: version.start() if version else 0]
    )
    raise EndpointError(
        f"base URL {accepted!r}: write {kept!r}; what follows, /v1 and the path, is added to it"
    )


def is_loopback(url: str) -> bool:
    """Whether the address (URL or `host:port`) is this machine's own."""
    host = _split(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url if "://" in url else f"//{url}")
        known = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        known = False
    if not known or any(character.isspace() for character in url):
        raise EndpointError(f"endpoint {url!r} is not an address: use https://HOST or HOST:PORT")
    return parts
