"""Signed approvals against the real ssh-keygen, in signing and in verifying."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cli import approvals
from cli.approvals import ApprovalError
from cli.export import write_approvals
from cmek.canonical import digest
from cmek.evidence.record import Chain, Event, EvidenceIntegrityError
from cmek.keys.prerequisites import CATALOGUE
from cmek.onboarding.plan import (
    ADOPTION_TITLE,
    POLICY_CHANGED_TITLE,
    Plan,
    PlanWarning,
    possible_titles,
)
from cmek.onboarding.policy import OnboardingSettings
from cmek.onboarding.request import MAX_NAME, OnboardingRequest
from cmek.signatures.statement import (
    LONGEST_SIGNATURE,
    LONGEST_STATEMENT,
    MAX_SIGNATURES,
    MAX_TEXT,
    NAMESPACE,
    SignedApproval,
    Statement,
    UnreadableApprovalError,
    parse_signed,
    signing_command,
    signing_text,
    statement_for,
)
from cmek.signatures.verification import BadSignatureError, Verified, verify
from tests.support import facts as make
from tests.support.command import clean_environment, in_terminal
from tests.support.signing import GRACE, KATHERINE, Office, keygen, sign, statement


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Office:
    office = Office(tmp_path_factory.mktemp("office"))
    office.enrol(GRACE)
    office.enrol(KATHERINE)
    office.new_key("eve@example.com")
    return office


def check(office: Office, approval: SignedApproval) -> Verified:
    signers = office.signers()
    assert signers is not None
    return asyncio.run(verify(approval, signers, at=make.NOW))


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_what_ssh_keygen_signs_is_verified(tmp_path: Path, kind: str) -> None:
    """It works with every usual kind of key; the proof names approver, kind and fingerprint."""
    office = Office(tmp_path)
    office.enrol(GRACE, kind=kind)
    found = check(office, office.signed(statement()))
    assert GRACE in str(found)
    assert kind.upper() in str(found)
    assert found.fingerprint.startswith("SHA256:")


def test_what_an_answer_carries_is_verified_by_ssh_keygen_alone(
    office: Office, tmp_path: Path
) -> None:
    """This works years later and without our code: message and signature have OpenSSH's format."""
    (approval,) = parse_signed(str(office.signed(statement())))
    (tmp_path / "sig").write_text(approval.signature)
    known = ("-f", office.directory / "allowed_signers", "-I", GRACE)
    keygen(
        *("-Y", "verify", "-n", "cmek-approval", "-s", tmp_path / "sig", *known),
        message=approval.statement.text,
    )


def test_a_statement_holds_what_the_plan_shows() -> None:
    """It holds each fact that is signed, for an existing workspace and for a new one."""
    imported = make.version(7).model_copy(update={"import_job": "projects/p/importJobs/1"})
    shown = make.plan(
        make.facts(other_workspaces=("Second",), versions=(imported,)),
        warnings=("shared",),
        other_decrypters=("user:eve@example.com",),
    )
    said = of_plan(shown)
    assert said.acknowledged_warnings == shown.warning_titles != ()
    assert said.imported_versions == shown.imported_versions == (imported.id,)
    assert said.other_decrypters == shown.other_decrypters == ("user:eve@example.com",)
    assert said.other_workspaces == shown.other_workspaces != ()
    assert (said.workspace_id, said.workspace_name) == (make.WORKSPACE, None)
    assert said.data_residency is None  # nothing is decided about a workspace that exists
    new = {"workspace_id": None, "create_workspace": "Fresh", "data_residency": "us_only"}
    said = of_plan(make.plan(make.facts(), make.REQUEST.model_copy(update=new)))
    named = said.workspace_id, said.workspace_name, said.data_residency
    assert named == (None, "Fresh", "us_only")


