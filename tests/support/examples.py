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
    """Run it as a reader would, with this environment and little else.

    Of a page's shell examples, the first begins with what the others use, up to an empty line.
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
    """What the shell examples of a page share."""
    (found,) = re.findall(r"^```bash\n(set -.*?)^$", (DOCS / page).read_text(), re.DOTALL | re.M)
    return str(found)
