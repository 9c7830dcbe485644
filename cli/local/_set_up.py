"""Pool, blocks, deployments and worker of the local stack. Run as a child process.

    python -m cli.local._set_up NAME [ADDRESS_FILE PREFECT_FILE [GATEWAY]]

With the files it makes pool, blocks and deployments first; then it becomes the worker. It is one
process because importing Prefect takes seconds, which pass while the server starts. It is not the
command's own process because Prefect reads the caller's profile when it is imported, and this one
must talk only to the server in its environment.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import prefect.cli.worker
import prefect.workers.process  # noqa: F401 - the worker's imports, too
from prefect.blocks.notifications import CustomWebhookNotificationBlock, SlackWebhook
from prefect.cli import app
from prefect.client.orchestration import SyncPrefectClient
from prefect.settings import PREFECT_API_URL
from pydantic import SecretStr

from cli.client import local_client
from cli.deploy import PROJECT, create_work_pool, deploy
from cli.local.processes import poll
from cli.local.sandbox import SandboxAddress
from cli.local.stack import AT_ONCE, WORK_POOL
from cmek.onboarding.policy import DEFAULT_POLICY

_SERVER_SECONDS: Final = 120.0


def set_up_resources(
    client: SyncPrefectClient, sandbox: SandboxAddress, prefect_file: Path, gateway: str | None
) -> None:
    """Make the pool, the blocks under a request's default names, and the deployments."""
    create_work_pool(client, WORK_POOL, PROJECT / "deploy" / "work_pool.json", AT_ONCE)
    _save_blocks(sandbox, gateway)
    deploy(client, prefect_file, sandbox.project_id)
    # for `cmek automations`: this server registers no block types when it starts
    for notifier in (SlackWebhook, CustomWebhookNotificationBlock):
        notifier.register_type_and_schema()


def _import_flows() -> None:
    """Import what `prefect deploy` will load, while the server still starts."""
    import flows.discover  # noqa: PLC0415
    import flows.onboard  # noqa: PLC0415
    import flows.revalidate  # noqa: PLC0415
    import flows.watchdog  # noqa: PLC0415, F401


def _save_blocks(sandbox: SandboxAddress, gateway: str | None) -> None:
    from prefect_gcp import GcpCredentials  # noqa: PLC0415 - Google's libraries, late as above

    from blocks.anthropic_admin import AnthropicAdmin  # noqa: PLC0415
    from blocks.google_kms import GoogleKms  # noqa: PLC0415
    from blocks.onboarding_policy import OnboardingPolicy  # noqa: PLC0415

    OnboardingPolicy().save(DEFAULT_POLICY, overwrite=True)
    direct = AnthropicAdmin(admin_key=SecretStr(sandbox.admin_key), base_url=sandbox.http)
    admin = AnthropicAdmin(base_url=gateway, gateway=True) if gateway else direct
    admin.save("anthropic-admin", overwrite=True)
    credentials = json.loads(sandbox.google_credentials_file.read_text(encoding="utf-8"))
    GoogleKms(
        gcp_credentials=GcpCredentials(service_account_info=credentials),
        endpoint=sandbox.grpc,
        checks_endpoint=sandbox.http,
    ).save("google-kms", overwrite=True)


def run_worker(name: str) -> None:
    """Run a worker of the pool until SIGTERM."""
    pool = ("--pool", WORK_POOL, "--type", "process", "--no-create-pool-if-not-found")
    sys.argv = ["prefect", "worker", "start", *pool, "--name", name]
    app()


@contextlib.contextmanager
def _server() -> Iterator[SyncPrefectClient]:
    """A client, once the server is healthy."""
    url = PREFECT_API_URL.value() or ""

    def healthy() -> bool | None:
        with contextlib.suppress(httpx.TransportError):
            return True if http.get(f"{url}/health").status_code == 200 else None
        return None

    with httpx.Client(trust_env=False) as http:
        if poll(healthy, seconds=_SERVER_SECONDS) is None:
            raise TimeoutError(f"Prefect server at {url}: not healthy in {_SERVER_SECONDS:.0f} s")
    with local_client(url) as client:
        yield client


def main(name: str, *files: str) -> None:
    """Set up the resources if files are given, then work until SIGTERM."""
    if files:
        address_file, prefect_file, *more = files
        _import_flows()
        sandbox = SandboxAddress.model_validate_json(Path(address_file).read_text(encoding="utf-8"))
        with _server() as client:
            set_up_resources(client, sandbox, Path(prefect_file), more[0] if more else None)
    run_worker(name)


if __name__ == "__main__":
    main(*sys.argv[1:])
