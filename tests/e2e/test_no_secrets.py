"""No secret is left anywhere that Prefect or this project writes."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.postgres import cluster
from tests.support.sandbox import SandboxControl
from tests.support.stack import Stack, running_stack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

DUMP = "database.sql"
"""A dump, since PostgreSQL's own files may be compressed."""


def encodings(secret: str) -> Iterator[bytes]:
    """The secret as it is, URL-encoded, escaped, and in base64 at each of the three alignments."""
    raw = secret.encode()
    yield raw
    yield quote(secret, safe="").encode()
    yield json.dumps(secret)[1:-1].encode()
    for shift in range(3):
        whole = base64.b64encode(b"\0" * shift + raw)
        # the first and last groups depend on what stands around the secret
        yield whole[4:-4]


def secrets_of(stack: Stack) -> dict[str, str]:
    """The admin key, the service account's private key, and one line of it."""
    credentials = json.loads(Path(stack.local.sandbox.google_credentials_file).read_text())
    private_key = credentials["private_key"]
    return {
        "admin key": stack.local.sandbox.admin_key,
        "private key": private_key,
        "a line of the private key": private_key.splitlines()[3],
    }


def found_in(home: Path, secrets: dict[str, str]) -> list[str]:
    """The files that hold a secret, in any form; the sandbox's own files are left out."""
    needles = [(name, form) for name, secret in secrets.items() for form in encodings(secret)]
    files = [path for path in home.rglob("*") if path.is_file() and "sandbox" not in str(path)]
    assert any(path.name == DUMP for path in files), "the server's database is not among them"
    return [
        f"{name} in {path.relative_to(home)}"
        for path in files
        for name, needle in needles
        if needle in path.read_bytes()
    ]


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    """It finds each form in the middle of a file."""
    secret = "sk-ant-admin01-CANARY-not-a-real-key/+="  # pragma: allowlist secret
    (tmp_path / DUMP).write_bytes(b"")
    forms = list(encodings(secret))
    for number, form in enumerate(forms):
        (tmp_path / str(number)).write_bytes(b"before" + form + b"after")
    pickled = base64.b64encode(b"xy" + secret.encode() + b"z")
    (tmp_path / "result").write_bytes(pickled)
    hits = found_in(tmp_path, {"key": secret})
    assert {hit.rpartition(" ")[2] for hit in hits} == {*map(str, range(len(forms))), "result"}


def _fail_by(control: SandboxControl, stack: Stack, call: str, **fault: object) -> None:
    """Let one run fail because of a fault, and wait for its final state."""
    control.fault(call, times=60, **fault)
    run = stack.start_onboarding(stack.local.sandbox.workspaces[2].id)
    stack.wait_for_state(run, "Failed", seconds=120)
    control.clear_faults()


@pytest.mark.prove
def test_no_secret_is_left_after_success_or_failure() -> None:
    """With level DEBUG: in database, logs, artifacts, results, inputs, states and events."""
    with running_stack(extra_environment={"PREFECT_LOGGING_LEVEL": "DEBUG"}) as stack:
        control = stack.control
        run = stack.start_onboarding(stack.workspace("fresh"))
        ask = stack.wait_for_pending(run)
        stack.answer(ask)
        stack.wait_for_state(run, "Attached")
        _fail_by(control, stack, "organization.me", kind="error", status=401)
        _fail_by(control, stack, "google.token", kind="error", status=400)
        _fail_by(control, stack, "external_keys.create", kind="html", status=502)
        control.fault("workspaces.update", kind="error", status=400)
        second = stack.start_onboarding(stack.local.sandbox.workspaces[2].id)
        stack.answer(stack.wait_for_pending(second))
        stack.wait_for_state(second, "Failed")
        rejected = stack.start_onboarding(stack.local.sandbox.workspaces[2].id)
        stack.answer(stack.wait_for_pending(rejected), decision="reject")
        stack.wait_for_state(rejected, "Rejected")
        dump = cluster().client("pg_dump", stack.database)
        assert "cmek-claim:" in dump
        (stack.local.home / DUMP).write_text(dump)
        shutil.copy(cluster().server.child.log, stack.local.home / "postgresql.log")
        assert found_in(stack.local.home, secrets_of(stack)) == []