def of_plan(shown: Plan) -> Statement:
    """The statement that an approver of this plan signs."""
    asked = make.approval_request(shown)
    said = statement_for(asked, approver=GRACE, decision="approve", comment="fine", at=make.NOW)
    assert (said.external_key_id, said.key_name) == (shown.external_key_id, shown.key_name)
    assert (said.plan_digest, said.requester) == (shown.digest, shown.request.requested_by)
    assert (said.run_id, said.nonce, said.approval_request) == (
        asked.run_id,
        asked.nonce,
        asked.key,
    )
    assert (said.issued_at, said.expires_at) == (make.NOW, asked.expires_at)
    return said


COMMENTS = ("schön & gut", 'it\'s "quoted" \\ and `$(false)`', "tab\there", "100 % \\n {} !")


@pytest.mark.parametrize("comment", COMMENTS)
def test_the_lines_that_a_request_prints_make_a_signed_approval(
    office: Office, comment: str
) -> None:
    """They ask for address and comment; their whole output goes into the form."""
    approval_request = make.approval_request(signatures=1)
    lines = signing_command(approval_request)
    assert lines in "\n".join(signing_text(approval_request))
    (approval,) = parse_signed(typed_into(office, lines, comment))
    assert approval.statement.comment == comment.replace("\t", "")
    assert approval.statement.nonce == approval_request.nonce
    assert check(office, approval).approval is approval


def typed_into(office: Office, lines: str, comment: str) -> str:
    """The output of the lines for Grace, with her key."""
    lines = lines.replace("~/.ssh/id_ed25519", shlex.quote(str(office.keys[GRACE])))
    done = subprocess.run(
        ["sh", "-c", lines],
        input=f"{GRACE}\n{comment}\n",
        capture_output=True,
        check=True,
        text=True,
    )
    return done.stdout


def test_the_lines_survive_a_copy_that_wraps_them(office: Office) -> None:
    """A terminal's copy breaks the long line wherever its width ends."""
    lines = signing_command(make.approval_request(signatures=1)).splitlines()
    message = lines[4]
    assert message.startswith("m=")
    # inside the quoted text: elsewhere a line break would end the shell's word
    name = message.index("cryptoKeys/") + 4
    lines[4] = message[:name] + "\n" + message[name:]
    (approval,) = parse_signed(typed_into(office, "\n".join(lines), "fine"))
    assert check(office, approval).approval is approval


def test_the_lines_run_nothing_that_a_plan_smuggles_in(office: Office) -> None:
    """Names from an API are quoted for the approver's shell."""
    evil = "k'; touch /nonexistent/pwned; '$(false)`false`\n```\n\\"
    plan = make.plan(make.facts(key=make.key(name=evil)))
    lines = signing_command(make.approval_request(plan, signatures=1))
    (approval,) = parse_signed(typed_into(office, lines, "fine"))
    assert approval.statement.key_name == evil


@pytest.mark.parametrize("field", sorted(Statement.model_fields))
def test_no_field_can_be_altered(office: Office, field: str) -> None:
    """With one more letter or second in any field the signature does not fit."""
    good = office.signed(statement())
    value = getattr(good.statement, field)
    other: object = value + timedelta(seconds=1) if hasattr(value, "year") else f"{value}x"
    if isinstance(value, tuple):
        other = (*value, "x")
    if field == "decision":
        other = "reject"
    altered = SignedApproval(good.statement.model_copy(update={field: other}), good.signature)
    with pytest.raises(BadSignatureError, match="does not fit"):
        check(office, altered)


def test_a_key_is_valid_in_the_name_of_its_enrolled_approver_only(office: Office) -> None:
    with pytest.raises(BadSignatureError, match=r"in the name of grace.* is not enrolled"):
        check(office, office.signed(statement(), by="eve@example.com"))
    with pytest.raises(BadSignatureError, match="is not enrolled"):
        check(office, office.signed(statement(approver="eve@example.com")))
    with pytest.raises(BadSignatureError, match="is not enrolled for them"):
        check(office, office.signed(statement(), by=KATHERINE))


