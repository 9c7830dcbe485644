"""Records with a keyed MAC: records of others are refused, and nothing is half written."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmek.records import (
    KEY_FILE,
    RECORDS,
    Folder,
    Records,
    RecordsError,
    RecordTamperedError,
    records_of,
)
from tests.support.bucket import running_bucket
from tests.support.web_server import QuietHandler, serving

KEY = bytes(range(32))
RUN, OTHER = "5d0c4b36-6a1f-4f0e-9a53-0d5f3a3b7c21", "9a53"


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(Folder(tmp_path), KEY)


def file(tmp_path: Path) -> Path:
    return tmp_path / RUN / "request.json"


class Memory:
    """A place in memory for a property test."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def get(self, path: str) -> bytes | None:  # noqa: D102
        return self.objects.get(path)

    def put(self, path: str, content: bytes) -> None:  # noqa: D102
        self.objects[path] = content


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(JSON)
def test_what_was_written_is_read(value: object) -> None:
    records = Records(Memory(), KEY)
    records.write(RUN, "request", value)  # type: ignore[arg-type]
    assert records.read(RUN, "request") == value


@given(JSON, st.data())
def test_no_other_bytes_are_read_as_a_record(value: object, data: st.DataObject) -> None:
    place = Memory()
    records = Records(place, KEY)
    records.write(RUN, "request", value)  # type: ignore[arg-type]
    (path, good), *_ = place.objects.items()
    at = data.draw(st.integers(0, len(good) - 1))
    place.objects[path] = (
        good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :]
    )
    with pytest.raises(RecordTamperedError):
        records.read(RUN, "request")


def test_nothing_is_there_before_the_first_write(records: Records) -> None:
    assert records.read(RUN, "request") is None


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"value":1}', b'{"mac":"x","value":1}', b'{"mac":null,"value":1}',
     b"\xff", b"[" * 100_000, b'{"mac":"x","value":1e400}',
     b'{"mac":"\\ud800","value":1}'],
)  # fmt: skip
def test_what_somebody_else_wrote_is_refused(
    records: Records, tmp_path: Path, content: bytes
) -> None:
    records.write(RUN, "request", 1)
    file(tmp_path).write_bytes(content)
    with pytest.raises(RecordTamperedError, match="was not written by this worker"):
        records.read(RUN, "request")


def test_a_record_is_valid_for_its_run_and_its_name_only(records: Records, tmp_path: Path) -> None:
    records.write(RUN, "approval-request-1-1", {"signatures": 1})
    good = (tmp_path / RUN / "approval-request-1-1.json").read_bytes()
    for run, name in ((RUN, "approval-request-1-2"), (OTHER, "approval-request-1-1")):
        target = tmp_path / run / f"{name}.json"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(good)
        with pytest.raises(RecordTamperedError):
            records.read(run, name)


def test_another_key_does_not_verify(records: Records, tmp_path: Path) -> None:
    records.write(RUN, "request", 1)
    with pytest.raises(RecordTamperedError, match=KEY_FILE):
        Records(Folder(tmp_path), KEY + b"x").read(RUN, "request")


@pytest.mark.parametrize("mode", [0o602, 0o660])
def test_a_key_that_others_could_have_written_is_refused(tmp_path: Path, mode: int) -> None:
    key = tmp_path / "key"
    key.write_bytes(KEY)
    key.chmod(mode)
    with pytest.raises(RecordsError, match="can be written by others"):
        records_of({RECORDS: str(tmp_path), KEY_FILE: str(key)})


def test_a_pickle_is_no_record(records: Records, tmp_path: Path) -> None:
    """Prefect would deserialize this content as its own result: it names its serializer."""
    marker = tmp_path / "executed"
    content = {
        "metadata": {"serializer": {"type": "pickle"}, "storage_key": "x"},
        "result": f"cposix\nsystem\n(S'touch {marker}'\ntR.",
    }
    file(tmp_path).parent.mkdir()
    file(tmp_path).write_text(json.dumps(content))
    with pytest.raises(RecordTamperedError):
        records.read(RUN, "request")
    assert not marker.exists()


def test_a_write_that_fails_leaves_what_was_there(records: Records, tmp_path: Path) -> None:
    records.write(RUN, "request", "before")
    full = OSError(28, "No space left on device")
    with patch("os.fsync", side_effect=full), pytest.raises(RecordsError, match="No space"):
        records.write(RUN, "request", "after")
    assert records.read(RUN, "request") == "before"
    assert [one.name for one in file(tmp_path).parent.iterdir()] == ["request.json"]


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "..", "a\nb", "a b", "x" * 300])
def test_a_name_cannot_leave_the_folder(records: Records, name: str) -> None:
    with pytest.raises(RecordsError):
        records.write(RUN, name, 1)
    with pytest.raises(RecordsError):
        records.read(name, "request")
    with pytest.raises(RecordsError):
        records.copy_evidence(name, RUN, "text")


