"""The signers file is valid only if the worker's user cannot have written it."""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cmek.signatures.signers import (
    DIRECTORY,
    FileFacts,
    Signers,
    SignersRefusedError,
    facts_of,
    find_signers,
    required_signatures,
    weakness,
)
from cmek.signatures.verification import BadSignatureError, verify
from tests.support import facts as make
from tests.support.signing import GRACE, KATHERINE, Office, keygen, statement, trusted

pytestmark = pytest.mark.anyio

GOOD = FileFacts(Path("/etc/cmek/allowed_signers"), 0, stat.S_IFREG | 0o644, writable=False)


@pytest.fixture
def office(tmp_path: Path) -> Office:
    office = Office(tmp_path)
    office.enrol(GRACE)
    return office


def test_the_directory_is_fixed() -> None:
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
def test_a_file_that_somebody_else_may_have_written_is_refused(
    change: dict[str, int], why: str
) -> None:
    assert weakness(GOOD) is None
    assert why in (weakness(replace(GOOD, **change)) or "")  # type: ignore[arg-type]


def test_the_facts_are_those_of_the_file_itself(tmp_path: Path) -> None:
    """A link is reported as a link, and the facts say whether this process may write the file."""
    real = tmp_path / "file"
    real.touch(mode=0o640)
    (tmp_path / "link").symlink_to(real)
    assert facts_of(real) == FileFacts(real, os.geteuid(), real.lstat().st_mode, writable=True)
    assert stat.S_ISLNK(facts_of(tmp_path / "link").mode)


def test_the_real_check_refuses_a_file_of_our_own(office: Office) -> None:
    """A file that the user of this process can write, even root, enrols nobody."""
    with pytest.raises(SignersRefusedError, match="can't be verified"):
        find_signers(office.directory)


def test_no_directory_means_no_signers(tmp_path: Path) -> None:
    """Then a typed approval is enough, and asking for signatures is refused."""
    assert find_signers(tmp_path / "cmek", trusted) is None
    assert required_signatures(None, 0) == 0
    with pytest.raises(SignersRefusedError, match="enrol the approvers"):
        required_signatures(None, 1)


def test_one_signature_is_the_default_and_administrators_can_require_more(
    office: Office,
) -> None:
    """A request can ask for more signatures, never for fewer."""
    signers = office.signers()
    assert signers == Signers(office.directory / "allowed_signers", None, 1)
    assert [required_signatures(signers, requested) for requested in (0, 1, 2)] == [1, 1, 2]
    (office.directory / "minimum_signatures").write_text("2\n")
    signers = office.signers()
    assert [required_signatures(signers, requested) for requested in (0, 1, 3)] == [2, 2, 3]


@pytest.mark.parametrize("text", ["", "0", "-1", "2 or so", "10"])
def test_an_invalid_minimum_is_refused(office: Office, text: str) -> None:
    (office.directory / "minimum_signatures").write_text(text)
    with pytest.raises(SignersRefusedError, match="one digit from 1 to 9"):
        office.signers()


@pytest.mark.parametrize("name", ["revoked_keys", "minimum_signatures"])
def test_a_signers_file_that_was_removed_is_noticed(office: Office, name: str) -> None:
    """The other files in its directory show that there should be one."""
    (office.directory / name).write_text("1")
    (office.directory / "allowed_signers").unlink()
    with pytest.raises(SignersRefusedError, match="allowed_signers is missing"):
        office.signers()


def test_every_file_and_every_directory_above_is_checked(office: Office) -> None:
    """Write access to a directory is enough to replace a file in it."""
    office.revoke(GRACE)
    (office.directory / "minimum_signatures").write_text("1")
    (office.directory / "touch").write_text("required")
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


MARKED = codecs.BOM_UTF8


@pytest.mark.parametrize("name", ["allowed_signers", "revoked_keys", "minimum_signatures", "touch"])
@pytest.mark.parametrize(
    "as_written",
    [
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: MARKED + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    ],
    ids=["CR LF", "UTF-8 with a mark", "UTF-16", "UTF-16, big-endian"],
)
async def test_a_file_of_any_editor_is_read_as_intended(
    office: Office, name: str, as_written: Callable[[str], bytes]
) -> None:
    """The signature verifies, and only the other approver's key is revoked."""
    office.enrol(KATHERINE)
    office.revoke(KATHERINE)
    (office.directory / "minimum_signatures").write_text("1\n")
    (office.directory / "touch").write_text("verified\n")
    path = office.directory / name
    path.write_bytes(as_written(path.read_text()))
    signers = office.signers()
    assert signers is not None
    assert (signers.minimum, signers.touch) == (1, "verified")
    assert await verify(office.signed(statement()), signers, at=make.NOW)
    with pytest.raises(BadSignatureError, match="is revoked by"):
        await verify(office.signed(statement(approver=KATHERINE)), signers, at=make.NOW)


