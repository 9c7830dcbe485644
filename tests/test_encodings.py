"""Text files are read and written as UTF-8, whatever the locale is: in Latin-1 they would differ.

Ruff's rule (PLW1514) does not see a `Path` that is a parameter or the result of an expression.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from cli.deploy import PROJECT

PACKAGES = ("benchmarks", "blocks", "cli", "cmek", "flows", "gateway", "sandbox", "tasks")
PLACES = {"read_text": 0, "write_text": 1}
"""The position of `encoding` among the arguments."""
MODE = re.compile(r"[rwxa][bt+]{0,2}")


def without_encoding(source: str) -> Iterator[int]:
    """The lines in which the locale decides how text is read or written."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and _depends_on_the_locale(node):
            yield node.lineno


def _depends_on_the_locale(call: ast.Call) -> bool:
    named = {one.arg: one.value for one in call.keywords}
    if "encoding" in named:
        return False
    if any(_is_true(named.get(one)) for one in ("text", "universal_newlines")):
        return True  # a process
    function = call.func
    name = getattr(function, "attr", getattr(function, "id", ""))
    if name in PLACES:
        return len(call.args) <= PLACES[name]
    if name not in {"open", "fdopen"}:
        return False
    modes = [one for one in (*call.args, named.get("mode")) if isinstance(one, ast.Constant)]
    texts = [str(one.value) for one in modes if MODE.fullmatch(str(one.value))]
    if isinstance(function, ast.Attribute) and name == "open" and call.args and not texts:
        return False  # the method of something else
    return not any("b" in one for one in texts)


def _is_true(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and value.value is True


@pytest.mark.parametrize("package", PACKAGES)
def test_every_text_file_has_its_encoding(package: str) -> None:
    found = []
    for file in sorted((PROJECT / package).rglob("*.py")):
        name = str(file.relative_to(PROJECT))
        lines = without_encoding(file.read_text(encoding="utf-8"))
        found += [f"{name}:{line}" for line in lines]
    assert found == [], "write encoding='utf-8'"


@pytest.mark.parametrize(
    ("code", "depends"),
    [
        ("p.write_text(x)", True),
        ("(folder / name).read_text()", True),
        ("p.read_text(errors='replace')", True),
        ("open(x)", True),
        ("p.open('a')", True),
        ("os.fdopen(x, 'w')", True),
        ("run(x, text=True)", True),
        ("p.write_text(x, encoding='utf-8')", False),
        ("p.read_text('utf-8')", False),
        ("open(x, 'rb')", False),
        ("p.open(mode='wb')", False),
        ("os.fdopen(x, 'wb')", False),
        ("RULE.open('why', command)", False),
    ],
)
def test_the_lint_sees_each_way_to_open_a_file(code: str, depends: bool) -> None:
    assert list(without_encoding(code)) == ([1] if depends else [])