def test_a_signature_for_another_purpose_is_refused(office: Office) -> None:
    said = statement()
    with pytest.raises(BadSignatureError, match="purpose"):
        check(office, SignedApproval(said, sign(said.text, office.keys[GRACE], "git")))


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ('valid-before="20261101"', "has expired"),
        ('valid-after="20270101"', "is not yet valid"),
        ('namespaces="git"', "is not permitted for use in signature namespace"),
    ],
)
def test_a_key_is_valid_within_its_limits_only(tmp_path: Path, option: str, why: str) -> None:
    """The signers file has validity times and purposes; each refusal has its reason."""
    office = Office(tmp_path)
    key = office.new_key(GRACE)
    office.directory.mkdir()
    public = " ".join(Path(f"{key}.pub").read_text().split()[:2])
    (office.directory / "allowed_signers").write_text(f"{GRACE} {option} {public}\n")
    with pytest.raises(BadSignatureError, match=why):
        check(office, office.signed(statement()))


def test_a_revoked_key_is_refused_and_others_are_not(tmp_path: Path) -> None:
    """The list of revoked keys is in the directory of the signers file."""
    office = Office(tmp_path)
    office.enrol(GRACE)
    office.enrol(KATHERINE)
    office.revoke(GRACE)
    with pytest.raises(BadSignatureError, match="is revoked by"):
        check(office, office.signed(statement()))
    check(office, office.signed(statement(approver=KATHERINE)))


@pytest.mark.parametrize("glue", ["\n", "", " ", "\r\n"])
def test_a_form_may_lose_the_line_breaks(office: Office, glue: str) -> None:
    """A one-line field turns them into spaces or drops them; two approvals are still two."""
    both = "\n".join(str(office.signed(statement(approver=one))) for one in (GRACE, KATHERINE))
    found = parse_signed(glue.join(both.splitlines()))
    assert [check(office, one).approval.statement.approver for one in found] == [GRACE, KATHERINE]


NOT_SIGNED = "{}-----BEGIN SSH SIGNATURE-----QUJD-----END SSH SIGNATURE-----"


def altered(text: str, by: str) -> str:
    """An unsigned block, in whose statement one text is replaced by another."""
    return NOT_SIGNED.replace(
        "{}", statement().text.replace(text, by) if text else statement().text
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "each signed approval must end with -----END"),
        ("-", "each signed approval must end with -----END"),
        (statement().text, "each signed approval must end with -----END"),
        (NOT_SIGNED, "signed approval 1 is not the statement of the request: .*; .*; "),
        (altered("", "") + NOT_SIGNED, "signed approval 2 is not the statement"),
        (NOT_SIGNED * (MAX_SIGNATURES + 1), f"more than {MAX_SIGNATURES} signed"),
        ("x" * (MAX_TEXT + 1), f"longer than {MAX_TEXT}"),
        (
            altered('{"acknowledged_warnings"', '{ "acknowledged_warnings"'),
            "signed approval 1 is not in its one canonical form: {.ack",
        ),
        (altered("}", ',"workspace_id":"w"}'), "signed approval 1 is not"),
        (altered("fine", "\\ud800"), "signed approval 1 is not the statement"),
        (altered("grace", "gr\\u0000ace"), "signed approval 1 is not the statement"),
        (altered("", "").replace("QUJD", ""), "signed approval 1 has no SSH signature"),
        (altered("fine", "\ud800"), "signed approval 1 is not the statement"),
    ],
    ids=range(13),
)
def test_what_is_no_signed_approval_is_refused_with_a_typed_error(text: str, said: str) -> None:
    """Empty, unsigned, too many, too long, not canonical, duplicate, not text, invisible."""
    with pytest.raises(UnreadableApprovalError, match=said):
        parse_signed(text)


EDGES = [
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-01:00",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
]


STATEMENTS = st.builds(
    statement,
    comment=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200),
    nonce=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    issued_at=st.datetimes(timezones=st.timezones()).filter(lambda at: 1 < at.year < 9999),
).map(lambda said: Statement.model_validate(said.model_dump()))


def block(said: Statement, length: int = 1) -> str:
    return NOT_SIGNED.replace("QUJD", "QUJD" * length).replace("{}", said.text)


