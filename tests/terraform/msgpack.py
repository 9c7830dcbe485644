"""The part of MessagePack that Terraform uses: JSON's types, and a value not known yet."""

from __future__ import annotations

import struct
from typing import Any


class Unknown:
    """A value that only an apply will know."""


UNKNOWN = Unknown()
_UNKNOWN_BYTES = b"\xd4\x00\x00"


def pack(value: Any) -> bytes:
    """Encode; lists and maps of up to 65535 members."""
    if isinstance(value, Unknown):
        return _UNKNOWN_BYTES
    if value is None or isinstance(value, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
    if isinstance(value, int):
        return b"\xd3" + struct.pack(">q", value)
    if isinstance(value, str):
        data = value.encode()
        return b"\xdb" + struct.pack(">I", len(data)) + data
    if isinstance(value, list):
        return b"\xdc" + struct.pack(">H", len(value)) + b"".join(map(pack, value))
    pairs = b"".join(pack(name) + pack(member) for name, member in value.items())
    return b"\xde" + struct.pack(">H", len(value)) + pairs


def unpack(data: bytes) -> Any:
    """Decode one value."""
    return _read(data, 0)[0]


_NUMBERS = {
    0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q",
    0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q",
}  # fmt: skip
_LENGTHS = {
    0xC4: ("bytes", ">B"), 0xC5: ("bytes", ">H"), 0xC6: ("bytes", ">I"),
    0xC7: ("ext", ">B"), 0xC8: ("ext", ">H"), 0xC9: ("ext", ">I"),
    0xD9: ("str", ">B"), 0xDA: ("str", ">H"), 0xDB: ("str", ">I"),
    0xDC: ("list", ">H"), 0xDD: ("list", ">I"), 0xDE: ("map", ">H"), 0xDF: ("map", ">I"),
}  # fmt: skip


def _read(data: bytes, at: int) -> tuple[Any, int]:
    tag, at = data[at], at + 1
    if tag in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[tag], at
    if tag <= 0x7F or tag >= 0xE0:
        return tag - 0x100 * (tag >= 0xE0), at
    if tag in _NUMBERS:
        size = struct.calcsize(_NUMBERS[tag])
        return struct.unpack_from(_NUMBERS[tag], data, at)[0], at + size
    if 0xD4 <= tag <= 0xD8:
        return UNKNOWN, at + 1 + 2 ** (tag - 0xD4)
    if tag in _LENGTHS:
        kind, form = _LENGTHS[tag]
        return _sized(kind, struct.unpack_from(form, data, at)[0], data, at + struct.calcsize(form))
    kind = "str" if tag >= 0xA0 else "list" if tag >= 0x90 else "map"
    return _sized(kind, tag & (0x1F if kind == "str" else 0x0F), data, at)


def _sized(kind: str, size: int, data: bytes, at: int) -> tuple[Any, int]:
    if kind == "ext":
        return UNKNOWN, at + 1 + size
    if kind in ("str", "bytes"):
        raw = data[at : at + size]
        return (raw.decode() if kind == "str" else raw), at + size
    members = []
    for _ in range(size * (2 if kind == "map" else 1)):
        member, at = _read(data, at)
        members.append(member)
    if kind == "list":
        return members, at
    return dict(zip(members[::2], members[1::2], strict=True)), at
