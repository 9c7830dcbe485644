"""A wrong address, login or block gives one line with the cause and the remedy."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from google.auth.compute_engine import _metadata
from prefect.client.orchestration import get_client
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_CLIENT_CSRF_SUPPORT_ENABLED,
    temporary_settings,
)
from prefect_gcp import GcpCredentials

from blocks.anthropic_admin import AnthropicAdmin
from blocks.google_kms import GoogleKms
from blocks.onboarding_policy import OnboardingPolicy
from cmek.onboarding.policy import DEFAULT_POLICY
from tests.support.command import clean_environment, cmek, exit_code, leaf_commands
from tests.support.web_server import QuietHandler, serving

WORKSPACE = "wrkspc_01PaymentsProd1111111111"
RUN = "5d0c4b36-6a1f-4f0e-9a53-0d5f3a3b7c21"
CHECK = ("check", WORKSPACE, "--project", "acme-kms-prod")
TALKING: Mapping[str, tuple[str, ...]] = {
    "deploy": (),
    "automations install": (),
    "doctor": (),
    "onboard": (*CHECK[1:], "--requested-by", "ada@example.com"),
    "check": CHECK[1:],
    "policy show": (),
    "pending": (),
    "approve": (RUN,),
    "reject": (RUN,),
    "sign": (RUN, "--approver", "grace@example.com", "--comment", "x", "--plan-digest", "0" * 64),
    "status": (),
    "history": (WORKSPACE,),
    "listen": ("--webhook-secret-file", "secret"),
    "drill": (WORKSPACE,),
    "leftovers": (),
    "evidence export": (WORKSPACE,),
    "terraform": (WORKSPACE, "--out", "module"),
}
"""Every command that calls the Prefect server, with the arguments that it requires."""
ALONE = {"automations show", "evidence verify", "gateway", "rehearse", "up", "sandbox"}
"""The commands that do not."""
FOREIGN_PAGES = ("mozilla.org", "pydantic.dev", "prefect.io", "Traceback", "For more information")


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in a directory that is empty except for the secret of `cmek listen`."""
    monkeypatch.chdir(tmp_path)
    secret = base64.b64encode(b"0" * 32).decode()
    (tmp_path / "secret").write_text(f"whsec_{secret}")


def test_every_command_either_talks_to_the_server_or_needs_none() -> None:
    """So a new command is tested below too."""
    assert set(leaf_commands()) == {*TALKING, *ALONE}
    assert not ALONE & {*TALKING}