@given(
    st.text()
    | st.builds(
        str.join,
        st.sampled_from(["", " ", "\n"]),
        st.lists(st.builds(block, STATEMENTS, st.integers(1, 60)), min_size=1, max_size=3),
    )
    | st.builds(NOT_SIGNED.replace, st.just("{}"), st.text())
    | st.builds(
        altered,
        st.sampled_from([f"{statement().expires_at:%FT%TZ}", f"{statement().issued_at:%FT%TZ}"]),
        st.sampled_from(EDGES) | st.text(),
    )
)
def test_the_parser_fails_in_one_way_only(text: str) -> None:
    """Any text gives its typed error, or statements that print as they were read."""
    try:
        found = parse_signed(text)
    except UnreadableApprovalError:
        return
    assert parse_signed("\n".join(map(str, found))) == found


@pytest.mark.parametrize("at", EDGES)
def test_an_entry_of_any_time_is_exported_or_named(tmp_path: Path, at: str) -> None:
    """A record is untrusted text as well."""
    body = {"signed_approvals": altered("", "")}
    chain = Chain()
    event = Event(kind="approval_response", subject="attach-1-1", body=body)
    chain.append(event, run="run-1", at=datetime.fromisoformat(at))
    if at.endswith("Z"):
        assert len(write_approvals(chain, tmp_path)) == 1
        return
    with pytest.raises(EvidenceIntegrityError, match="entry 1 is of"):
        write_approvals(chain, tmp_path)


@given(STATEMENTS)
def test_every_statement_is_read_as_it_was_written(said: Statement) -> None:
    """Its line is canonical: the same facts give the same bytes."""
    if "-----" in said.comment + said.nonce:
        return
    (found,) = parse_signed(block(said))
    assert found.statement == said


@given(st.lists(st.text(max_size=30), max_size=25))
def test_what_is_signed_holds_nothing_that_a_page_or_a_terminal_does_not_show(
    members: list[str],
) -> None:
    """A federated principal's subject can be any text; the digest covers it unchanged."""
    asked = make.approval_request(make.plan(other_decrypters=tuple(members)), signatures=1)
    said = statement_for(
        asked, approver="a@example.com", decision="approve", comment="-", at=make.NOW
    )
    for text in (said.text, *signing_text(asked)):
        assert all(one == "\n" or one.isprintable() for one in text), ascii(text)


