"""Addresses of services: which are accepted, and which are on this machine."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final
from urllib.parse import SplitResult, urlsplit

from cmek.errors import CmekError

ADMIN_API: Final = "https://api.anthropic.com"
"""Also the default audience of Anthropic's federation rules."""
ADMIN_API_VERSION: Final = "2023-06-01"
"""Value of the header `anthropic-version`."""
ADMIN_HEADERS: Final = (
    f'-H "x-api-key: $ANTHROPIC_ADMIN_KEY" -H "anthropic-version: {ADMIN_API_VERSION}"'
)
"""Headers for a curl command that a person runs."""
GOOGLE_APIS: Final = "googleapis.com"
"""The domain of Google's APIs; each service has a host of its own in it."""
ANTHROPIC: Final = ("anthropic.com",)
"""Domains of Anthropic's services, subdomains included."""
GOOGLE: Final = (GOOGLE_APIS, "accounts.google.com")
"""Domains of Google's services, subdomains included."""


class EndpointError(CmekError, ValueError):
    """An address to which no credential may be sent; the message says what is allowed."""


def check_endpoint(url: str) -> str:
    """Accept `https://host`, `http://` on loopback, or gRPC's `host:port`; drop a final slash.

    To a `host:port` that is not on loopback the client uses TLS (see `CloudKms.connect`).

    Raises:
        EndpointError: Plain HTTP beyond loopback, another scheme, user information or a query.
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
    """Accept an address of `check_endpoint` to which a client can append the paths of an API.

    Only a proxy may have a path of its own: the services have none, and the client itself appends
    the version of the API.

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
    """Whether the address (URL or `host:port`) is on loopback."""
    host = host_of(url)
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_host_of(url: str, domains: tuple[str, ...]) -> bool:
    """Whether the host is one of these domains or in one of them."""
    host = host_of(url)
    return any(host == one or host.endswith(f".{one}") for one in domains)


def host_of(url: str) -> str:
    """The host in lower case, without a final dot.

    Raises:
        EndpointError: Clients could disagree about which host the address names.
    """
    return str(_split(url).hostname).rstrip(".").lower()


_CHARACTERS: Final = re.compile(r"[A-Za-z0-9._~:/\[\]@?#%!$&'()*+,;=-]+")
"""Characters of RFC 3986. Clients disagree about others: for some a backslash ends the host."""
_AUTHORITY: Final = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?")
"""Host and port, without user information."""
_NUMBERS: Final = re.compile(r"[0-9.]+")
"""Looks like an IPv4 address; some clients also accept a single number or parts above 255."""


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url if "://" in url else f"//{url}")
        host = parts.hostname or ""
        known = bool(host) and (parts.port is None or parts.port > 0)
        if _NUMBERS.fullmatch(host) or ":" in host:
            ip_address(host)  # refuses `2130706433`, which some clients read as 127.0.0.1
    except ValueError:
        known = False
    if known and "@" in parts.netloc:  # may hold a password: only the host is shown
        raise EndpointError(f"endpoint of {parts.hostname!r}: only scheme, host, port and path")
    if not known or not _AUTHORITY.fullmatch(parts.netloc) or not _CHARACTERS.fullmatch(url):
        raise EndpointError(
            f"endpoint {url.rpartition('@')[2]!r} is not an address: use https://HOST or HOST:PORT"
        )
    return parts