def test_without_settings_folder_and_key_are_the_users_alone(tmp_path: Path) -> None:
    environment = {"XDG_STATE_HOME": str(tmp_path)}
    records_of(environment).write(RUN, "request", 1)
    # another process of the same user
    assert records_of(environment).read(RUN, "request") == 1
    for path in (tmp_path / "cmek").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert len((tmp_path / "cmek" / "records.key").read_bytes()) == 32


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({RECORDS: "gs://"}, "write gs://BUCKET/PREFIX"),
        ({RECORDS: "gs://bucket"}, f"in {KEY_FILE}"),
        ({RECORDS: "s3://bucket"}, "use a folder or gs://"),
        ({RECORDS: "records"}, "full path"),
        ({KEY_FILE: "/nonexistent/key"}, "No such file"),
        ({KEY_FILE: "/dev/null"}, "has 0 bytes"),
    ],
)
def test_settings_that_cannot_be_used_say_which_and_why(
    tmp_path: Path, settings: dict[str, str], why: str
) -> None:
    with pytest.raises(RecordsError, match=why):
        records_of({"XDG_STATE_HOME": str(tmp_path)} | settings)


def test_a_read_creates_nothing(tmp_path: Path) -> None:
    """`cmek leftovers` also reads records where no worker runs: no unused key stays behind."""
    records = records_of({"XDG_STATE_HOME": str(tmp_path)})
    assert records.read(RUN, "request") is None
    assert list(tmp_path.iterdir()) == []
    kept = Folder(tmp_path / "cmek" / "records")
    Records(kept, KEY).write(RUN, "request", 1)
    with pytest.raises(RecordTamperedError):  # the key is lost
        records.read(RUN, "request")
    assert [one.name for one in (tmp_path / "cmek").iterdir()] == ["records"]


def test_a_state_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "cmek").write_text("a file in its place")
    records = records_of({"XDG_STATE_HOME": str(tmp_path)})
    with pytest.raises(RecordsError, match=RECORDS):
        records.read(RUN, "request")
    with pytest.raises(RecordsError, match=RECORDS):
        records.write(RUN, "request", 1)


def test_a_place_that_can_not_be_used_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / RUN).write_text("a file where the run's folder should be")
    records = Records(Folder(tmp_path), KEY)
    named = rf"{RECORDS}\): {RUN}/request\.json can't be"
    with pytest.raises(RecordsError, match=f"{named} written: File exists"):
        records.write(RUN, "request", 1)
    with pytest.raises(RecordsError, match=f"{named} read: Not a directory"):
        records.read(RUN, "request")


def of_bucket(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str = ""
) -> dict[str, str]:
    """The settings of workers that share a bucket at this address."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
    key = tmp_path / "key"
    key.write_bytes(KEY)
    return {RECORDS: f"gs://acme-records{prefix}", KEY_FILE: str(key)}


def test_a_bucket_that_refuses_is_named_with_its_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Handler(QuietHandler):
        def do_GET(self) -> None:
            self.body()
            self.reply(403, b'{"error": {"code": 403, "message": "no storage.objects right"}}')

        do_POST = do_GET

    with serving(Handler) as address:
        records = records_of(of_bucket(address, tmp_path, monkeypatch))
        refused = pytest.raises(RecordsError, match=r"no storage\.objects right")
        with refused:
            records.write(RUN, "request", 1)
        with refused:
            records.read(RUN, "request")
        with refused:
            records.copy_evidence("folder", RUN, "text")


@pytest.mark.parametrize("failures", [1, 99])
def test_a_bucket_that_is_busy_is_asked_four_times_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    """Cloud Storage's client alone would go on for two minutes, and read the bucket besides."""
    asked: list[str] = []

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            self.body()
            asked.append(self.command)
            self.reply(503 if len(asked) <= failures else 404, b"busy")

        def end_headers(self) -> None:
            self.send_header("retry-after", "0")
            super().end_headers()

        do_POST = do_GET

    with serving(Handler) as address:
        records = records_of(of_bucket(address, tmp_path, monkeypatch))
        if failures == 1:
            assert records.read(RUN, "request") is None
            assert asked == ["GET"] * 2
            return
        refused = pytest.raises(RecordsError, match="503")
        with refused:
            records.read(RUN, "request")
        assert asked == ["GET"] * 4
        with refused:
            records.write(RUN, "request", 1)
        assert asked == ["GET"] * 4 + ["POST"] * 4


def test_workers_with_one_key_share_a_bucket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_bucket() as (address, objects):
        settings = of_bucket(address, tmp_path, monkeypatch, "/cmek/")
        first, second = records_of(settings), records_of(settings)
        assert second.read(RUN, "request") is None
        first.write(RUN, "request", {"a": 1})
        assert second.read(RUN, "request") == {"a": 1}
        assert list(objects) == [f"acme-records/cmek/{RUN}/request.json"]
        objects[f"acme-records/cmek/{RUN}/request.json"] = b"{}"
        with pytest.raises(RecordTamperedError):
            second.read(RUN, "request")
