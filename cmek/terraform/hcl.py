"""Values as HCL, laid out as `terraform fmt` lays them out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Final

Value = str | bool | Sequence["Value"] | Mapping[str, "Value"]

_INDENT: Final = "  "
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ESCAPES: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def quoted(text: str) -> str:
    """A string literal in which nothing is taken for a template."""
    escaped = "".join(_ESCAPES.get(one, one) for one in text)
    escaped = re.sub(r"[\x00-\x1f]", lambda m: f"\\u{ord(m.group()):04x}", escaped)
    return f'"{escaped}"'.replace("${", "$${").replace("%{", "%%{")


def assignments(values: Mapping[str, Value], depth: int = 0) -> str:
    """Lines `name = value`; the equal signs of neighbours that fit on one line are aligned."""
    pairs = [(_name(name), _value(value, depth)) for name, value in values.items()]
    lines = []
    for is_block, group in groupby(pairs, key=lambda pair: "\n" in pair[1]):
        neighbours = list(group)
        width = 0 if is_block else max(len(name) for name, _ in neighbours)
        lines += [f"{_INDENT * depth}{name:{width}} = {value}" for name, value in neighbours]
    return "\n".join(lines)


def _name(text: str) -> str:
    return text if _NAME.fullmatch(text) else quoted(text)


def _value(value: Value, depth: int) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, bool):
        return str(value).lower()
    if not value:
        return "{}" if isinstance(value, Mapping) else "[]"
    end = _INDENT * depth
    if isinstance(value, Mapping):
        return f"{{\n{assignments(value, depth + 1)}\n{end}}}"
    items = "".join(f"{end}{_INDENT}{_value(one, depth + 1)},\n" for one in value)
    return f"[\n{items}{end}]"
