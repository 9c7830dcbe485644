"""Lists: pages with opaque tokens, the useful part of `filter`, `order_by` on one field.

Source: https://docs.cloud.google.com/kms/docs/sorting-and-filtering
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from sandbox.errors import invalid
from sandbox.kms.state import camel, to_json

DEFAULT_PAGE: Final = 100
LARGEST_PAGE: Final = 1000

_TERM: Final = re.compile(r'([A-Za-z][\w.-]*)\s*(!=|=|:)\s*("[^"]*"|[^\s"()]+)')
_AND: Final = re.compile(r"\s+(?:AND\s+)?(?=[A-Za-z][\w.-]*\s*(?:!=|=|:))")
_FIELDS: Final = {
    "name", "state", "algorithm", "protectionLevel", "purpose", "importOnly", "primary.state",
    "versionTemplate.algorithm", "versionTemplate.protectionLevel",
}  # fmt: skip
_ORDERS: Final = {"": "name", "name": "name", "createTime": "createTime"}

Item = TypeVar("Item")
Key = tuple[str, int, str]


class ListRequest(Protocol):
    """What all list requests have; some lack `filter` or `order_by`."""

    page_size: int
    page_token: str


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """One page; `total_size` is 0 when a filter is applied, as documented."""

    items: list[Item]
    next_page_token: str
    total_size: int

    @property
    def facts(self) -> dict[str, Any]:
        """The fields of a response besides its items."""
        return {"next_page_token": self.next_page_token, "total_size": self.total_size}


def paginate(items: Iterable[Item], parent: str, request: ListRequest) -> Page[Item]:
    """Filter and sort the items, and return one page of them.

    A page token holds the last item's sort key, so that new items do not shift the next page.
    Raises INVALID_ARGUMENT for a token of another list, or an unsupported filter or order.
    """
    if request.page_size < 0:
        raise invalid(f"page_size {request.page_size} is negative.")
    order_by, filter_ = getattr(request, "order_by", ""), getattr(request, "filter", "")
    field, descending = _order(order_by)
    terms = _terms(filter_)
    seen = ((to_json(item), item) for item in items)
    found = [
        (_key(data, field), item)
        for data, item in seen
        if all(_holds(data, *term) for term in terms)
    ]
    found.sort(key=lambda pair: pair[0], reverse=descending)
    # a token is valid only for the list, filter and order that it was made for
    list_ = json.dumps((parent, filter_, order_by))
    fingerprint = hashlib.sha256(list_.encode()).hexdigest()[:16]
    rest = found
    if request.page_token:
        last = _read_token(request.page_token, fingerprint)
        rest = [pair for pair in found if (pair[0] < last if descending else pair[0] > last)]
    size = min(request.page_size or DEFAULT_PAGE, LARGEST_PAGE)
    token = ""
    if len(rest) > size:
        token = urlsafe_b64encode(json.dumps([fingerprint, *rest[size - 1][0]]).encode()).decode()
    return Page([item for _, item in rest[:size]], token, 0 if filter_ else len(found))


def _order(order_by: str) -> tuple[str, bool]:
    field, _, direction = order_by.strip().partition(" ")
    order = _ORDERS.get(camel(field))
    if order is None or direction.strip() not in {"", "asc", "desc"}:
        raise invalid(f"order_by '{order_by}' is not supported: use name or create_time.")
    return order, direction.strip() == "desc"


def _key(data: dict[str, Any], field: str) -> Key:
    """The sort key: for a version its number, for anything else its name as text."""
    name = data.get("name", data.get("locationId", ""))
    head, _, tail = name.rpartition("/")
    time = data.get("createTime", "") if field == "createTime" else ""
    numbered = head.endswith("/cryptoKeyVersions")
    return (time, int(tail), "") if numbered else (time, 0, name)


def _read_token(token: str, fingerprint: str) -> Key:
    try:
        owner, time, number, name = json.loads(urlsafe_b64decode(token))
    except (ValueError, TypeError):
        owner, time, number, name = None, "", 0, ""
    if owner != fingerprint:
        raise invalid("The page_token is invalid or belongs to a list with other parameters.")
    return time, number, name


def _terms(filter_: str) -> list[tuple[str, str, str]]:
    terms = []
    for text in _AND.split(filter_.strip()) if filter_.strip() else []:
        match = _TERM.fullmatch(text.strip())
        field = match[1] if match else ""
        # A label's name is used as it is; any other field is spelled as in protobuf or in JSON.
        field = field if field.startswith("labels.") else camel(field)
        if match is None or (field not in _FIELDS and not field.startswith("labels.")):
            raise invalid(f"filter '{filter_}' is not supported at '{text}'.")
        terms.append((field, match[2], match[3].strip('"')))
    return terms


def _holds(data: dict[str, Any], field: str, operator: str, wanted: str) -> bool:
    head, _, rest = field.partition(".")
    found = data.get(head, "")
    if rest:
        found = found.get(rest, "") if isinstance(found, dict) else ""
    value = str(found)
    if operator == ":":
        return bool(value) and (wanted == "*" or wanted.lower() in value.lower())
    return (value == wanted) == (operator == "=")
