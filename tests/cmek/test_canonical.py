"""Canonical JSON by RFC 8785: another implementation gets the same bytes and digests."""

from __future__ import annotations

import hashlib
import json
import math
import random
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from playwright._impl._driver import compute_driver_executable
from pydantic import BaseModel, JsonValue

from cmek.canonical import NotCanonicalError, canonical_json, digest

MAX_INTEGER = 2**53 - 1
NUMBERS = (
    st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.floats(-MAX_INTEGER, MAX_INTEGER)
    | st.floats(min_value=1e21, allow_infinity=False)
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=12,
)

# What JSON.stringify writes is what the standard defines, and sort() compares UTF-16 code units.
RECOMPUTE = """
const {createHash} = require("node:crypto");
const canonical = one => Array.isArray(one) ? `[${one.map(canonical)}]`
    : one !== null && typeof one === "object"
    ? `{${Object.keys(one).sort().map(name => `${JSON.stringify(name)}:${canonical(one[name])}`)}}`
    : JSON.stringify(one);
const values = JSON.parse(require("node:fs").readFileSync(0, "utf8"));
const texts = values.map(canonical);
const digests = texts.map(one => createHash("sha256").update(one, "utf8").digest("hex"));
process.stdout.write(JSON.stringify({texts, digests}));
"""


@given(JSON)
@example({"\U0001f600": 1, "\ufb33": 2})  # sorted by UTF-16 code units, not by code points
@example([-0.0, 5e-324, 1.7976931348623157e308, 1e21, 333333333.33333329])
def test_parsing_canonical_json_gives_the_value_back(value: Any) -> None:
    """Nothing is lost, and writing the value again gives the same bytes."""
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text


def _shuffled(value: Any, chance: random.Random) -> Any:
    if isinstance(value, list):
        return [_shuffled(one, chance) for one in value]
    if isinstance(value, dict):
        names = chance.sample(list(value), len(value))
        return {name: _shuffled(value[name], chance) for name in names}
    return value


@given(JSON, st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_matter(value: Any, chance: random.Random) -> None:
    assert digest(_shuffled(value, chance)) == digest(value)


@given(JSON, JSON)
@example(1, True)
@example(1, 1.0)
def test_different_values_have_different_digests(one: Any, other: Any) -> None:
    """Different as JSON values: 1 and 1.0 are the same number, and `true` is not a number."""
    assert (digest(one) == digest(other)) is (_typed(one) == _typed(other))


def _typed(value: Any) -> Any:
    """The value, with booleans that do not equal numbers."""
    if isinstance(value, list):
        return [_typed(one) for one in value]
    if isinstance(value, dict):
        return {name: _typed(one) for name, one in value.items()}
    return ("truth", value) if isinstance(value, bool) else value


def test_another_implementation_recomputes_texts_and_digests() -> None:
    """It is a JavaScript engine: RFC 8785 prescribes its format of numbers and strings."""
    chance = random.Random(8785)  # noqa: S311 - the same values every time
    values: list[JsonValue] = [
        {"\u20ac": "Euro", "\r": "CR", "\ufb33": 1, "1": "One", "\U0001f600": 2, "\x80": 3, "ö": 4},
        [None, True, False, "", {}, [], '\x00\x1f\x7f\u2028"\\/\b\f\n\r\t', "é\U0001f600"],
        [0.0, -0.0, 1e-7, 1e-6, 1.5, -1e21, 1e23, 5e-324, sys.float_info.max, MAX_INTEGER],
        *(chance.randrange(-MAX_INTEGER, MAX_INTEGER) for _ in range(500)),
        *(_any_float(chance) for _ in range(2000)),
        *(_two_names(chance) for _ in range(500)),
    ]
    node, _ = compute_driver_executable()
    done = subprocess.run(
        [node, "-e", RECOMPUTE],
        input=json.dumps(values),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=True,
    )
    recomputed = json.loads(done.stdout)
    assert recomputed["texts"] == [canonical_json(one).decode() for one in values]
    assert recomputed["digests"] == [digest(one) for one in values]


def _two_names(chance: random.Random) -> JsonValue:
    return {chr(chance.randrange(0xD800)): 1, chr(chance.randrange(0xE000, 0x110000)): 2}


def _any_float(chance: random.Random) -> float:
    """A float of any size, except those that are written as an integer beyond the limit."""
    small = chance.uniform(1, 10) * 10.0 ** chance.randrange(-300, 15)
    return chance.choice([small, -small, chance.uniform(1, 10) * 10.0 ** chance.randrange(21, 300)])


@pytest.mark.parametrize(
    "value",
    [
        MAX_INTEGER + 1,
        -MAX_INTEGER - 1,
        1e20,
        float(MAX_INTEGER + 1),
        math.inf,
        -math.inf,
        math.nan,
        "\ud800",
        {"\ud800": 1},
    ],
    ids=repr,
)
def test_what_others_would_read_differently_is_refused(value: JsonValue) -> None:
    """Numbers that not every reader holds exactly, and lone surrogates; the error names them."""
    places: list[JsonValue] = [value, [value], {"deep": [{"er": value}]}]
    for placed in places:
        with pytest.raises(NotCanonicalError, match=r"RFC 8785.*: \S"):
            canonical_json(placed)


class _Shown(BaseModel):
    name: str
    parts: tuple[int, ...]


def test_a_model_is_written_by_its_json_form() -> None:
    """It has the same bytes and digest as the plain value; the digest is SHA-256."""
    plain: JsonValue = {"parts": [1, 2], "name": "ä"}
    model = _Shown(name="ä", parts=(1, 2))
    assert canonical_json(model) == canonical_json(plain) == '{"name":"ä","parts":[1,2]}'.encode()
    assert digest(model) == hashlib.sha256(canonical_json(plain)).hexdigest()
