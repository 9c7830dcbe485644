"""How to reach Cloud KMS: TLS to Google, or a local channel to this machine."""

from __future__ import annotations

import threading

import grpc
from google.api_core.client_options import ClientOptions
from google.auth.credentials import (
    AnonymousCredentials,
    Credentials,
    CredentialsWithQuotaProject,
    with_scopes_if_required,
)
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import Request
from google.cloud import kms_v1
from google.cloud.kms_v1.services.key_management_service.transports import (
    KeyManagementServiceGrpcAsyncIOTransport,
)

from cmek.endpoints import EndpointError, check_endpoint, is_loopback

GOOGLE = "cloudkms.googleapis.com"


class _LocalToken(grpc.AuthMetadataPlugin):  # type: ignore[misc]  # grpc has no annotations
    """A bearer token and nothing else.

    google-auth's own plugin also asks a Google host about the account, which a sandbox must not.
    """

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._lock = threading.Lock()

    def __call__(
        self, context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback
    ) -> None:
        del context
        try:
            with self._lock:
                if not self._credentials.valid:
                    self._credentials.refresh(Request())  # type: ignore[no-untyped-call]
        except GoogleAuthError as error:
            callback((), error)
            return
        callback((("authorization", f"Bearer {self._credentials.token}"),), None)


SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)


def connect(
    endpoint: str | None, credentials: Credentials | None, quota_project: str | None
) -> kms_v1.KeyManagementServiceAsyncClient:
    """Make the official client without connecting.

    Args:
        endpoint: `host:port`, None for Google's own.
        credentials: None means nobody, allowed on loopback only.
        quota_project: Who is billed for the calls, where it is not the credentials' project.

    Raises:
        EndpointError: not `host:port`, or no credentials beyond loopback.
    """
    if endpoint is not None and ("://" in endpoint or check_endpoint(endpoint) != endpoint):
        raise EndpointError(f"Cloud KMS endpoint {endpoint!r}: use HOST:PORT")
    who = _prepared(credentials, quota_project)
    if endpoint is not None and is_loopback(endpoint):
        transport = KeyManagementServiceGrpcAsyncIOTransport(channel=_local(endpoint, who))
        return kms_v1.KeyManagementServiceAsyncClient(transport=transport)
    if who is None:
        raise EndpointError("Cloud KMS beyond this machine needs credentials")
    options = ClientOptions(api_endpoint=endpoint) if endpoint else None
    return kms_v1.KeyManagementServiceAsyncClient(credentials=who, client_options=options)


def _prepared(credentials: Credentials | None, quota_project: str | None) -> Credentials | None:
    if credentials is None or isinstance(credentials, AnonymousCredentials):
        return None
    # google-auth has no annotations for these.
    scoped: Credentials = with_scopes_if_required(credentials, SCOPES)  # type: ignore[no-untyped-call]
    if quota_project and isinstance(scoped, CredentialsWithQuotaProject):
        scoped = scoped.with_quota_project(quota_project)  # type: ignore[no-untyped-call]
    return scoped


def _local(endpoint: str, who: Credentials | None) -> grpc.aio.Channel:
    """GRPC sends a bearer token only over a channel that counts as secure; this one does."""
    channel = grpc.local_channel_credentials(grpc.LocalConnectionType.LOCAL_TCP)
    if who is not None:
        caller = grpc.metadata_call_credentials(_LocalToken(who))
        channel = grpc.composite_channel_credentials(channel, caller)
    return grpc.aio.secure_channel(endpoint, channel, options=[("grpc.enable_http_proxy", 0)])
