"""Terraform from the live key, as an artifact of the run."""

from __future__ import annotations

from prefect import get_run_logger

from cmek.anthropic.errors import AdminApiError
from cmek.gcp.errors import GoogleApiError
from cmek.onboarding.request import OnboardingRequest
from cmek.terraform.module import (
    NotManageableError,
    read_workspace_keys,
    render_module,
    terraform_page,
)
from tasks._uncached_task import uncached_task
from tasks.clients import admin_client, kms_client
from tasks.reports import publish


async def publish_terraform(request: OnboardingRequest) -> None:
    """Read the workspace's key and publish the module that adopts it.

    What can't be read is logged and left out: `cmek terraform` can be run at any time.
    """
    workspace_id = request.subject
    try:
        module = await read_module(request.anthropic_block, request.kms_block, workspace_id)
    except (AdminApiError, GoogleApiError, NotManageableError) as error:
        get_run_logger().warning("No Terraform was written: %s", error)
        return
    page = terraform_page(workspace_id, module)
    await publish("terraform", workspace_id, page, "adopts the key as it is now")


@uncached_task(
    name="Terraform",
    task_run_name="Terraform for {workspace_id}",
)
async def read_module(anthropic_block: str, kms_block: str, workspace_id: str) -> dict[str, str]:
    """The module of the workspace's live key, text by file name.

    Raises:
        NotManageableError: The workspace has no key that Terraform can describe.
        AdminApiError, GoogleApiError: A read was refused.
    """
    admin, kms = await admin_client(anthropic_block), await kms_client(kms_block)
    return render_module(await read_workspace_keys(admin, kms, workspace_id))
