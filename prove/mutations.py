"""Small changes of a module's code that a test must notice.

Our own, since what is mutated are single modules under a strict import layout: comparisons,
`and`/`or`, `not`, constants, and statements left out. Docstrings, annotations and the wording of
messages are left alone.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_SWAPPED: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change."""

    module: str
    path: Path
    line: int
    what: str
    tree: ast.Module

    def __str__(self) -> str:
        return f"{self.module}:{self.line} {self.what}"


def mutants_of(root: Path, module: str) -> Iterator[Mutant]:
    """Every mutant of one module."""
    path = root / f"{module.replace('.', '/')}.py"
    tree = ast.parse(path.read_text())
    left_alone = _in_annotations(tree)
    for number, node in enumerate(ast.walk(tree)):
        if id(node) in left_alone:
            continue
        for what, change in _changes(node):
            mutated = copy.deepcopy(tree)
            twin = next(one for at, one in enumerate(ast.walk(mutated)) if at == number)
            change(twin)
            ast.fix_missing_locations(mutated)
            yield Mutant(module, path, getattr(node, "lineno", 0), what, mutated)


def _in_annotations(tree: ast.Module) -> set[int]:
    """Nodes that Python does not run, as annotations are text here; and `slots`, which is speed."""
    roots = [
        getattr(node, field, None) for node in ast.walk(tree) for field in ("annotation", "returns")
    ]
    roots += [
        node for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "slots"
    ]
    return {id(inner) for root in roots if root is not None for inner in ast.walk(root)}


_Change = Callable[[Any], None]
_Body = ast.FunctionDef | ast.AsyncFunctionDef | ast.If | ast.For
_CAN_BE_LEFT_OUT: Final = ast.Raise | ast.Expr | ast.Assign | ast.If | ast.AugAssign


def _changes(node: ast.AST) -> Iterator[tuple[str, _Change]]:
    if isinstance(node, ast.Compare):
        for at, op in enumerate(node.ops):
            new = _SWAPPED[type(op)]
            yield f"{type(op).__name__} → {new.__name__} in {ast.unparse(node)}", _Operator(at, new)
    elif isinstance(node, ast.BoolOp):
        yield f"and/or swapped in {ast.unparse(node)}", _swap_bool
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield f"no `not` in {ast.unparse(node)}", _drop_not
    elif isinstance(node, ast.Constant) and type(node.value) in (bool, int, float):
        yield f"{node.value!r} changed", _change_constant
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub | ast.BitOr):
        yield f"operator changed in {ast.unparse(node)}", _swap_binary
    if isinstance(node, _Body):
        yield from _left_out(node)


def _left_out(node: _Body) -> Iterator[tuple[str, _Change]]:
    for at, statement in enumerate(node.body):
        is_docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        if isinstance(statement, _CAN_BE_LEFT_OUT) and not is_docstring:
            yield f"left out: {ast.unparse(statement).splitlines()[0]}", _LeaveOut(at)


class _Operator:
    def __init__(self, at: int, new: type[ast.cmpop]) -> None:
        self.at, self.new = at, new

    def __call__(self, node: ast.Compare) -> None:
        node.ops[self.at] = self.new()


class _LeaveOut:
    def __init__(self, at: int) -> None:
        self.at = at

    def __call__(self, node: _Body) -> None:
        node.body[self.at] = ast.Pass()


def _swap_bool(node: ast.BoolOp) -> None:
    node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()


def _drop_not(node: ast.UnaryOp) -> None:
    node.operand = ast.UnaryOp(ast.Not(), node.operand)  # `not` twice: its truth value


def _change_constant(node: ast.Constant) -> None:
    if isinstance(node.value, bool):
        node.value = not node.value
    elif isinstance(node.value, int | float):
        node.value += 1


def _swap_binary(node: ast.BinOp) -> None:
    if isinstance(node.op, ast.BitOr):
        node.op = ast.BitAnd()
    else:
        node.op = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
