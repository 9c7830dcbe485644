"""Run the examples of a documentation page exactly as they are written there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def example(page: str, heading: str, language: str) -> str:
    """The first code block in this language under this heading."""
    _, _, section = (DOCS / page).read_text().partition(f"# {heading}\n")
    found = re.search(rf"^```{language}\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    assert found, f"{page} has no {language} under {heading!r}"
    return found[1]


def run_example(
    page: str, heading: str, language: str, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run an example as a reader would, with this environment and little else.

    A page's first shell example begins with lines, up to an empty one, that all others need too.
    """
    command = {"bash": ["bash", "-s"], "python": [sys.executable, "-"]}[language]
    text = example(page, heading, language)
    if language == "bash" and not text.startswith("set -"):
        text = f"{prelude(page)}\n{text}"
    return subprocess.run(
        command,
        input=text,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def prelude(page: str) -> str:
    """The first lines of a page's first shell example, which the others need too."""
    (found,) = re.findall(r"^```bash\n(set -.*?)^$", (DOCS / page).read_text(), re.DOTALL | re.M)
    return str(found)
