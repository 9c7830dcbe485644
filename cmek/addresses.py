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
ADMIN_HEADERS: Final = (
    f'-H "x-api-key: $ANTHROPIC_ADMIN_KEY" -H "anthropic-version: {ADMIN_API_VERSION}"'
)
"""Of a curl command for a person."""
GOOGLE_APIS: Final = "googleapis.com"
"""Stands for all of Google's addresses, of which each service has its own."""
ANTHROPIC: Final = ("anthropic.com",)
"""Domains of Anthropic's services; their subdomains count."""
GOOGLE: Final = (GOOGLE_APIS, "accounts.google.com")
"""Domains of Google's services; their subdomains count."""


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
    if parts.query or parts.fragment:
        raise EndpointError(f"endpoint of {parts.hostname!r}: only scheme, host, port and path")
    if parts.scheme == "http" and not is_loopback(url):
        raise EndpointError(
            f"endpoint {url!r} is plain text: use https, http is allowed on this machine only"
        )
    return url.rstrip("/")


_VERSION: Final = re.compile(r"/v[0-9]+(?:(?:alpha|beta)[0-9]*)?(?=/|$)")


def check_base_url(url: str) -> str:
    """Accept what `check_endpoint` accepts, where a client can put an API's paths behind it.

    A path is for a proxy; the services themselves have none, and an API's version is ours to add.

    Raises:
        EndpointError: As `check_endpoint`; or a path such as `/v1`, which would be there twice.
    """
    accepted = check_endpoint(url)
    parts = _split(accepted)
    version = _VERSION.search(parts.path)
    if version is None and not (parts.path and is_host_of(url, (*ANTHROPIC, *GOOGLE))):
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
    host = host_of(url)
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_host_of(url: str, domains: tuple[str, ...]) -> bool:
    """Whether the address is in one of these domains, or is one of them."""
    host = host_of(url)
    return any(host == one or host.endswith(f".{one}") for one in domains)


def host_of(url: str) -> str:
    """The address's host in lower case, without a final dot.

    Raises:
        EndpointError: It is no address that every client reads in the same way.
    """
    return str(_split(url).hostname).rstrip(".").lower()


_CHARACTERS: Final = re.compile(r"[A-Za-z0-9._~:/\[\]@?#%!$&'()*+,;=-]+")
"""Those of RFC 3986. Clients disagree about others: to some a backslash ends the host."""
_AUTHORITY: Final = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?")
"""Host and port; user information is refused."""
_NUMBERS: Final = re.compile(r"[0-9.]+")
"""An IPv4 address; some clients take one number, or a part of more than 255, for one too."""


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url if "://" in url else f"//{url}")
        host = parts.hostname or ""
        known = bool(host) and (parts.port is None or parts.port > 0)
        if _NUMBERS.fullmatch(host) or ":" in host:
            ip_address(host)
    except ValueError:
        known = False
    if known and "@" in parts.netloc:
        raise EndpointError(f"endpoint of {parts.hostname!r}: only scheme, host, port and path")
    if not known or not _AUTHORITY.fullmatch(parts.netloc) or not _CHARACTERS.fullmatch(url):
        raise EndpointError(
            f"endpoint {url.rpartition('@')[2]!r} is not an address: use https://HOST or HOST:PORT"
        )
    return parts
