"""What a run must remember: canonical JSON with a keyed MAC, in a folder or a bucket.

The worker's environment decides where; no block and no parameter does.

| variable | names |
|---|---|
| `CMEK_RECORDS` | a folder, or `gs://BUCKET/PREFIX`; without it a folder of the worker's user |
| `CMEK_RECORDS_KEY_FILE` | a key file of 32 bytes or more; without it `cmek/records.key` in the |
| | state folder of the worker's user |

Nothing here is read through Prefect's results: a result record names its own serializer, and pickle
runs code. A record whose MAC does not verify was not written with this key, and ends the run.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from pydantic import JsonValue

from cmek._http import RetryDecision, retrying_in_thread
from cmek.canonical import canonical_json
from cmek.errors import CmekError

T = TypeVar("T")
RECORDS: Final = "CMEK_RECORDS"
KEY_FILE: Final = "CMEK_RECORDS_KEY_FILE"
_SHORTEST_KEY: Final = 32
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,200}")


class RecordsError(CmekError):
    """The place or the key of the records can't be used; the message says what to do."""


class RecordTamperedError(CmekError):
    """A record whose MAC is wrong: no worker with this key wrote it."""


class Place(Protocol):
    """Where the records are stored. A write replaces the whole object, or changes nothing.

    Both methods raise `OSError` when the place can't be reached, read or written.
    """

    def get(self, path: str) -> bytes | None:
        """The object; None when there is none."""

    def put(self, path: str, content: bytes) -> None:
        """Write the object."""


@dataclass(frozen=True, slots=True)
class Folder:
    """Files that only the worker's user can read."""

    root: Path

    def get(self, path: str) -> bytes | None:
        """The file's content; None when there is none."""
        try:
            return (self.root / path).read_bytes()
        except FileNotFoundError:
            return None

    def put(self, path: str, content: bytes) -> None:
        """Write a temporary file, then rename it: a full disk or a kill keeps the old content."""
        target = self.root / path
        _make_private(target.parent)
        # in the same folder: a rename is atomic only within one file system
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())  # before the rename, or a crash could leave an empty file
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


class Bucket:
    """Objects of Cloud Storage, with application default credentials."""

    def __init__(self, name: str, prefix: str) -> None:
        # imported only here: it takes a second, and records in a folder do not need it
        from google.api_core.exceptions import GoogleAPIError, NotFound  # noqa: PLC0415
        from google.auth.exceptions import GoogleAuthError  # noqa: PLC0415
        from google.cloud.storage import Client  # noqa: PLC0415

        # else a thread of the client reads the bucket itself for traces: a right that nothing
        # here needs, so that the bucket's audit log would show a refused call
        os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
        self._missing, self._refused = NotFound, (GoogleAPIError, GoogleAuthError)
        client: Any = self._reach(Client)
        self._bucket: Any = client.bucket(name)
        self._prefix = prefix

    def _reach(self, send: Callable[[], T]) -> T:
        try:
            return retrying_in_thread(send, _may_pass)
        except self._refused as error:
            raise OSError(str(error)) from error

    def get(self, path: str) -> bytes | None:
        """The object's content; None when there is none."""
        blob = self._bucket.blob(self._prefix + path)

        def read() -> bytes | None:
            try:
                return blob.download_as_bytes(**_ONE_ATTEMPT)  # type: ignore[no-any-return]
            except self._missing:
                return None

        return self._reach(read)

    def put(self, path: str, content: bytes) -> None:
        """Write the object; Cloud Storage replaces objects atomically."""
        blob = self._bucket.blob(self._prefix + path)
        kind = "application/json"
        self._reach(lambda: blob.upload_from_string(content, content_type=kind, **_ONE_ATTEMPT))


_ONE_ATTEMPT: Final = {"retry": None, "timeout": 12.0}
"""For a call of Cloud Storage's client, whose own retries last for two minutes; seconds."""


def _may_pass(error: Exception) -> RetryDecision:
    from cmek.gcp._transport import transient  # noqa: PLC0415 - as in Bucket
    from cmek.gcp.errors import GoogleApiError, classify  # noqa: PLC0415

    return transient(GoogleApiError(classify(error)))


