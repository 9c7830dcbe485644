"""Which account of this machine has opened a connection on loopback.

The kernel knows, so people need no login on their own machine, and others can't get in. It is asked
once for each connection, before anything that came by it is parsed.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Final

from uvicorn.protocols.http.h11_impl import H11Protocol

Address = tuple[str, int]
"""IPv4 address and port."""

_TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
"""The kernel's TCP sockets; a program may reach 127.0.0.1 from a socket of IPv6 as well."""
_MAPPED: Final = "0000000000000000FFFF0000"
"""What precedes an IPv4 address in the second table."""
_ROOT: Final = 0
_REFUSAL: Final = (
    b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"this server is for the account that started it only, and root: no process of theirs on this "
    b"system has opened this connection\n"
)


class OwnAccountProtocol(H11Protocol):
    """uvicorn's HTTP protocol; a connection of another account is answered with 403 and closed."""

    _accepted = False

    def data_received(self, data: bytes) -> None:
        """Ask the kernel who has opened the connection, and parse nothing of another account."""
        # not when the connection is made: closed before it is read, it would lose the refusal
        ends = (self.transport.get_extra_info(end) for end in ("peername", "sockname"))
        if self._accepted or is_own_account(*ends):
            self._accepted = True
            super().data_received(data)
        else:
            self.transport.write(_REFUSAL)
            self.transport.close()


def is_own_account(client: Address, server: Address) -> bool:
    """Whether a process of this account, or of root, holds the client's end of a connection.

    Where the system has no `/proc/net/tcp`, nothing tells, and every connection counts as own.
    Source: proc_pid_net(5).

    Args:
        client: The client's end.
        server: This process's end.
    """
    tables = [table for table in _TABLES if table.exists()]
    ends = [_as_in_table(client), _as_in_table(server)]
    wanted = (ends, [_MAPPED + end for end in ends])
    for table in tables:
        for line in table.read_text(encoding="ascii").splitlines():
            cells = line.split()
            if cells[1:3] in wanted:
                account, inode = int(cells[7]), int(cells[9])
                # a socket that its process has closed has no inode, and root as its account
                return inode != 0 and account in {os.getuid(), _ROOT}
    return not tables


def _as_in_table(address: Address) -> str:
    host, port = address
    return f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}:{port:04X}"
