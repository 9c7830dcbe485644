"""Which addresses a credential may be sent to: encrypted ones, and this machine."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit


class EndpointError(ValueError):
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
