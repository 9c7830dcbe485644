"""The sandbox's memory on disk, complete after every write so that even SIGKILL loses nothing."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path

from sandbox.admin_state import AdminState
from sandbox.google_state import GoogleState
from sandbox.identities import Identities
from sandbox.identity_tokens import SigningKey
from sandbox.kms_state import KmsState
from sandbox.world import World


def load(path: Path) -> World:
    """The world in the file.

    Raises:
        ValueError: the file is not one that `save` wrote.
    """
    try:
        stored = json.loads(path.read_text())
        world = World()
        world.clock.offset = timedelta(seconds=stored["clock_offset_seconds"])
        for name, value in stored["switches"].items():
            setattr(world.switches, name, value)
        key = SigningKey(stored["identities"]["private_key"])
        world.identities = Identities(world.switches, key=key)
        world.identities.restore(stored["identities"])
        world.kms = KmsState.load(stored["kms"])
        world.admin = AdminState.model_validate(stored["admin"])
        world.google = GoogleState.model_validate(stored["google"])
    except (ValueError, KeyError, TypeError) as error:
        message = f"state file {path}: not a state of this sandbox ({error}); move it away"
        raise ValueError(message) from error
    return world


def save(world: World, path: Path) -> None:
    """Replace the file at once: a reader finds the old state or the new one, never a half."""
    stored = {
        "clock_offset_seconds": world.clock.offset.total_seconds(),
        "switches": world.switches.model_dump(mode="json"),
        "identities": world.identities.dump(),
        "kms": world.kms.dump(),
        "admin": world.admin.model_dump(mode="json"),
        "google": world.google.model_dump(mode="json"),
    }
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(stored, file)
    draft.replace(path)
