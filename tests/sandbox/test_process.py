"""The sandbox as a process: ready line, ports, signals."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from sandbox.server import running_sandbox
from tests.support.sandbox import SandboxProcess, sandbox_process
from tests.support.waiting import wait_until

HEADERS = {"anthropic-version": "2023-06-01"}
ROOT = Path(__file__).parents[2]


def _send(sandbox: SandboxProcess, method: str, path: str, body: object = None) -> httpx.Response:
    headers = HEADERS | {"x-api-key": sandbox.admin_key}
    return httpx.request(
        method, sandbox.http + path, json=body, headers=headers, trust_env=False, timeout=10
    )


def test_the_ready_line_tells_all_that_a_caller_needs() -> None:
    with sandbox_process() as sandbox:
        assert sandbox.ready.keys() == {
            "http",
            "grpc",
            "organization_id",
            "admin_key",
            "workspaces",
            "project_id",
            "google_credentials_file",
            "control_token",
        }
        assert all(one.keys() == {"id", "name", "state"} for one in sandbox.workspaces)
        me = _send(sandbox, "GET", "/v1/organizations/me").json()
        assert me["id"] == sandbox.organization_id
        host, port = sandbox.grpc.split(":")
        socket.create_connection((host, int(port)), timeout=5).close()
        credentials = Path(sandbox.google_credentials_file)
        assert json.loads(credentials.read_text())["token_uri"] == f"{sandbox.http}/token"
        assert credentials.stat().st_mode & 0o077 == 0
    assert not credentials.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_even_in_the_middle_of_a_call(number: signal.Signals) -> None:
    with sandbox_process("--minimal") as sandbox:
        sandbox.control.switches(validate_seconds=25)
        key_name = "projects/acme-kms-prod/locations/us-east5/keyRings/r/cryptoKeys/k"
        body = {"provider_config": {"type": "gcp", "key_name": key_name}}
        key = _send(sandbox, "POST", "/v1/organizations/external_keys", body).json()["id"]
        address = sandbox.http.removeprefix("http://").split(":")
        with socket.create_connection((address[0], int(address[1]))) as waiting:
            waiting.sendall(
                f"POST /v1/organizations/external_keys/{key}/validate HTTP/1.1\r\n"
                f"Host: localhost\r\nx-api-key: {sandbox.admin_key}\r\n"
                "anthropic-version: 2023-06-01\r\ncontent-length: 0\r\n\r\n".encode()
            )
            wait_until(lambda: sandbox.control.log(call="external_keys.validate"), "arrived", 5)
            sandbox.process.send_signal(number)
            assert sandbox.process.wait(10) == 0


def test_a_second_sandbox_on_the_same_port_does_not_start() -> None:
    """So an old sandbox cannot answer half of the calls."""
    with running_sandbox(minimal=True) as first:
        http, grpc = (int(one.rpartition(":")[2]) for one in (first.http, first.grpc))
        with (
            pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{grpc}"),
            running_sandbox(grpc_port=grpc),
        ):
            pass
        second = subprocess.run(
            [sys.executable, "-m", "sandbox", "--http-port", str(http)],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=ROOT,
            check=False,
        )
        assert (second.returncode, second.stdout) == (1, "")
        assert f"cannot listen on 127.0.0.1:{http}" in second.stderr


def test_it_listens_on_loopback_only() -> None:
    with pytest.raises(ValueError, match="loopback only"), running_sandbox(host="0.0.0.0"):  # noqa: S104
        pass


def test_a_reset_keeps_the_credentials_file_valid(tmp_path: Path) -> None:
    with sandbox_process() as sandbox:
        workspaces = {one["id"] for one in sandbox.workspaces}
        body = {"name": "extra"}
        assert _send(sandbox, "POST", "/v1/organizations/workspaces", body).status_code == 200
        before = json.loads(Path(sandbox.google_credentials_file).read_text())["private_key"]
        sandbox.control.reset()
        listing = "/v1/organizations/workspaces?include_default=true&include_archived=true"
        answer = _send(sandbox, "GET", listing).json()
        assert {one["id"] for one in answer["data"]} == workspaces
        after = json.loads(Path(sandbox.google_credentials_file).read_text())["private_key"]
        assert before == after
