"""The same Google failure over gRPC, REST and plain HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
from google.api_core.exceptions import GoogleAPICallError

from tests.support import kms
from tests.support.clients import Rig

_KEY = {
    "type": "service_account",
    "client_email": "a@example.com",
    "token_uri": "https://oauth2.googleapis.com/token",
}
BAD_KEY_FILES = {
    "not JSON": "CANARY",
    "not UTF-8": "\udcff",
    "deep": "[" * 100_000,
    "a list": '["CANARY"]',
    "nothing": "null",
    "a field is missing": json.dumps(_KEY),
    "a field is a list": json.dumps(_KEY | {"private_key": ["CANARY"]}),
    "a field is null": json.dumps(_KEY | {"private_key": "CANARY", "client_email": None}),
    "a person's login": json.dumps({"type": "authorized_user", "refresh_token": "CANARY"}),
    "not PEM": json.dumps(_KEY | {"private_key": "CANARY"}),
    "no key in PEM": json.dumps(
        # pragma: allowlist nextline secret
        _KEY | {"private_key": "-----BEGIN PRIVATE KEY-----\nCANARY==\n-----END PRIVATE KEY-----"}
    ),
}
"""Contents of files that are no service-account key; CANARY marks what must not be shown."""


def bad_key_file(folder: Path, name: str) -> Path:
    """A file with the bad key of this name."""
    file = folder / "key.json"
    file.write_text(BAD_KEY_FILES[name], errors="surrogateescape")  # one is not UTF-8
    return file


Client = kms.Client
Call = Callable[[Client], object]


def grpc_client(rig: Rig) -> Client:
    """The official sync client over gRPC."""
    return kms.grpc_client(rig.sandbox)


def by_grpc(rig: Rig, call: Call) -> Exception:
    """The exception that the call raises over gRPC."""
    return _raised(grpc_client(rig), call)


def by_rest(rig: Rig, call: Call) -> Exception:
    """The exception that the call raises over REST."""
    return _raised(kms.rest_client(rig.sandbox), call)


def by_http(rig: Rig, call: Call) -> httpx.Response:
    """The failed call's answer as a response of httpx."""
    raised = _raised(kms.rest_client(rig.sandbox), call)
    assert isinstance(raised, GoogleAPICallError)
    answer = raised.response
    return httpx.Response(answer.status_code, content=answer.content)


def _raised(client: Client, call: Call) -> Exception:
    try:
        call(client)
    except Exception as error:  # noqa: BLE001 - whatever it raises is the subject
        return error
    finally:
        client.transport.close()  # type: ignore[no-untyped-call]
    raise AssertionError("the call should have failed")
