"""Who may approve: files of the worker's administrator at a fixed path.

No parameter, block or environment variable names another place, and the files count only while
the worker's own user can't write them: whoever can make the worker run code must not be able to
enrol an approver.

| file in `/etc/cmek` | holds |
|---|---|
| `allowed_signers` | approvers, as in `ssh-keygen(1)` under ALLOWED SIGNERS; times in UTC |
| `revoked_keys` | optional: public keys or a key revocation list |
| `minimum_signatures` | optional: a digit, how many approvers each attach needs at least |
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

DIRECTORY: Final = Path("/etc/cmek")
_ALLOWED: Final = "allowed_signers"
_REVOKED: Final = "revoked_keys"
_MINIMUM: Final = "minimum_signatures"


class SignersRefusedError(Exception):
    """The signers file can't be trusted or used; nothing is attached on its word, or without it."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What decides whether a file's content can be the worker's user's own."""

    path: Path
    owner: int
    mode: int
    """As `st_mode`."""
    writable: bool
    """By the user of this process, whatever gives that right."""


@dataclass(frozen=True, slots=True)
class Signers:
    """The enrolled approvers of this worker."""

    allowed: Path
    revoked: Path | None
    minimum: int
    """How many signatures an attach needs at least; 1 or more."""


def facts_of(path: Path) -> FileFacts:
    """Look at a file or directory, not through a symbolic link.

    Raises:
        OSError: It is not there, or can't be looked at.
    """
    seen = path.lstat()
    return FileFacts(path, seen.st_uid, seen.st_mode, os.access(path, os.W_OK))


def weakness(facts: FileFacts) -> str | None:
    """Why this file or directory does not count, or None. Pure."""
    if stat.S_ISLNK(facts.mode):
        return f"{facts.path} is a symbolic link; put the file itself there"
    if facts.owner != 0:
        return f"{facts.path} is not owned by root: chown root {facts.path}"
    if facts.mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"{facts.path} can be written by others than root: chmod go-w {facts.path}"
    if facts.writable:
        return f"{facts.path} can be written by the worker's user: run the worker as another user"
    return None


def find_signers(
    directory: Path = DIRECTORY, look: Callable[[Path], FileFacts] = facts_of
) -> Signers | None:
    """The approvers of this worker, or None when nobody has enrolled any.

    Args:
        directory: For tests only; no caller passes another.
        look: How to look at a file; tests run as root, who can write everything.

    Raises:
        SignersRefusedError: There is such a file and it does not count; says why and what to do.
    """
    try:
        there = {name for name in (_ALLOWED, _REVOKED, _MINIMUM) if _exists(directory / name, look)}
        if not there:
            return None
        if _ALLOWED not in there:
            raise SignersRefusedError(f"{directory / _ALLOWED} is missing beside {min(there)}")
        for path in (*(directory / name for name in sorted(there)), directory, *directory.parents):
            found = weakness(look(path))
            if found is not None:
                raise SignersRefusedError(f"approvals can't be verified: {found}")
        allowed, revoked = directory / _ALLOWED, directory / _REVOKED
        allowed.read_bytes()
        return Signers(
            allowed=allowed,
            revoked=revoked if _REVOKED in there else None,
            minimum=_minimum(directory / _MINIMUM) if _MINIMUM in there else 1,
        )
    except OSError as error:
        raise SignersRefusedError(
            f"{error.filename or directory}: {error.strerror or error}; the worker's user must be "
            f"able to read {directory}"
        ) from error


def required_signatures(signers: Signers | None, asked_for: int) -> int:
    """How many an attach needs: a request or an ask can raise the worker's minimum, not lower it.

    Raises:
        SignersRefusedError: Signatures are asked for and this worker knows no signers.
    """
    if signers is None and asked_for:
        raise SignersRefusedError(
            f"{asked_for} signatures are required, and this worker has no {DIRECTORY / _ALLOWED}: "
            "enrol the approvers there"
        )
    return max(signers.minimum if signers else 0, asked_for)


def _exists(path: Path, look: Callable[[Path], FileFacts]) -> bool:
    try:
        look(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _minimum(path: Path) -> int:
    text = path.read_bytes()[:16].strip()
    if text not in {b"%d" % number for number in range(1, 10)}:
        raise SignersRefusedError(f"{path} must hold one digit from 1 to 9")
    return int(text)
