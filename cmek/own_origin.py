"""Which requests a process of ours on loopback takes: its own, and those of no other web page.

Every web page that somebody visits can make their browser send requests to this machine. A name
that was rebound to 127.0.0.1 shows in `Host`, a page of another origin (another port here, too) in
`Origin` or `Sec-Fetch-Site`, and no page can leave these out. Programs send neither of the
last two. The gateway, the sandbox and the local stack's Prefect server have this one rule.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cmek.plain_text import shortened

LOOPBACK_NAMES: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
_OWN_SITES: Final = ("same-origin", "none")
"""`Sec-Fetch-Site` of a page of this process, and of an address that a person typed."""
_BROWSERS: Final = ("origin", "sec-fetch-site", "referer", "cookie")
_LONGEST: Final = 200


@dataclass(frozen=True, slots=True)
class OwnOrigin:
    """The names of one process, and whether a browser has any business there."""

    names: frozenset[str] = LOOPBACK_NAMES
    """Host names by which it is reached, lower case, without a port."""
    port: int | None = None
    """None where a proxy of the administrator's may stand before it, on a port of its own."""
    pages: bool = True
    """Whether it has pages; where it has none, whatever a browser sends is refused."""

    def refusal(self, headers: Mapping[str, str], *, may_open: bool = False) -> str | None:
        """Why a request is refused, as plain text; None when it may pass.

        Args:
            headers: Of the request; names in lower case, or found in any case.
            may_open: Whether a link elsewhere may open this address as a page of its own.
        """
        host = headers.get("host", "").lower()
        name, port = re.fullmatch(r"(.*?)(?::([0-9]*))?", host, re.DOTALL).groups()  # type: ignore[union-attr]
        if name not in self.names or (self.port is not None and port != str(self.port)):
            return f"host {shortened(host, _LONGEST)!r} is none of this process: {self._reached}"
        if not self.pages:
            found = next((one for one in _BROWSERS if one in headers), None)
            return f"a request with {found} is a browser's" if found else None
        origin = headers.get("origin")
        if origin is not None:
            own = origin.lower() in {f"http://{one}" for one in self._hosts(host)}
            page = f"a page of {shortened(origin, _LONGEST)!r}"
            return None if own else f"{page} may not use it: own origin only"
        site = headers.get("sec-fetch-site", "none")
        # A link elsewhere may open a page of its own, without any call of an API.
        opened = may_open and headers.get("sec-fetch-mode") == "navigate"
        if site in _OWN_SITES or (opened and headers.get("sec-fetch-dest") == "document"):
            return None
        return f"a {shortened(site, _LONGEST)!r} page may not use it: own origin only"

    @property
    def _reached(self) -> str:
        end = "" if self.port is None else f":{self.port}"
        return f"use {', '.join(f'{name}{end}' for name in sorted(self.names))}"

    def _hosts(self, asked: str) -> frozenset[str]:
        """What a page of its own may have been opened as."""
        if self.port is None:
            return frozenset({asked})
        return frozenset(f"{name}:{self.port}" for name in self.names)


def listening_socket(host: str, port: int) -> socket.socket:
    """What such a process listens on; connections queue up until its server runs.

    Raises:
        OSError: The port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # with the protocol left open asyncio does not set TCP_NODELAY: each answer would take 40 ms
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(512)
    except OSError:
        listener.close()
        raise
    return listener
