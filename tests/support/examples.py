"""The examples of a page of the documentation, to be run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def example(page: str, heading: str, language: str) -> str:
    """The first block of a language under a heading."""
    _, _, section = (DOCS / page).read_text().partition(f"# {heading}\n")
    found = re.search(rf"^```{language}\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    assert found, f"{page} has no {language} under {heading!r}"
    return found[1]


def run_example(
    page: str, heading: str, language: str, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run it as a reader would, with this environment and little else."""
    command = {"bash": ["bash", "-s"], "python": [sys.executable, "-"]}[language]
    return subprocess.run(
        command,
        input=example(page, heading, language),
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
