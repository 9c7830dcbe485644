"""Register the block types and save two blocks that point at a sandbox. Run as a child process.

It is a process of its own because Prefect reads the caller's profile when it is imported, and this
must talk to no server but the one in its environment.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import httpx
from prefect.settings import PREFECT_API_URL
from prefect_gcp import GcpCredentials
from pydantic import SecretStr

from blocks.anthropic_admin import AnthropicAdmin
from blocks.google_kms import GoogleKms
from cli.local.sandbox import SandboxAddress

ANTHROPIC_BLOCK = "anthropic-admin"
GOOGLE_BLOCK = "google-kms"
_SERVER_SECONDS = 120.0


def save_blocks(sandbox: SandboxAddress) -> None:
    """Save the blocks under the names that the onboarding request uses by default."""
    for block_type in (AnthropicAdmin, GoogleKms):
        block_type.register_type_and_schema()
    AnthropicAdmin(admin_key=SecretStr(sandbox.admin_key), base_url=sandbox.http).save(
        ANTHROPIC_BLOCK, overwrite=True
    )
    credentials = json.loads(sandbox.google_credentials_file.read_text())
    GoogleKms(
        gcp_credentials=GcpCredentials(service_account_info=credentials),
        endpoint=sandbox.grpc,
        checks_endpoint=sandbox.http,
    ).save(GOOGLE_BLOCK, overwrite=True)


def main(address_file: Path) -> None:
    """Wait for the server, then save the blocks for the sandbox whose ready line is in the file."""
    wait_until_healthy(PREFECT_API_URL.value() or "")
    save_blocks(SandboxAddress.model_validate_json(address_file.read_text()))


def wait_until_healthy(api_url: str) -> None:
    """Wait for the server; this process is started beside it, to spend its imports meanwhile.

    Raises:
        TimeoutError: the server did not come up.
    """
    deadline = time.monotonic() + _SERVER_SECONDS
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{api_url}/health", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise TimeoutError(f"Prefect server at {api_url}: not healthy after {_SERVER_SECONDS:.0f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
