"""The records of the tests' own worker: what is in them, and how an attacker could change them."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.onboarding import Run


def record_files(run: Run, name: str = "") -> list[Path]:
    """The records of a run whose names begin with this."""
    folder = Path(os.environ["XDG_STATE_HOME"]) / "cmek" / "records" / str(run.id)
    return sorted(folder.glob(f"{name}*.json"))
