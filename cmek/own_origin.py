"""Which requests our processes on loopback accept: those of programs and of their own pages only.

Every web page that a person visits can make the browser send requests to this machine. `Host` shows
a name that was rebound to 127.0.0.1 (DNS rebinding); `Origin` or `Sec-Fetch-Site` shows a page of
another origin, which includes another port of this machine. No page can suppress these headers.
Programs send neither of the last two. The gateway, the sandbox and the local stack's Prefect server
share this rule.
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
"""Values of `Sec-Fetch-Site` for a page of this process, and for an address that a person typed."""
_BROWSERS: Final = ("origin", "sec-fetch-site", "referer", "cookie")
_LONGEST: Final = 200


@dataclass(frozen=True, slots=True)
class OwnOrigin:
    """The host names of one process, and whether it has pages for a browser."""

    names: frozenset[str] = LOOPBACK_NAMES
    """Host names by which it is reached, in any case, without a port."""
    port: int | None = None
    """None when an administrator's proxy may be in front of it, on a port of its own."""
    pages: bool = True
    """Whether it has pages; without pages every request of a browser is refused."""

    def __post_init__(self) -> None:
        # an administrator may write them as in a certificate; `Host` is compared in lower case
        object.__setattr__(self, "names", frozenset(map(str.lower, self.names)))

    def refusal(self, headers: Mapping[str, str], *, may_open: bool = False) -> str | None:
        """Why a request is refused, as plain text; None when it is accepted.

        Args:
            headers: Of the request; a mapping with lower-case names, or one that ignores case.
            may_open: Whether a link on another site may open this address as a page.
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
        # following a link opens a whole document; the other site can't read it or call an API
        opened = may_open and headers.get("sec-fetch-mode") == "navigate"
        if site in _OWN_SITES or (opened and headers.get("sec-fetch-dest") == "document"):
            return None
        return f"a {shortened(site, _LONGEST)!r} page may not use it: own origin only"

    @property
    def _reached(self) -> str:
        end = "" if self.port is None else f":{self.port}"
        return f"use {', '.join(f'{name}{end}' for name in sorted(self.names))}"

    def _hosts(self, asked: str) -> frozenset[str]:
        """The hosts (`name:port`) under which its own pages may be open in a browser."""
        if self.port is None:
            return frozenset({asked})
        return frozenset(f"{name}:{self.port}" for name in self.names)


def listening_socket(host: str, port: int) -> socket.socket:
    """Bind a listening socket; connections queue until the server runs.

    Raises:
        OSError: The port is in use.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # without an explicit protocol asyncio does not set TCP_NODELAY: a response takes 40 ms more
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(512)
    except OSError:
        listener.close()
        raise
    return listener
