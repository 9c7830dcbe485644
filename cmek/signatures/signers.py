"""Who may approve, and how many must sign: files of the worker's administrator.

The approvers are listed in files at a fixed path. No parameter, block or environment variable can
name another path, and a file is refused if the worker's own user can write to it: someone who can
run code as the worker must not be able to enrol an approver.

| file in `/etc/cmek` | holds |
|---|---|
| `allowed_signers` | approvers, as in `ssh-keygen(1)` under ALLOWED SIGNERS; times in UTC |
| `revoked_keys` | optional: public keys or a key revocation list |
| `minimum_signatures` | optional: one digit, the least number of approvers for every attach |
| `touch` | optional: what a hardware key must require for a signature: `required` (a touch; the |
| | default), `verified` (also its PIN or a fingerprint) or `optional` (nothing) |

A file that enrols one key under two names, or for a pattern of names, is refused too: one person
could sign as two.
"""

from __future__ import annotations

import codecs
import os
import re
import stat
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal, cast, get_args

from cmek.errors import CmekError
from cmek.onboarding.approval_request import same_identity

DIRECTORY: Final = Path("/etc/cmek")
_ALLOWED: Final = "allowed_signers"
_REVOKED: Final = "revoked_keys"
_MINIMUM: Final = "minimum_signatures"
REQUIRED_VARIABLE: Final = "CMEK_REQUIRED_SIGNATURES"
_TOUCH: Final = "touch"
Touch = Literal["required", "verified", "optional"]
KRL: Final = b"SSHKRL\n"
"""The first bytes of OpenSSH's binary key revocation list."""


class SignersRefusedError(CmekError):
    """The files can't be trusted or used. Nothing is attached then, not even by typed approvals."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """The facts that show whether the worker's own user could have written a file."""

    path: Path
    owner: int
    mode: int
    """As `st_mode`."""
    writable: bool
    """Whether the user of this process may write, by mode, ACL or any other right."""


@dataclass(frozen=True, slots=True)
class Signers:
    """The enrolled approvers of this worker."""

    allowed: Path
    revoked: Path | None
    minimum: int
    """The least number of signatures for an attach; 1 or more."""
    touch: Touch = "required"
    """What a hardware key must have required for a signature."""
    allowed_lines: str = field(default="", compare=False, repr=False)
    """The content that was checked; verification uses it and does not read the file again."""
    revoked_content: bytes = field(default=b"", compare=False, repr=False)

    @property
    def people(self) -> frozenset[str] | None:
        """The enrolled approvers, also those whose keys are revoked or have expired.

        None where a line may stand for several: a certificate authority, a pattern.
        """
        lines = [line.split() for line in self.allowed_lines.splitlines()]
        lines = [line for line in lines if line and not line[0].startswith("#")]
        names = frozenset(name for line in lines for name in line[0].strip('"').split(","))
        several = any("cert-authority" in one.lower() for line in lines for one in line[1:-1])
        return None if several or any(set("*?!") & set(name) for name in names) else names

    @property
    def shortage(self) -> str:
        """Why no attach can get its signatures here; empty when enough people are enrolled."""
        if self.people is None or len(self.people) >= self.minimum:
            return ""
        return (
            f"an attach needs {self.minimum} signatures of different people, and "
            f"{len(self.people)} are enrolled in {self.allowed}"
        )


def facts_of(path: Path) -> FileFacts:
    """Read the facts of a file or directory; a symbolic link is not followed.

    Raises:
        OSError: It does not exist, or can't be read.
    """
    seen = path.lstat()
    return FileFacts(path, seen.st_uid, seen.st_mode, os.access(path, os.W_OK))


def weakness(facts: FileFacts) -> str | None:
    """Why this file or directory can't be trusted; None when it can. Pure."""
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
    """The approvers of this worker; None when none are enrolled.

    Args:
        directory: Another directory for tests; production code never passes one.
        look: Reads the facts of a file; tests replace it, since they run as root.

    Raises:
        SignersRefusedError: A file exists but can't be trusted or used; the message says why and
            what to do.
    """
    try:
        names = (_ALLOWED, _REVOKED, _MINIMUM, _TOUCH)
        there = {name for name in names if _exists(directory / name, look)}
        if not there:
            return None
        # with another of the files, an administrator wanted signatures: never fall back to typing
        if _ALLOWED not in there:
            raise SignersRefusedError(f"{directory / _ALLOWED} is missing beside {min(there)}")
        # the folders above too: whoever may write to one can replace what is in it
        for path in (*(directory / name for name in sorted(there)), directory, *directory.parents):
            found = weakness(look(path))
            if found is not None:
                raise SignersRefusedError(f"approvals can't be verified: {found}")
        allowed, revoked = directory / _ALLOWED, directory / _REVOKED
        return Signers(
            allowed=allowed,
            revoked=revoked if _REVOKED in there else None,
            minimum=_minimum(directory / _MINIMUM) if _MINIMUM in there else 1,
            touch=_touch(directory / _TOUCH) if _TOUCH in there else "required",
            allowed_lines=_allowed_lines(allowed),
            revoked_content=_revoked_content(revoked) if _REVOKED in there else b"",
        )
    except OSError as error:
        raise SignersRefusedError(
            f"{error.filename or directory}: {error.strerror or error}; the worker's user must be "
            f"able to read {directory}"
        ) from error