def error_of(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which the command ends; it names no page of another site."""
    code = exit_code(*arguments)
    output = capsys.readouterr()
    if arguments[0] == "doctor":  # its error is one finding of several
        _, head, below = output.out.partition("fail server")
        said = head + below
    else:
        said = output.err
        assert len(said.strip().splitlines()) == 1, said
        assert output.out == ""
        assert said.startswith("error: ")
    assert code == 1
    assert not [one for one in FOREIGN_PAGES if one in said]
    return said


@contextmanager
def answering(status: int, content: bytes, kind: str = "application/json") -> Iterator[str]:
    """A server that gives every call this answer; yields its address."""

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            self.body()
            self.reply(status, content, kind)

        do_POST = do_GET

    with serving(Handler) as address:
        yield address


UNAUTHORIZED = b'{"exception_message":"Unauthorized"}'
ANSWERS = (
    (401, UNAUTHORIZED, None, "wants a login: set PREFECT_API_AUTH_STRING"),
    (401, UNAUTHORIZED, "a:b", "refuses the login in PREFECT_API_AUTH_STRING: set"),
    (403, b'{"detail":"Missing CSRF token."}', None, "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED on"),
    (403, b"<html>Forbidden</html>", None, "a proxy before it wants another login"),
    (500, b"", None, "failed at GET /api/admin/version with 500"),
    (404, b'{"detail":"Not Found"}', None, "is no Prefect API"),
    (404, b"<html>nginx</html>", None, "with /api at its end"),
    (200, b"<html>A page</html>", None, "is no Prefect API"),
    (200, b'{"status": "ok"}', None, "is no Prefect API"),
    (302, b"", None, "sends elsewhere (nowhere): a proxy"),
    (200, b"{}", "\u00fc:\u00fc", "a character that is not ASCII"),
)
"""Status and body of the answer at the address, the caller's login, and the message."""
ADDRESSES = (
    (None, "no Prefect server is configured: set PREFECT_API_URL"),
    ("http://127.0.0.1:9/api", "is it running, and is PREFECT_API_URL right?"),
    ("http://prefect.example/api", "is plain text: use https"),
    ("prefect.example/api", "has no scheme: did you mean https://prefect.example/api?"),
    ("https://", "PREFECT_API_URL: endpoint 'https://' is not an address"),
)


def each_with(faults: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Every command with every fault; without `prove` each of them at least once."""
    return [
        pytest.param(name, *fault, marks=[] if (n - m) % len(faults) == 0 else pytest.mark.prove)
        for n, name in enumerate(TALKING)
        for m, fault in enumerate(faults)
    ]


@pytest.mark.parametrize(("name", "status", "content", "login", "message"), each_with(ANSWERS))
def test_a_servers_refusal_names_the_setting_that_is_wrong(
    name: str,
    status: int,
    content: bytes,
    login: str | None,
    message: str,
    *,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It does so for every command."""
    with answering(status, content) as address:
        settings = {PREFECT_API_URL: f"{address}/api", PREFECT_API_AUTH_STRING: login}
        with temporary_settings(settings):
            assert message in error_of([*name.split(), *TALKING[name]], capsys)


@pytest.mark.parametrize(("name", "url", "message"), each_with(ADDRESSES))
def test_a_wrong_address_is_named(
    name: str, url: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message says what the address should be."""
    if name == "listen" and "is it running" in message:
        pytest.skip("it starts nevertheless, and reads later what it needs")
    with temporary_settings({PREFECT_API_URL: url}):
        said = error_of([*name.split(), *TALKING[name]], capsys)
    assert message in said
    assert (url or "") in said


def test_an_address_without_api_is_corrected(
    prefect_server: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real server serves its UI at that address."""
    ui = str(PREFECT_API_URL.value()).removesuffix("/api")
    with temporary_settings({PREFECT_API_URL: ui}):
        for name in TALKING:
            assert f"did you mean {ui}/api?" in error_of([*name.split(), *TALKING[name]], capsys)


def test_only_an_address_without_a_path_gets_a_guess(capsys: pytest.CaptureFixture[str]) -> None:
    """To add /api after another path would be a second mistake."""
    with answering(200, b"{}") as address:
        for path, guess in (("", True), ("/", True), ("/apix", False), ("/a/b/", False)):
            with temporary_settings({PREFECT_API_URL: f"{address}{path}"}):
                said = error_of(("status",), capsys)
            assert ("did you mean" in said) is guess


def test_https_to_a_server_that_speaks_http_is_reported(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with answering(200, b"{}") as address:
        secure = address.replace("http:", "https:")
        with temporary_settings({PREFECT_API_URL: f"{secure}/api"}):
            assert "it speaks http, not https" in error_of(("status",), capsys)


def test_a_client_without_csrf_support_is_reported(
    prefect_server: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real server with CSRF protection refuses its writes."""
    with temporary_settings({PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: False}):
        assert "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED on" in error_of(("status",), capsys)


def empty(slug: str, name: str) -> None:
    """Save `{}`, as Prefect's first UI does for a form in which nothing was entered."""
    with get_client(sync_client=True) as client:
        kind = client.read_block_type_by_slug(slug)
        schemas = client.request("POST", "/block_schemas/filter", json={}).json()
        (schema,) = [one for one in schemas if one["block_type_id"] == str(kind.id)][:1]
        document = {
            "name": name,
            "data": {},
            "block_type_id": str(kind.id),
            "block_schema_id": schema["id"],
        }
        client.request("POST", "/block_documents/", json=document)


@pytest.fixture
def no_google(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without application default credentials."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
    monkeypatch.setattr(_metadata, "is_on_gce", lambda **_: False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", "/nonexistent")


USING_BLOCKS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "anthropic_block": {"status": ("--live", WORKSPACE), "drill": (WORKSPACE,)},
    "kms_block": {},
}
"""Commands with an option for the block, besides `cmek terraform`, which reads both first."""


@pytest.mark.parametrize(
    ("setting", "block", "message"),
    [
        ("anthropic_block", "no-such-block", "block anthropic-admin/no-such-block can't be used"),
        ("anthropic_block", "empty", "block anthropic-admin/empty can't be used: "),
        ("kms_block", "no-such-block", "block google-kms/no-such-block can't be used"),
        ("kms_block", "unset", "no Google credentials"),
    ],
)
def test_a_block_that_is_missing_empty_or_without_credentials_is_named(
    setting: str,
    block: str,
    message: str,
    *,
    prefect_server: None,
    no_google: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Prefect stores such blocks without an error."""
    for kind in (AnthropicAdmin, GoogleKms, GcpCredentials):
        kind.register_type_and_schema()
    AnthropicAdmin(gateway=True, base_url="http://127.0.0.1:9").save("far-away", overwrite=True)
    if block in {"empty", "unset"}:
        empty("google-kms" if setting == "kms_block" else "anthropic-admin", block)
    blocks = {"anthropic_block": "far-away"} | {setting: block}
    OnboardingPolicy.model_validate(blocks).save("tried", overwrite=True)
    OnboardingPolicy().save(DEFAULT_POLICY, overwrite=True)  # names the block that no option names
    assert message in error_of((*CHECK, "--policy", "tried"), capsys)
    options = [f"--{name.replace('_', '-')}={value}" for name, value in blocks.items()]
    for name, arguments in {**USING_BLOCKS[setting], "terraform": TALKING["terraform"]}.items():
        assert message in error_of((name, *arguments, *options), capsys)


@pytest.mark.parametrize("content", [None, "", "{}", "no JSON", '{"type": "service_account"}'])
def test_unusable_google_credentials_are_reported_in_one_line(
    content: str | None,
    tmp_path: Path,
    prefect_server: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The file is missing, empty or something else."""
    file = tmp_path / "credentials.json"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    AnthropicAdmin(gateway=True, base_url="http://127.0.0.1:9").save("far-away", overwrite=True)
    GoogleKms().save("of-this-machine", overwrite=True)
    options = ("--anthropic-block=far-away", "--kms-block=of-this-machine")
    said = error_of(("terraform", *TALKING["terraform"], *options), capsys)
    assert "credentials" in said
    assert "GOOGLE_APPLICATION_CREDENTIALS" in said


def test_a_program_without_a_server_ends_with_one_line_too(tmp_path: Path) -> None:
    """In a new process Prefect would otherwise start a temporary server of its own."""
    done = cmek(*CHECK, environment=clean_environment(tmp_path), directory=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no Prefect server is configured: set PREFECT_API_URL")
    assert not [one for one in FOREIGN_PAGES if one in done.stderr]
