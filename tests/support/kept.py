"""The records of the tests' own worker: their files, which an attacker could change."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.support.onboarding import Run


def records_folder() -> Path:
    """The folder of all records."""
    return Path(os.environ["XDG_STATE_HOME"]) / "cmek" / "records"


def forget_made_keys() -> None:
    """Remove the records that name keys made by an onboarding."""
    shutil.rmtree(records_folder() / "made-keys", ignore_errors=True)


def record_files(run: Run, name: str = "") -> list[Path]:
    """The records of a run whose names begin with this."""
    return sorted((records_folder() / str(run.id)).glob(f"{name}*.json"))
