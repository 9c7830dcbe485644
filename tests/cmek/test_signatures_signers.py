"""The signers file counts only where the worker's user can't have written it."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from cmek.signatures.verification import (
    DIRECTORY,
    FileFacts,
    Signers,
    SignersRefusedError,
    facts_of,
    find_signers,
    required_signatures,
    weakness,
)
from tests.support.signing import GRACE, Office, trusted

GOOD = FileFacts(Path("/etc/cmek/allowed_signers"), 0, stat.S_IFREG | 0o644, writable=False)


@pytest.fixture
def office(tmp_path: Path) -> Office:
    office = Office(tmp_path)
    office.enrol(GRACE)
    return office


def test_the_place_is_fixed() -> None:
    assert Path("/etc/cmek") == DIRECTORY


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"owner": 1000}, "not owned by root"),
        ({"mode": stat.S_IFREG | 0o664}, "by others than root"),
        ({"mode": stat.S_IFREG | 0o646}, "by others than root"),
        ({"writable": True}, "by the worker's user"),
        ({"mode": stat.S_IFLNK | 0o777}, "symbolic link"),
    ],
)
def test_a_file_that_somebody_else_may_have_written_does_not(
    change: dict[str, int], why: str
) -> None:
    assert weakness(GOOD) is None
    assert why in (weakness(replace(GOOD, **change)) or "")  # type: ignore[arg-type]


def test_the_facts_are_those_of_the_file_itself(tmp_path: Path) -> None:
    """A link is seen as a link, and what this process may write is told."""
    real = tmp_path / "file"
    real.touch(mode=0o640)
    (tmp_path / "link").symlink_to(real)
    assert facts_of(real) == FileFacts(real, os.geteuid(), real.lstat().st_mode, writable=True)
    assert stat.S_ISLNK(facts_of(tmp_path / "link").mode)


def test_the_real_look_refuses_a_file_of_our_own(office: Office) -> None:
    """What the user of this process can write, root included, enrols nobody."""
    with pytest.raises(SignersRefusedError, match="can't be verified"):
        find_signers(office.directory)


def test_no_directory_means_no_signers(tmp_path: Path) -> None:
    """Then a typed approval is enough, and asking for signatures is refused."""
    assert find_signers(tmp_path / "cmek", trusted) is None
    assert required_signatures(None, 0) == 0
    with pytest.raises(SignersRefusedError, match="enrol the approvers"):
        required_signatures(None, 1)


def test_one_signature_is_the_default_and_the_administrator_can_want_more(office: Office) -> None:
    """A request can ask for more of them and never for less."""
    signers = office.signers()
    assert signers == Signers(office.directory / "allowed_signers", None, 1)
    assert [required_signatures(signers, requested) for requested in (0, 1, 2)] == [1, 1, 2]
    (office.directory / "minimum_signatures").write_text("2\n")
    signers = office.signers()
    assert [required_signatures(signers, requested) for requested in (0, 1, 3)] == [2, 2, 3]


@pytest.mark.parametrize("text", ["", "0", "-1", "2 or so", "10"])
def test_a_minimum_that_is_none_is_refused(office: Office, text: str) -> None:
    (office.directory / "minimum_signatures").write_text(text)
    with pytest.raises(SignersRefusedError, match="one digit from 1 to 9"):
        office.signers()


@pytest.mark.parametrize("name", ["revoked_keys", "minimum_signatures"])
def test_a_signers_file_that_was_taken_away_is_missed(office: Office, name: str) -> None:
    """What stands beside it tells that there should be one."""
    (office.directory / name).write_text("1")
    (office.directory / "allowed_signers").unlink()
    with pytest.raises(SignersRefusedError, match="allowed_signers is missing"):
        office.signers()


def test_every_file_and_every_directory_above_is_looked_at(office: Office) -> None:
    """Who can write a directory can put another file into it."""
    office.revoke(GRACE)
    (office.directory / "minimum_signatures").write_text("1")
    looked: set[Path] = set()

    def look(path: Path) -> FileFacts:
        looked.add(path)
        return trusted(path)

    find_signers(office.directory, look)
    assert looked == {*office.directory.iterdir(), office.directory, *office.directory.parents}
    for weak in looked:
        with pytest.raises(SignersRefusedError, match=f"{weak} can be written"):
            find_signers(
                office.directory,
                lambda path, weak=weak: replace(trusted(path), writable=path == weak),  # type: ignore[misc]
            )


def test_a_file_that_can_not_be_read_is_refused(office: Office) -> None:
    def look(path: Path) -> FileFacts:
        raise PermissionError(13, "Permission denied", str(path))

    with pytest.raises(SignersRefusedError, match="must be able to read"):
        find_signers(office.directory, look)
    (office.directory / "allowed_signers").unlink()
    (office.directory / "allowed_signers").mkdir()
    with pytest.raises(SignersRefusedError, match="Is a directory"):
        office.signers()
