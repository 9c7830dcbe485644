"""Check logged HTTP calls against Google's discovery documents, which we did not write."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import googleapiclient

from sandbox.kms.state import PROJECT_IN_PATH

DOCUMENTS = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents"
SYSTEM_PARAMETERS = {"alt", "$alt", "$.xgafv", "fields", "key", "prettyPrint", "quotaUser"}
KINDS: dict[str, Any] = {
    "boolean": bool, "string": str, "integer": int, "number": (int, float), "object": dict,
    "array": list,
}  # fmt: skip


class Discovery:
    """One document, e.g. `Discovery("cloudkms.v1")`."""

    def __init__(self, name: str) -> None:
        self.document = json.loads((DOCUMENTS / f"{name}.json").read_text())
        self.methods = [
            (method["httpMethod"], _pattern(method), method) for method in _methods(self.document)
        ]

    def method(self, verb: str, path: str) -> dict[str, Any] | None:
        """The method that serves this request."""
        return next(
            (m for v, pattern, m in self.methods if v == verb and pattern.fullmatch(path)), None
        )

    def violations(self, entry: dict[str, Any]) -> list[str]:
        """How one HTTP entry of the request log contradicts the document."""
        body = dict(entry["request"])
        http = body.pop("_http")
        method = self.method(http["method"], http["path"])
        if method is None:
            return [f"{http['method']} {http['path']}: no such method"]
        query = dict(parse_qsl(http["query"]))
        numbers = "enum-encoding=int" in (query.get("$alt", "") + query.get("alt", ""))
        known = method["parameters"]
        unknown = set(query) - set(known) - SYSTEM_PARAMETERS
        found = [f"unknown query parameter {name}" for name in sorted(unknown)]
        found += [
            f"query parameter {name} is {query[name]!r}, not one of {known[name]['enum']}"
            for name in sorted(set(query) & set(known))
            if query[name] not in known[name].get("enum", [query[name]])
        ]
        found += self._against(method.get("request"), body, "request", numbers)
        if entry["status"] == "OK":
            found += self._against(method["response"], entry["response"], "response", numbers)
        return [f"{entry['call']}: {one}" for one in found]

    def misfits(self, schema: str, value: Any) -> list[str]:
        """How a value contradicts the schema with that name."""
        return list(self._check({"$ref": schema}, value, schema, numbers=False))

    def _against(
        self, reference: dict[str, Any] | None, value: Any, at: str, numbers: bool
    ) -> list[str]:
        if reference is None:
            return [f"{at} has a body, the method takes none"] if value else []
        return list(self._check(reference, value, at, numbers))

    def _check(self, schema: dict[str, Any], value: Any, at: str, numbers: bool) -> Iterator[str]:
        schema = self.document["schemas"][schema["$ref"]] if "$ref" in schema else schema
        if schema["type"] == "any" or ("enum" in schema and numbers and isinstance(value, int)):
            return
        kind: str = schema["type"]
        if not isinstance(value, KINDS[kind]):
            yield f"{at} is {value!r}, not {kind}"
        elif kind == "array":
            for index, item in enumerate(value):
                yield from self._check(schema["items"], item, f"{at}[{index}]", numbers)
        elif kind == "object":
            yield from self._check_fields(schema, value, at, numbers)
        elif not _fits(value, schema):
            yield f"{at} is {value!r}, not {schema.get('enum') or schema['format']}"

    def _check_fields(
        self, schema: dict[str, Any], value: dict[str, Any], at: str, numbers: bool
    ) -> Iterator[str]:
        for name, item in value.items():
            inner = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
            if inner is None:
                yield f"{at}.{name} is unknown"
            else:
                yield from self._check(inner, item, f"{at}.{name}", numbers)


@cache
def discovery(name: str) -> Discovery:
    """The document, parsed once in each process."""
    return Discovery(name)


def _methods(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from node.get("methods", {}).values()
    for child in node.get("resources", {}).values():
        yield from _methods(child)


def _pattern(method: dict[str, Any]) -> re.Pattern[str]:
    """The path with each variable replaced by what the document allows for it.

    A colon marks the verb after a resource, so no variable may match one; the exception is an old
    project id, which begins with a domain and a colon.
    """

    def variable(match: re.Match[str]) -> str:
        pattern: str = method["parameters"][match[1]].get("pattern", "[^/]+")
        plain = pattern.strip("^$").replace("[^/]", "[^/:]").replace(".*", "[^:]*")
        return plain.replace("projects/[^/:]+", f"projects/{PROJECT_IN_PATH}")

    return re.compile("/" + re.sub(r"\{\+?(.+?)\}", variable, method["path"]))


def _fits(value: Any, schema: dict[str, Any]) -> bool:
    form = schema.get("format", "")
    try:
        if form in {"int64", "uint64"}:
            int(value)
        elif form == "google-datetime":
            datetime.fromisoformat(value)
        elif form == "byte":
            base64.b64decode(
                value, altchars=b"-_" if set(value) & {"-", "_"} else None, validate=True
            )
    except ValueError:
        return False
    if form == "google-duration":
        return re.fullmatch(r"-?\d+(\.\d+)?s", value) is not None
    return value in schema.get("enum", [value])