@contextmanager
def _usable(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RecordsError(
            f"the worker's records ({RECORDS}): {what}: {error.strerror or error}. Make room, or "
            "let the worker reach, read and write there; then Retry"
        ) from error


class Records:
    """The records of all runs. Methods block: call them in a thread."""

    def __init__(self, place: Place, key: bytes | Path) -> None:
        """With the key, or with the file of this user's own one, which the first write creates."""
        self._place = place
        self._key = key

    def read(self, run_id: str, name: str) -> JsonValue:
        """The value that was stored for a run under a name; None when there is none.

        Raises:
            RecordTamperedError: Its MAC is wrong: the record was changed, belongs to another run or
                name, or was made with another key.
            RecordsError: It can't be read.
        """
        path = _path(run_id, name)
        with _usable(f"{path} can't be read"):
            content = self._place.get(path)
        if content is None:
            return None
        key = self._known_key()
        try:
            found = json.loads(content)
            value, mac = found["value"], str(found["mac"])
            expected = _mac(key or b"", run_id, name, value)
            verifies = key is not None and hmac.compare_digest(expected.encode(), mac.encode())
        # whoever can write there controls the bytes: any shape must end as "does not verify"
        except (ValueError, TypeError, KeyError, RecursionError):
            verifies = False
        if not verifies:
            raise RecordTamperedError(
                f"record {path} was not written by this worker, or by one with another key "
                f"({KEY_FILE}): somebody has changed it, or a run was moved between workers that "
                "do not share the key. Nothing is attached by it. Find out who can write there; "
                "then start a new run"
            )
        return value  # type: ignore[no-any-return]  # json.loads has no type

    def write(self, run_id: str, name: str, value: JsonValue) -> None:
        """Store a value; an earlier one is replaced.

        Raises:
            RecordsError: It can't be written; the earlier value is still there.
        """
        if isinstance(self._key, Path):
            self._key = _own_key(self._key)
        content = {"mac": _mac(self._key, run_id, name, value), "value": value}
        self._put(_path(run_id, name), canonical_json(content))

    def copy_evidence(self, folder: str, run_id: str, text: str) -> str:
        """Store a run's evidence as plain lines for auditors, without a MAC; return its path.

        Raises:
            RecordsError: It can't be written.
        """
        path = f"evidence/{_checked(folder)}/{_checked(run_id)}.jsonl"
        self._put(path, text.encode())
        return path

    def _put(self, path: str, content: bytes) -> None:
        with _usable(f"{path} can't be written"):
            self._place.put(path, content)

    def _known_key(self) -> bytes | None:
        """The key; None when nothing was ever written with one of this user's own."""
        if isinstance(self._key, Path):
            with _usable(f"{self._key} can't be read"):
                if not self._key.exists():
                    return None
            self._key = _key(self._key)
        return self._key


def _mac(key: bytes, run_id: str, name: str, value: JsonValue) -> str:
    # run and name are under the MAC, so that a record can't be copied to another run or name
    text = canonical_json({"name": name, "run_id": run_id, "value": value})
    return hmac.new(key, text, hashlib.sha256).hexdigest()


def records_of(environment: Mapping[str, str]) -> Records:
    """The records that these variables name.

    Raises:
        RecordsError: A variable is wrong or missing, or the key can't be used.
    """
    named = environment.get(RECORDS, "")
    state = Path(environment.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "cmek"
    key_file = environment.get(KEY_FILE, "")
    if named.startswith("gs://"):
        bucket, _, prefix = named.removeprefix("gs://").partition("/")
        if not bucket:
            raise RecordsError(f"{RECORDS}={named}: write gs://BUCKET/PREFIX")
        if not key_file:
            raise RecordsError(
                f"{RECORDS} is a bucket, which several workers share: name the file with their "
                f"common key in {KEY_FILE} (head -c 32 /dev/urandom)"
            )
        prefix = f"{prefix.rstrip('/')}/" if prefix else ""
        with _usable(named):
            return Records(Bucket(bucket, prefix), _key(Path(key_file)))
    if "://" in named:
        raise RecordsError(f"{RECORDS}={named}: use a folder or gs://BUCKET/PREFIX")
    folder = Path(named) if named else state / "records"
    if not folder.is_absolute():
        raise RecordsError(f"{RECORDS}={named}: write the folder's full path")
    key = _key(Path(key_file)) if key_file else state / "records.key"
    return Records(Folder(folder), key)


def _key(path: Path) -> bytes:
    try:
        key = path.read_bytes()
        mode = path.stat().st_mode
    except OSError as error:
        raise RecordsError(f"{KEY_FILE}={path}: {error.strerror}") from error
    if len(key) < _SHORTEST_KEY:
        raise RecordsError(
            f"{path} has {len(key)} bytes; a key has {_SHORTEST_KEY} or more "
            "(head -c 32 /dev/urandom)"
        )
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise RecordsError(f"{path} can be written by others, who could forge records: chmod 400")
    return key


def _own_key(path: Path) -> bytes:
    """This user's key, created on first use; of two processes that create it, the first wins."""
    if not path.exists():
        try:
            _make_private(path.parent)
            with tempfile.NamedTemporaryFile(dir=path.parent) as file:  # mode 0600
                file.write(secrets.token_bytes(_SHORTEST_KEY))
                file.flush()
                # a link fails when the name exists, and shows the key only when it is complete
                os.link(file.name, path)
        except FileExistsError:
            pass  # another process was first: its key is read below
        except OSError as error:
            raise RecordsError(
                f"{path}: {error.strerror}; name a folder and a key file of the worker's user in "
                f"{RECORDS} and {KEY_FILE}"
            ) from error
    return _key(path)


def _make_private(folder: Path) -> None:
    """Create a folder and its missing parents for this user alone.

    `mkdir(parents=True)` would give only the last one this mode.
    """
    if not folder.is_dir():
        _make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def _path(run_id: str, name: str) -> str:
    return f"{_checked(run_id)}/{_checked(name)}.json"


def _checked(name: str) -> str:
    # `..` would lead out of the folder or of the bucket's prefix
    if not _NAME.fullmatch(name) or ".." in name:
        raise RecordsError(f"{name!r} can't be a part of a record's path")
    return name
