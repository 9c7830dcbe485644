"""Google identities out of prefect-gcp's credentials block, or of this machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from google.auth.transport.requests import Request
from google.oauth2 import id_token, service_account
from prefect_gcp import GcpCredentials

from cmek._http import check_endpoint


def service_account_key(block: GcpCredentials) -> dict[str, Any] | None:
    """The service-account key in the block or its file; None when it has neither.

    Raises:
        EndpointError: the key's `token_uri` is plain text beyond loopback.
    """
    if block.service_account_info is not None:
        key: dict[str, Any] = block.service_account_info.get_secret_value()
    elif block.service_account_file is not None:
        key = json.loads(block.service_account_file.read_text())
    else:
        return None
    check_endpoint(str(key.get("token_uri", "https://oauth2.googleapis.com/token")))
    return key


def id_token_provider(block: GcpCredentials | None) -> Callable[[str], str]:
    """A blocking function from audience to a Google ID token, whose errors are google-auth's.

    Args:
        block: Whose key signs; None, or a block without a key, for this machine's identity
            (metadata server, or the service-account file in GOOGLE_APPLICATION_CREDENTIALS).
    """
    key = service_account_key(block) if block is not None else None

    def fetch(audience: str) -> str:
        # google-auth has no annotations for any of these.
        if key is None:
            return str(id_token.fetch_id_token(Request(), audience))  # type: ignore[no-untyped-call]
        signer = service_account.IDTokenCredentials.from_service_account_info(  # type: ignore[no-untyped-call]
            key, target_audience=audience
        )
        signer.refresh(Request())
        return str(signer.token)

    return fetch
