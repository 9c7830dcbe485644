"""Register the block types; save the default policy and two blocks that point at a sandbox.

It is a process of its own because Prefect reads the caller's profile when it is imported, and this
must talk to no server but the one in its environment.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import httpx
from prefect.settings import PREFECT_API_URL
from prefect_gcp import GcpCredentials
from pydantic import SecretStr

from blocks.anthropic_admin import AnthropicAdmin
from blocks.google_kms import GoogleKms
from blocks.onboarding_policy import OnboardingPolicy
from cli.local.processes import poll
from cli.local.sandbox import SandboxAddress
from cmek.onboarding.policy import DEFAULT_POLICY

_SERVER_SECONDS = 120.0


def main(address_file: Path) -> None:
    """Wait for the server, then save the blocks under the names that a request has by default."""
    _wait_until_healthy(PREFECT_API_URL.value() or "")
    sandbox = SandboxAddress.model_validate_json(address_file.read_text())
    for block_type in (AnthropicAdmin, GoogleKms, OnboardingPolicy):
        block_type.register_type_and_schema()
    OnboardingPolicy().save(DEFAULT_POLICY, overwrite=True)
    AnthropicAdmin(admin_key=SecretStr(sandbox.admin_key), base_url=sandbox.http).save(
        "anthropic-admin", overwrite=True
    )
    credentials = json.loads(sandbox.google_credentials_file.read_text())
    GoogleKms(
        gcp_credentials=GcpCredentials(service_account_info=credentials),
        endpoint=sandbox.grpc,
        checks_endpoint=sandbox.http,
    ).save("google-kms", overwrite=True)


def _wait_until_healthy(api_url: str) -> None:
    # This process is started beside the server, to spend its imports meanwhile.
    def healthy() -> bool | None:
        with contextlib.suppress(httpx.TransportError):
            status = httpx.get(f"{api_url}/health", trust_env=False).status_code
            return True if status == 200 else None
        return None

    if poll(healthy, seconds=_SERVER_SECONDS) is None:
        raise TimeoutError(
            f"Prefect server at {api_url}: not healthy after {_SERVER_SECONDS:.0f} s"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
