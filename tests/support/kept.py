"""The records of the tests' own worker: what is in them, and how an attacker could change them."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.onboarding import Run


def records_folder() -> Path:
    """Where they are."""
    return Path(os.environ["XDG_STATE_HOME"]) / "cmek" / "records"


def record_files(run: Run, name: str = "") -> list[Path]:
    """The records of a run whose names begin with this."""
    return sorted((records_folder() / str(run.id)).glob(f"{name}*.json"))
