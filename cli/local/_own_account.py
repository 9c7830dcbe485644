"""Which account of this machine has opened a connection on loopback.

The kernel knows, so people need no login on their own machine, and others can't get in. It is asked
once for each connection, before anything that came by it is parsed.
"""

from __future__ import annotations

import os
import socket
import struct
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
_SOCK_DIAG: Final = 4  # the protocol, and below the type of its messages
_BY_FAMILY: Final = 20
_HEADER: Final = struct.Struct("=IHHII")
"""Length, type, flags, sequence number and port of a netlink message (`struct nlmsghdr`)."""
_FOUND: Final = struct.Struct("=52xIIIII")
"""Of `struct inet_diag_msg`: expires, two queues, account, inode."""
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

    Where the system tells nothing (no Linux, no `/proc`), every connection counts as own.

    Args:
        client: The client's end.
        server: This process's end.
    """
    holder = _asked(client, server) or _looked_up(client, server)
    if holder is None:
        return not any(table.exists() for table in _TABLES)
    account, inode = holder
    # a socket that its process has closed has no inode, and root as its account
    return inode != 0 and account in {os.getuid(), _ROOT}


def _asked(client: Address, server: Address) -> tuple[int, int] | None:
    """Account and inode of one socket, in a hundredth of a millisecond. Source: sock_diag(7)."""
    if sys.platform != "linux":
        return None
    ends = struct.pack("!HH", client[1], server[1])
    ends += b"".join(socket.inet_aton(host).ljust(16, b"\0") for host, _ in (client, server))
    any_state = any_cookie = 0xFFFFFFFF
    asked = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, any_state) + ends
    asked += struct.pack("=III", 0, any_cookie, any_cookie)
    header = _HEADER.pack(_HEADER.size + len(asked), _BY_FAMILY, 1, 0, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
            kernel.sendto(header + asked, (0, 0))
            message = kernel.recv(4096)
    except OSError:  # a kernel without it
        return None
    if _HEADER.unpack_from(message)[1] != _BY_FAMILY:  # an error: no such socket
        return None
    *_, account, inode = _FOUND.unpack_from(message, _HEADER.size)
    return account, inode


def _looked_up(client: Address, server: Address) -> tuple[int, int] | None:
    """The same from the list of all sockets, which takes the longer the more there are.

    Source: proc_pid_net(5).
    """
    ends = [_as_in_table(client), _as_in_table(server)]
    wanted = (ends, [_MAPPED + end for end in ends])
    for table in _TABLES:
        if table.exists():
            for line in table.read_text(encoding="ascii").splitlines():
                cells = line.split()
                if cells[1:3] in wanted:
                    return int(cells[7]), int(cells[9])
    return None


def _as_in_table(address: Address) -> str:
    host, port = address
    return f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}:{port:04X}"
