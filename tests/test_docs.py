"""The documents name only modules, files, deployments and commands that exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cli.deploy import PROJECT
from tests.test_names_golden import deployment_names

ARCHITECTURE = PROJECT / "docs" / "architecture.md"
PACKAGES = ("cmek", "flows", "tasks", "blocks")
PAGES = [PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")]
PAGES += sorted((PROJECT / "docs").rglob("*.md"))
MODULE = re.compile(r"`((?:cmek|flows|tasks|blocks)/[\w/]+\.py)`")
LOADED = """
import sys, flows.onboard
for name, module in list(sys.modules.items()):
    if name.partition(".")[0] in {"cmek", "flows", "tasks", "blocks"}:
        print(module.__file__)
"""


def chapter(title: str) -> str:
    """The text of the architecture page under a heading of the second level."""
    _, _, rest = ARCHITECTURE.read_text().partition(f"\n## {title}\n")
    assert rest, f"docs/architecture.md has no chapter {title!r}"
    return rest.partition("\n## ")[0]


def modules() -> set[str]:
    """Every module of the four packages, as a path in the project."""
    found = (path for package in PACKAGES for path in (PROJECT / package).rglob("*.py"))
    return {str(one.relative_to(PROJECT)) for one in found if one.name != "__init__.py"}


def test_every_module_has_its_line_in_the_architecture_page() -> None:
    """The page names every module, and no other."""
    named = MODULE.findall(chapter("Where to find what"))
    assert sorted(named) == sorted(modules()), "docs/architecture.md, 'Where to find what'"


def test_an_onboarding_meets_every_module_that_it_loads_once() -> None:
    """The walk through the modules names each loaded module exactly once."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    paths = [Path(line).relative_to(PROJECT) for line in done.stdout.splitlines()]
    loaded = [str(path) for path in paths if path.name != "__init__.py"]
    named = MODULE.findall(chapter("One onboarding, module by module"))
    assert sorted(named) == sorted(loaded), "docs/architecture.md, 'One onboarding'"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_what_a_page_links_to_or_names_is_there(page: Path) -> None:
    """Every file, anchor, deployment and target of `make` that a page names exists."""
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http://", "https://")):
            _has_target(page, target)
    for path in re.findall(r"`((?:\w+/)+\w+\.(?:py|md|json|yaml|yml))`", text):
        if path.partition("/")[0] in _TOP:
            assert (PROJECT / path).exists(), f"{page.name}: {path}"
    known = deployment_names()
    flows = "|".join({name.partition("/")[0] for name in known})
    for name in re.findall(rf"\b((?:{flows})/[a-z]+)\b", text):
        assert name in known, f"{page.name}: {name}"
    targets = re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"`make ([a-z-]+)", text):
        assert target in targets, f"{page.name}: make {target}"


@pytest.mark.parametrize(("name", "runs"), [("ci", ".ci/run"), ("audit", "make audit")])
def test_a_workflow_runs_one_command_of_ours_with_pinned_actions_and_no_rights(
    name: str, runs: str
) -> None:
    """Each action is named by its full commit, with the version in a comment."""
    path = PROJECT / ".github" / "workflows" / f"{name}.yml"
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        assert job["permissions"] == {"contents": "read"}
        assert [step["run"] for step in job["steps"] if "run" in step] == [runs]
    for used in re.findall(r"uses: (.+)", path.read_text()):
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used), used


_TOP = {path.name for path in PROJECT.iterdir() if path.is_dir()}


def _has_target(page: Path, target: str) -> None:
    path, _, anchor = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    assert file.exists(), f"{page.name}: {target}"
    if anchor:
        assert anchor in _anchors(file.read_text()), f"{page.name}: {target}"


def _anchors(text: str) -> set[str]:
    """Headings as GitHub makes links of them."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"```[\s\S]*?```", "", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
