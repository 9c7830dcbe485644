"""The records of the tests' own worker: what is in them, and how an attacker could change them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.support.onboarding import Run


def records_folder() -> Path:
    """Where they are."""
    return Path(os.environ["XDG_STATE_HOME"]) / "cmek" / "records"


def forget_made_keys() -> None:
    """No key is known as made by an onboarding any more."""
    shutil.rmtree(records_folder() / "made-keys", ignore_errors=True)


def record_files(run: Run, name: str = "") -> list[Path]:
    """The records of a run whose names begin with this."""
    return sorted((records_folder() / str(run.id)).glob(f"{name}*.json"))
