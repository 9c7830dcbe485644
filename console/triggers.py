"""Start an onboarding once, from a process without an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from prefect import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import PrefectHTTPStatusError

from console.runs import RunError
from tasks.triggering import OnboardingMissingError, OtherRequestError, start_onboarding


def start_once(request: Mapping[str, Any]) -> FlowRun:
    """Start the workspace's onboarding, or give the run that is under way.

    Raises:
        RunError: the deployment is missing, the request does not fit its form, or the run under
            way was started with another request.
    """
    try:
        return asyncio.run(_start(request))
    except (OnboardingMissingError, OtherRequestError) as error:
        raise RunError(str(error)) from None
    except PrefectHTTPStatusError as error:
        if error.response.status_code != 409:
            raise
        reason = error.response.json().get("detail", error.response.text)
        raise RunError(f"the server refused the request: {reason}") from error


async def _start(request: Mapping[str, Any]) -> FlowRun:
    async with get_client() as client:
        return await start_onboarding(client, request)