@pytest.mark.parametrize("name", ["allowed_signers", "revoked_keys", "minimum_signatures", "touch"])
@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("grace@example.com ssh-ed25519 AAAA".encode("utf-16-le"), "UTF-16 without a mark"),
        ("é ssh-ed25519 AAAA".encode("latin-1"), "not UTF-8"),
        (b"\x00\x01\x02", "binary"),
    ],
)
def test_a_file_that_can_not_be_read_is_named_with_its_format(
    office: Office, name: str, content: bytes, why: str
) -> None:
    """Nobody's key is treated as revoked because of it."""
    (office.directory / name).write_bytes(content)
    with pytest.raises(SignersRefusedError, match=rf"{name} can't be read: .*{why}"):
        office.signers()


@pytest.mark.parametrize(
    "content", ["no key\n", "ssh-ed25519\n", "ssh-ed25519 AAAA\n", "SHA256:x\n"]
)
def test_a_list_of_revoked_keys_with_something_else_in_it_revokes_nobody(
    office: Office, content: str
) -> None:
    (office.directory / "revoked_keys").write_text(f"# revoked\n\n{content}")
    with pytest.raises(SignersRefusedError, match=r"line 3 of \S+revoked_keys is no public key"):
        office.signers()


async def test_a_damaged_revocation_list_is_reported_as_unreadable(office: Office) -> None:
    """An undamaged one revokes the key in it, and no other."""
    office.enrol(KATHERINE)
    listed = office.directory / "revoked_keys"
    keygen("-k", "-f", listed, f"{office.keys[KATHERINE]}.pub")
    signers = office.signers()
    assert signers is not None
    assert await verify(office.signed(statement()), signers, at=make.NOW)
    with pytest.raises(BadSignatureError, match="is revoked by"):
        await verify(office.signed(statement(approver=KATHERINE)), signers, at=make.NOW)
    listed.write_bytes(listed.read_bytes()[:20])
    signers = office.signers()
    assert signers is not None
    with pytest.raises(SignersRefusedError, match="revoked_keys can't be read: Invalid KRL"):
        await verify(office.signed(statement()), signers, at=make.NOW)


@pytest.mark.parametrize(
    "principals", ["*@example.com", "grac?@example.com", "grace@example.com,ada@example.com", "*"]
)
def test_a_key_that_could_sign_in_several_names_enrols_nobody(
    office: Office, principals: str
) -> None:
    path = office.directory / "allowed_signers"
    path.write_text(path.read_text().replace(GRACE, principals))
    with pytest.raises(SignersRefusedError, match="one person is two"):
        office.signers()


def test_a_key_that_is_enrolled_in_two_names_enrols_nobody(office: Office) -> None:
    """The same name twice, for example for two periods, is one person."""
    path = office.directory / "allowed_signers"
    line = path.read_text()
    path.write_text(line + line.replace(GRACE, GRACE.upper()))
    assert office.signers()
    path.write_text(line + line.replace(GRACE, KATHERINE))
    with pytest.raises(SignersRefusedError, match=f"the key of {GRACE} for {KATHERINE}"):
        office.signers()


def test_the_certificates_of_an_authority_say_who_their_holders_are(office: Office) -> None:
    path = office.directory / "allowed_signers"
    path.write_text(path.read_text().replace(f"{GRACE} ", "*@example.com cert-authority,", 1))
    assert office.signers()


@pytest.mark.parametrize(
    ("touch", "flags", "refusal"),
    [
        (None, 1, None),
        (None, 5, None),
        (None, 0, "nobody touched the hardware key"),
        (None, 4, "nobody touched the hardware key"),
        ("required", 0, "nobody touched the hardware key"),
        ("optional", 0, None),
        ("verified", 5, None),
        ("verified", 1, "no PIN or fingerprint"),
        ("verified", 0, "nobody touched the hardware key"),
    ],
)
async def test_a_hardware_key_is_valid_if_somebody_touched_it(
    office: Office, touch: str | None, flags: int, refusal: str | None
) -> None:
    """OpenSSH accepts each of these signatures; their flags say how they were made."""
    key = office.enrol_hardware(KATHERINE)
    if touch:
        (office.directory / "touch").write_text(touch)
    signers = office.signers()
    assert signers is not None
    approval = key.signed(statement(approver=KATHERINE), flags=flags)
    if refusal is None:
        assert (await verify(approval, signers, at=make.NOW)).key_type.startswith("ED25519-SK")
    else:
        with pytest.raises(BadSignatureError, match=refusal):
            await verify(approval, signers, at=make.NOW)


@pytest.mark.parametrize(("bits", "counts"), [(1024, False), (2048, True), (3072, True)])
async def test_a_short_rsa_key_is_refused(tmp_path: Path, bits: int, counts: bool) -> None:
    office = Office(tmp_path)
    office.enrol(GRACE, kind="rsa", bits=bits)
    signers = office.signers()
    assert signers is not None
    if counts:
        assert await verify(office.signed(statement()), signers, at=make.NOW)
    else:
        with pytest.raises(BadSignatureError, match="needs 2048 bits, this one has 1024"):
            await verify(office.signed(statement()), signers, at=make.NOW)


@pytest.mark.parametrize("text", ["", "yes", "required verified", "REQUIRED"])
def test_an_invalid_setting_for_hardware_keys_is_refused(office: Office, text: str) -> None:
    (office.directory / "touch").write_text(text)
    with pytest.raises(SignersRefusedError, match="one word: required, verified, optional"):
        office.signers()