def rsa_armor(bits: int) -> int:
    """How long the signature of an RSA key is, as OpenSSH writes it; without its last line break.

    Source: OpenSSH's PROTOCOL.sshsig.
    """
    number = bits // 8
    public = (4 + len("ssh-rsa")) + (4 + 3) + (4 + 1 + number)
    signed = (4 + len("rsa-sha2-512")) + (4 + number)
    blob = len("SSHSIG") + 4 + sum(4 + one for one in (public, len(NAMESPACE), 0, 6, signed))
    encoded = 4 * -(-blob // 3)
    return encoded + -(-encoded // 70) + len(NOT_SIGNED.replace("{}", "").replace("QUJD", "")) + 1


def test_the_longest_key_of_openssh_makes_no_longer_signature(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.enrol(GRACE, kind="rsa", bits=2048)
    assert len(office.signed(statement()).signature.strip()) == rsa_armor(2048)
    assert rsa_armor(16_384) <= LONGEST_SIGNATURE


TITLES = tuple(max(possible_titles([one])[2:], key=len) for one in CATALOGUE)
"""The longest of each check: a plan has one warning a check at most."""
HANGUL = "\uac00"
"""Three bytes, the most in a name of a new workspace."""
WORST: dict[str, Any] = {
    "comment": "\x01" * 2000,
    "decrypters": ['"' * 149] * 60,
    "workspaces": ['"' * 149] * 60,
    "versions": ['"' * 149] * 60,
}
REPEATED = st.builds(
    str.__mul__,
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4),
    st.integers(1, 500),
)
NAMES = st.lists(REPEATED, max_size=60)


def longest_statement(
    comment: str, decrypters: list[str], workspaces: list[str], versions: list[str]
) -> Statement:
    """Of a plan in which all else is as long as the models and the services let it be."""
    email = f"{'a' * 64}@{'b' * 190}"
    request = OnboardingRequest(
        create_workspace=HANGUL * MAX_NAME, project_id="acme-kms-prod", requested_by=email
    )
    warnings = tuple(
        PlanWarning(id=str(number), title=title, text="")
        for number, title in enumerate((ADOPTION_TITLE, POLICY_CHANGED_TITLE, *TITLES))
    )
    update: dict[str, Any] = {
        "request": request,
        "workspace_id": None,
        "key_name": "k" * 500,  # a gateway registers no longer one
        "external_key_id": f"ekey_{'x' * 64}",
        "warnings": warnings,
        "other_decrypters": tuple(decrypters),
        "other_workspaces": tuple(workspaces),
        "imported_versions": tuple(versions),
    }
    plan = make.plan().model_copy(update=update)
    asked = make.approval_request(plan, nonce="0" * 32, attempt=1000, number=4)
    return statement_for(asked, approver=email, decision="approve", comment=comment, at=make.NOW)


@given(comment=REPEATED.map(lambda text: text[:2000]), decrypters=NAMES, workspaces=NAMES)
@example(comment="\U0001f511" * 2000, decrypters=["\U0001f511" * 1500] * 60, workspaces=[])
@example(comment="-", decrypters=["\\" * 99_999], workspaces=["w" * 6_000])
def test_the_statement_of_any_plan_is_bounded(
    comment: str, decrypters: list[str], workspaces: list[str]
) -> None:
    """In bytes, whatever is in the plan and in the comment, and how long a list or name is."""
    said = longest_statement(comment, decrypters, workspaces, decrypters)
    assert len(said.text.encode()) <= LONGEST_STATEMENT
    for names, signed in ((decrypters, said.other_decrypters), (workspaces, said.other_workspaces)):
        assert len(signed) == len(names) or digest([*names]) in signed[-1]


def test_the_longest_plan_can_be_signed_by_as_many_as_any_setting_asks_for() -> None:
    """Nobody may be asked for signatures that no form and no header can hold."""
    asked = OnboardingSettings.model_json_schema()["properties"]["signatures"]["maximum"]
    assert asked == MAX_SIGNATURES
    said = longest_statement(**WORST)
    assert LONGEST_STATEMENT - 3_000 < len(said.text.encode()) <= LONGEST_STATEMENT
    signature = NOT_SIGNED.replace("{}", "").replace("QUJD", "Q" * (LONGEST_SIGNATURE - 200))
    text = "\n".join([f"{said.text}\n{signature}"] * asked)
    assert len(parse_signed(text)) == asked


def test_the_bounds_hold_for_what_is_well_formed_too() -> None:
    """Nine approvals in `MAX_TEXT` bytes are read; a tenth, or a byte more, is not."""
    signature = "-----BEGIN SSH SIGNATURE-----\nQUJD\n-----END SSH SIGNATURE-----\n"
    one = str(SignedApproval(statement(), signature))
    assert len(parse_signed(one * MAX_SIGNATURES)) == MAX_SIGNATURES
    assert len(parse_signed(one + " " * (MAX_TEXT - len(one)))) == 1
    with pytest.raises(UnreadableApprovalError, match=r"more than 9"):
        parse_signed(one * (MAX_SIGNATURES + 1))
    with pytest.raises(UnreadableApprovalError, match=f"longer than {MAX_TEXT} bytes"):
        parse_signed(one + " " * (MAX_TEXT - len(one) + 1))
    with pytest.raises(UnreadableApprovalError, match="longer than"):
        parse_signed(one + "\N{EM SPACE}" * ((MAX_TEXT - len(one)) // 3 + 1))


def test_a_key_that_others_may_read_is_refused_with_openssh_s_whole_text(
    tmp_path: Path,
) -> None:
    """Its last line alone would say that there is no key."""
    office = Office(tmp_path)
    office.new_key(GRACE).chmod(0o644)
    with pytest.raises(ApprovalError, match=r"Permissions 0644 for \S+ are too open.*; No private"):
        approvals.sign(make.approval_request(), GRACE, "fine", office.keys[GRACE])


SIGN: Final = """
import sys
from pathlib import Path
from cli.approvals import signature
print(signature("a text", Path(sys.argv[1])))
"""


@pytest.mark.parametrize("display", [{"DISPLAY": ":0", "SSH_ASKPASS": "/nonexistent"}, {}])
def test_a_passphrase_is_asked_for_in_the_terminal_on_a_desktop_too(
    tmp_path: Path, display: dict[str, str]
) -> None:
    """Standard input is the text, so ssh-keygen would rather start an askpass program."""
    key = tmp_path / "protected"
    keygen("-q", "-t", "ed25519", "-N", "our secret", "-f", key)
    code, screen = in_terminal(
        [sys.executable, "-c", SIGN, str(key)],
        [("Enter passphrase", "our secret")],
        environment=clean_environment(tmp_path, PYTHONPATH=os.pathsep.join(sys.path), **display),
        directory=tmp_path,
    )
    assert code == 0, screen
    armored = screen[screen.index("-----BEGIN") :].replace("\r\n", "\n")
    signed = tmp_path / "text.sig"
    signed.write_text(armored)
    keygen("-Y", "check-novalidate", "-n", NAMESPACE, "-s", signed, message="a text")


def test_a_person_signs_with_the_ssh_keygen_of_their_own_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as Homebrew's, which knows hardware keys; without one in PATH it is the system's."""
    key = tmp_path / "key"
    keygen("-q", "-t", "ed25519", "-N", "", "-f", key)
    own = tmp_path / "bin" / "ssh-keygen"
    own.parent.mkdir()
    own.write_text("#!/bin/sh\necho signed by their own\n")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", str(own.parent))
    assert approvals.signature("a text", key) == "signed by their own\n"
    own.unlink()
    assert approvals.signature("a text", key).startswith("-----BEGIN SSH SIGNATURE-----")


def test_without_a_terminal_the_refusal_says_that_no_passphrase_could_be_asked_for(
    tmp_path: Path,
) -> None:
    key = tmp_path / "protected"
    keygen("-q", "-t", "ed25519", "-N", "our secret", "-f", key)
    done = subprocess.run(
        [sys.executable, "-c", SIGN, str(key)],
        env=clean_environment(tmp_path, PYTHONPATH=os.pathsep.join(sys.path)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    assert done.returncode
    assert "did not sign" in done.stderr
    assert "there is no terminal to ask for a passphrase in" in done.stderr


def test_whoever_signs_with_a_hardware_key_is_told_to_touch_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it waits for the touch; a refusal is still OpenSSH's own."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    office = Office(tmp_path)
    hardware = tmp_path / "hardware.pub"
    hardware.write_text(f"{office.enrol_hardware(GRACE).public} a (strange) comment\n")
    with pytest.raises(ApprovalError, match=r"hardware\.pub did not sign: \S"):
        approvals.signature("a text", hardware)
    told = " ".join(capfd.readouterr().err.split())
    assert f"{hardware} is a hardware key: touch it" in told
    approvals.signature("a text", office.new_key(GRACE))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_signed_approval_that_went_through_another_editor_is_read(
    tmp_path: Path, encoding: str
) -> None:
    office = Office(tmp_path)
    office.enrol(GRACE)
    office.enrol(KATHERINE)
    asked, colleague = make.approval_request(), tmp_path / "colleague"
    theirs = str(office.signed(statement(approver=KATHERINE)))
    colleague.write_bytes(theirs.replace("\n", "\r\n").encode(encoding))
    answer = {"decision": "approve", "approver": GRACE, "comment": "fine"}
    others = approvals.read_signed(asked, [colleague], now=make.NOW)
    field = approvals.signed_field(asked, answer, office.keys[GRACE], others)
    assert [one.statement.approver for one in parse_signed(field)] == [GRACE, KATHERINE]
