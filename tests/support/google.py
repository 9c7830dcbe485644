"""The same Google failure as gRPC, REST and plain HTTP show it."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import httpx
from google.api_core.exceptions import GoogleAPICallError
from google.auth.credentials import AnonymousCredentials
from google.cloud import kms_v1
from google.cloud.kms_v1.services.key_management_service.transports import (
    KeyManagementServiceGrpcTransport,
)

from tests.support.clients import Rig

Client = kms_v1.KeyManagementServiceClient
Call = Callable[[Client], object]


def grpc_client(rig: Rig) -> Client:
    """The official sync client over gRPC."""
    channel = grpc.secure_channel(rig.sandbox.grpc, grpc.local_channel_credentials())
    return Client(transport=KeyManagementServiceGrpcTransport(channel=channel))


def rest_client(rig: Rig) -> Client:
    """The official sync client over REST."""
    options = {"api_endpoint": rig.sandbox.http}
    return Client(credentials=AnonymousCredentials(), transport="rest", client_options=options)


def by_grpc(rig: Rig, call: Call) -> Exception:
    """What the call raises over gRPC."""
    return _raised(grpc_client(rig), call)


def by_rest(rig: Rig, call: Call) -> Exception:
    """What the call raises over REST."""
    return _raised(rest_client(rig), call)


def by_http(rig: Rig, call: Call) -> httpx.Response:
    """The answer as httpx has it."""
    raised = _raised(rest_client(rig), call)
    assert isinstance(raised, GoogleAPICallError)
    answer = raised.response
    return httpx.Response(answer.status_code, content=answer.content)


def _raised(client: Client, call: Call) -> Exception:
    try:
        call(client)
    except Exception as error:  # noqa: BLE001 - whatever it raises is the subject
        return error
    finally:
        client.transport.close()
    raise AssertionError("the call should have failed")
