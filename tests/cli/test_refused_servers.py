"""A wrong address, login or block is one line: the cause, and the way out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
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
from cli.main import main
from tests.support.command import clean_environment, cmek
from tests.support.web_server import QuietHandler, serving

CHECK = ("check", "wrkspc_01PaymentsProd1111111111", "--project", "acme-kms-prod")
FOREIGN_PAGES = ("mozilla.org", "errors.pydantic.dev", "Traceback")


def error_of(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that the command ends with; it names no other site's page."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1, said
    assert not [one for one in FOREIGN_PAGES if one in said]
    return said


@contextmanager
def answering(status: int, content: bytes, kind: str = "application/json") -> Iterator[str]:
    """A server that gives every call this answer; its address."""

    class Handler(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802 - the base class's name
            self.body()
            self.reply(status, content, kind)

        do_POST = do_GET  # noqa: N815

    with serving(Handler) as address:
        yield address


@pytest.mark.parametrize(
    ("status", "content", "login", "message"),
    [
        (401, b'{"exception_message":"Unauthorized"}', None, "wants a login: PREFECT_API_AUTH"),
        (401, b'{"exception_message":"Unauthorized"}', "a:b", "refuses the login in PREFECT_API"),
        (403, b'{"detail":"Missing CSRF token."}', None, "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED on"),
        (403, b"<html>Forbidden</html>", None, "a proxy before it wants another login"),
        (500, b"", None, "failed at GET /api/admin/version with 500"),
        (404, b'{"detail":"Not Found"}', None, "is no Prefect API"),
        (200, b"<html>A page</html>", None, "is no Prefect API"),
        (200, b"{}", "ü:ü", "a character that is not ASCII"),
    ],
)
def test_a_servers_refusal_names_the_setting_that_is_wrong(
    status: int,
    content: bytes,
    login: str | None,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever the command would have done."""
    with answering(status, content) as address:
        settings = {PREFECT_API_URL: f"{address}/api", PREFECT_API_AUTH_STRING: login}
        with temporary_settings(settings):
            for arguments in (("pending",), ("status",), CHECK):
                assert message in error_of(arguments, capsys)


def test_an_address_without_api_is_corrected(
    prefect_server: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real server serves its pages there."""
    ui = str(PREFECT_API_URL.value()).removesuffix("/api")
    with temporary_settings({PREFECT_API_URL: ui}):
        assert f"did you mean {ui}/api?" in error_of(("pending",), capsys)


def test_a_client_without_csrf_support_is_told_so(
    prefect_server: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real server with CSRF protection refuses its writes."""
    with temporary_settings({PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: False}):
        assert "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED on" in error_of(("status",), capsys)


def empty(slug: str, name: str) -> None:
    """What Prefect's first UI saves of a form in which nothing was entered: `{}`."""
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
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", "/nonexistent")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("anthropic_block=no-such-block", "block anthropic-admin/no-such-block can't be used"),
        ("anthropic_block=empty", "block anthropic-admin/empty can't be used: "),
        ("kms_block=no-such-block", "block google-kms/no-such-block can't be used"),
        ("kms_block=unset", "no Google credentials"),
    ],
)
def test_a_block_that_is_missing_empty_or_without_credentials_is_named(
    setting: str,
    message: str,
    prefect_server: None,
    no_google: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Prefect stores such blocks without a word."""
    for kind in (AnthropicAdmin, GoogleKms, GcpCredentials):
        kind.register_type_and_schema()
    AnthropicAdmin(gateway=True, base_url="http://127.0.0.1:9").save("far-away", overwrite=True)
    slug = "google-kms" if setting.startswith("kms") else "anthropic-admin"
    if setting.endswith(("empty", "unset")):
        empty(slug, setting.partition("=")[2])
    name, _, block = setting.partition("=")
    blocks = {"anthropic_block": "far-away"} | {name: block}
    OnboardingPolicy.model_validate(blocks).save("tried", overwrite=True)
    assert message in error_of((*CHECK, "--policy", "tried"), capsys)


def test_a_program_without_a_server_ends_with_one_line_too(tmp_path: Path) -> None:
    """As a process, where Prefect would start a temporary server of its own."""
    done = cmek(*CHECK, environment=clean_environment(tmp_path), directory=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no Prefect server is configured: set PREFECT_API_URL")
    assert json.dumps(FOREIGN_PAGES) not in done.stderr