def required_signatures(
    signers: Signers | None, requested: int, environment: Mapping[str, str] = os.environ
) -> int:
    """How many signatures an attach needs: the maximum of worker, request and environment.

    `CMEK_REQUIRED_SIGNATURES` is for a worker or job that could be started on a machine without
    these files: it then attaches nothing, instead of accepting typed approvals. It can only raise
    the number.

    Raises:
        SignersRefusedError: Signatures are required and this worker has no approvers, or the
            variable is not a digit.
    """
    wanted = max(requested, _required_by(environment))
    if signers is None and wanted:
        raise SignersRefusedError(
            f"{wanted} signatures are required, and this worker has no {DIRECTORY / _ALLOWED}: "
            "enrol the approvers there"
        )
    return max(signers.minimum if signers else 0, wanted)


def _required_by(environment: Mapping[str, str]) -> int:
    text = environment.get(REQUIRED_VARIABLE, "").strip() or "0"
    if text not in {str(number) for number in range(10)}:
        raise SignersRefusedError(f"{REQUIRED_VARIABLE}={text!r}: it must be one digit")
    return int(text)


def _exists(path: Path, look: Callable[[Path], FileFacts]) -> bool:
    try:
        look(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _minimum(path: Path) -> int:
    text = _text(path).strip()
    if text not in "123456789" or len(text) != 1:
        raise SignersRefusedError(f"{path} must hold one digit from 1 to 9")
    return int(text)


def _touch(path: Path) -> Touch:
    text = _text(path).strip()
    for known in get_args(Touch):
        if text == known:
            return cast("Touch", known)
    raise SignersRefusedError(f"{path} must hold one word: {', '.join(get_args(Touch))}")


def file_text(content: bytes) -> str:
    """The text of a file that a person wrote with any editor: UTF-8, or UTF-16 with a mark.

    Line breaks become LF. A byte order mark is removed: OpenSSH would read it as a part of the
    first name.

    Raises:
        ValueError: It is neither; the message says what it looks like.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif b"\x00" in content:
        raise ValueError("it is binary, or UTF-16 without a mark: save it as UTF-8")
    else:
        encoding = "utf-8-sig"
    try:
        return content.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not {encoding.upper()}: save it as UTF-8") from error


def _text(path: Path) -> str:
    try:
        return file_text(path.read_bytes())
    except ValueError as error:
        raise SignersRefusedError(f"{path} can't be read: {error}") from error


_WORD: Final = re.compile(r'(?:"[^"]*"|[^\s"])+')


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Number and words of each line that is neither empty nor a comment."""
    for number, line in enumerate(text.splitlines(), start=1):
        words = _WORD.findall(line)
        if words and not words[0].startswith("#"):
            yield number, words


def _public_key(words: Sequence[str]) -> bytes | None:
    """The key in a line: the base64 after the type's name, which it repeats when decoded."""
    for kind, encoded in pairwise(words):
        try:
            blob = b64decode(encoded, validate=True)
            if next(ssh_strings(blob)) == kind.encode():
                return blob
        except (ValueError, StopIteration):
            continue
    return None


def _allowed_lines(path: Path) -> str:
    """The content of `allowed_signers`, if each key belongs to one person."""
    text = _text(path)
    people: dict[bytes, str] = {}
    for number, words in _lines(text):
        principals, key = words[0].strip('"'), _public_key(words)
        where = f"line {number} of {path}"
        if key is None:
            raise SignersRefusedError(f"{where} has no public key that can be read")
        if any("cert-authority" in word for word in words[1:3]):
            continue  # may have a pattern: each of its certificates names its own holder
        if any(sign in principals for sign in "*?!,"):
            raise SignersRefusedError(
                f"{where} enrols one key for {principals}: it could sign in any of these names, so "
                "that one person is two. Write one address a line, each with a key of its own"
            )
        known = people.setdefault(key, principals)
        if not same_identity(known, principals):
            raise SignersRefusedError(
                f"{where} enrols the key of {known} for {principals} as well, so that one person "
                "is two. Give each person a key of their own"
            )
    return text


def _revoked_content(path: Path) -> bytes:
    """The content of `revoked_keys`. OpenSSH must be able to read it: else it refuses all keys."""
    content = path.read_bytes()
    if content.startswith(KRL):
        return content
    text = _text(path)
    for number, words in _lines(text):
        if _public_key(("", *words)) is None:
            raise SignersRefusedError(
                f"line {number} of {path} is no public key, so nobody can tell which keys are "
                "revoked: write one a line, as in a .pub file, or make a list with ssh-keygen -k"
            )
    return text.encode()


def ssh_strings(blob: bytes) -> Iterator[bytes]:
    """The strings in a blob of SSH's wire format, up to the first that is not complete."""
    while len(blob) >= 4:
        end = 4 + int.from_bytes(blob[:4])
        if end > len(blob):
            return
        yield blob[4:end]
        blob = blob[end:]
