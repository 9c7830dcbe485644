"""The same Google failure as gRPC, REST and plain HTTP show it."""

from __future__ import annotations

from collections.abc import Callable

import httpx
from google.api_core.exceptions import GoogleAPICallError

from tests.support import kms
from tests.support.clients import Rig

Client = kms.Client
Call = Callable[[Client], object]


def grpc_client(rig: Rig) -> Client:
    """The official sync client over gRPC."""
    return kms.grpc_client(rig.sandbox)


def by_grpc(rig: Rig, call: Call) -> Exception:
    """What the call raises over gRPC."""
    return _raised(grpc_client(rig), call)


def by_rest(rig: Rig, call: Call) -> Exception:
    """What the call raises over REST."""
    return _raised(kms.rest_client(rig.sandbox), call)


def by_http(rig: Rig, call: Call) -> httpx.Response:
    """The answer as httpx has it."""
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
