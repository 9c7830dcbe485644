"""A whole `cmek drill` on the local stack: this process does what the command asks a person."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, Final

from prefect.client.orchestration import SyncPrefectClient

from cli.drill import NAMESPACE
from tests.support.command import CMEK
from tests.support.stack import Stack, running_stack
from tests.support.watching import Listening, change_key, listening

KEY: Final = "search-prod"
SECONDS: Final = 900
TITLES: Final = (
    "our alert",
    "Anthropic's validation fails",
    "the data plane refuses",
    "our notice of recovery",
)
"""The four measured times that the report must show."""
_PROBE: Final = (
    "import httpx, sys; "
    "answer = httpx.post({url!r}, headers={headers!r}, trust_env=False, json={{}}).json(); "
    "sys.exit(answer.get('status') != 'success')"
)


def main() -> None:
    """Print the number of measured times, and those that the signed report does not show."""
    with (
        running_stack() as stack,
        tempfile.TemporaryDirectory(prefix="cmek-drill-") as scratch,
        listening(stack, Path(scratch)) as listener,
    ):
        problems = _problems(stack, listener, Path(scratch))
    sys.stdout.write(json.dumps({"tried": len(TITLES), "problems": problems}) + "\n")


def _problems(stack: Stack, listener: Listening, scratch: Path) -> list[str]:
    listener.only("webhook")
    keys = stack.admin("GET", "external_keys")["data"]
    key = next(one for one in keys if one["provider_config"].get("key_name", "").endswith(KEY))
    name = str(key["provider_config"]["key_name"])
    change_key(stack, name, enabled=True)
    _checked(stack, stack.client)
    report = scratch / "drill.md"
    said, code = _drill(stack, name, str(key["id"]), report)
    if not report.exists():
        return [f"{title}: no report: {said[-2000:]}" for title in TITLES]
    text = report.read_text()
    problems = [f"{one}: {text}" for one in TITLES if not _in_time(one, text)]
    if code or not _is_signed(report):
        problems.append(f"exit code {code}, or the report's signature is not valid: {said[-800:]}")
    return problems


def _checked(stack: Stack, client: SyncPrefectClient) -> None:
    """Run the first check of all keys, after which each has a record."""
    deployment = client.read_deployment_by_name("revalidate-keys/scheduled")
    run = client.create_flow_run_from_deployment(deployment.id)
    stack.wait_for_state(run, "Failed", "At risk", "Completed", seconds=SECONDS)


def _drill(stack: Stack, name: str, external_key_id: str, report: Path) -> tuple[str, int]:
    """Run the command, and do what it asks for; returns its output and exit code."""
    signing_key = report.with_name("id_ed25519")
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(signing_key)], check=True
    )
    workspaces = stack.admin("GET", "workspaces")["data"]
    workspace = next(one["id"] for one in workspaces if one["external_key_id"] == external_key_id)
    probe = report.with_name("probe.py")
    sandbox = stack.local.sandbox
    probe.write_text(
        _PROBE.format(
            url=f"{sandbox.http}/v1/organizations/external_keys/{external_key_id}/validate",
            headers={"x-api-key": sandbox.admin_key, "anthropic-version": "2023-06-01"},
        )
    )
    command = [
        CMEK,
        "drill",
        str(workspace),
        f"--confirm={workspace}",
        f"--probe={sys.executable} {probe}",
        f"--out={report}",
        f"--signing-key={signing_key}",
    ]
    process = subprocess.Popen(
        command,
        env=dict(stack.local.environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    # reading a pipe has no timeout: only the end of the process ends it
    stop = threading.Timer(SECONDS, process.kill)
    stop.start()
    try:
        return _obeyed(process.stdout, stack, name), process.wait()
    finally:
        stop.cancel()
        process.kill()


def _obeyed(said: IO[str], stack: Stack, name: str) -> str:
    """Read the output to its end, and make the change of each gcloud command in it."""
    lines = []
    for line in said:
        lines.append(line)
        if asked := re.match(r"gcloud kms keys versions (disable|enable) ", line):
            change_key(stack, name, enabled=asked[1] == "enable")
    return "".join(lines)


def _in_time(title: str, text: str) -> bool:
    """Whether the report has a line with this title, a time, and the sign of success."""
    line = next((one for one in text.splitlines() if title in one), "")
    return bool(re.search(r"\d{4}-\d{2}-\d{2} .*✓", line))


def _is_signed(report: Path) -> bool:
    signers = report.with_name("signers")
    signers.write_text(f"ada {report.with_name('id_ed25519.pub').read_text()}")
    verify = ["ssh-keygen", "-Y", "verify", "-n", NAMESPACE, "-f", str(signers), "-I", "ada"]
    done = subprocess.run(
        [*verify, "-s", f"{report}.sig"],
        input=report.read_bytes(),
        check=False,
        capture_output=True,
    )
    return done.returncode == 0


if __name__ == "__main__":
    main()
