"""Protocol messages to JSON and back: one way for the log, REST and gRPC."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message as RawMessage


def raw(message: Any) -> RawMessage:  # noqa: ANN401 - proto-plus or plain protobuf
    """The plain protobuf message behind a proto-plus one; a plain one as it is."""
    unwrap = getattr(type(message), "pb", None)
    plain: RawMessage = unwrap(message) if unwrap else message
    return plain


def to_json(message: Any, *, enums_as_ints: bool = False) -> dict[str, Any]:  # noqa: ANN401
    """JSON as Google's REST surface writes it: camelCase, empty fields left out."""
    made: dict[str, Any] = json_format.MessageToDict(
        raw(message), use_integers_for_enums=enums_as_ints
    )
    return made


def from_json(kind: type[Any], data: dict[str, Any]) -> Any:  # noqa: ANN401
    """A message of `kind` from its JSON.

    Raises:
        google.protobuf.json_format.ParseError: an unknown field or a value of the wrong type.
    """
    message = kind()
    json_format.ParseDict(data, raw(message))
    return message
