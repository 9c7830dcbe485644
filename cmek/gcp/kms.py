"""The Cloud KMS calls that an onboarding needs, with the official async client.

ALREADY_EXISTS means "read what exists": a create whose response was lost gives the same error when
it is retried. The library's own retries are off (`cmek._http` retries), every call has a timeout,
and every failure is a `GoogleApiError`. Nothing here disables, destroys or deletes.

Source: guide steps 1 to 4; https://docs.cloud.google.com/kms/docs/reference/rpc
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Final, TypeVar

import grpc
from google.api_core.client_options import ClientOptions
from google.api_core.exceptions import GoogleAPIError
from google.auth.credentials import Credentials, CredentialsWithQuotaProject
from google.auth.exceptions import GoogleAuthError
from google.cloud import kms_v1
from google.cloud.kms_v1.services.key_management_service.transports import (
    KeyManagementServiceGrpcAsyncIOTransport,
)
from google.cloud.location import locations_pb2
from google.iam.v1 import iam_policy_pb2, options_pb2, policy_pb2
from google.protobuf.field_mask_pb2 import FieldMask

from cmek._http import RetryDecision, retrying
from cmek.addresses import EndpointError, check_endpoint, is_loopback
from cmek.gcp._transport import TokenRequest, endless_list, scoped, transient
from cmek.gcp.errors import GoogleApiError, GoogleProblem, classify
from cmek.gcp.iam import POLICY_VERSION, with_grants
from cmek.gcp.resources import MAX_LABELS, CryptoKey, KeyRing, KeySpec, KeyVersion, Location

T = TypeVar("T")
ListRequest = kms_v1.ListCryptoKeysRequest | kms_v1.ListCryptoKeyVersionsRequest
GOOGLE: Final = "cloudkms.googleapis.com"
TIMEOUT_SECONDS: Final = 20.0
POLICY_ATTEMPTS: Final = 6


class CloudKms:
    """An async client; use it in one event loop, and close it there."""

    def __init__(
        self, client: kms_v1.KeyManagementServiceAsyncClient, endpoint: str = GOOGLE
    ) -> None:
        self._client = client
        self.endpoint = endpoint

    @classmethod
    def connect(
        cls,
        *,
        endpoint: str | None = None,
        credentials: Credentials | None = None,
        quota_project: str | None = None,
    ) -> CloudKms:
        """Make a client without connecting; it uses TLS, except on loopback.

        Args:
            endpoint: `host:port`; None for Google's own.
            credentials: None for an anonymous caller, which is allowed on loopback only.
            quota_project: The project whose quota is used, when it is not the credentials' own.

        Raises:
            EndpointError: `endpoint` is not `host:port`, or is not on loopback and there are no
                credentials.
        """
        if endpoint is not None and ("://" in endpoint or check_endpoint(endpoint) != endpoint):
            raise EndpointError(f"Cloud KMS endpoint {endpoint!r}: use HOST:PORT")
        caller = scoped(credentials)
        if quota_project and isinstance(caller, CredentialsWithQuotaProject):
            caller = caller.with_quota_project(quota_project)  # type: ignore[no-untyped-call]
        if endpoint is not None and is_loopback(endpoint):
            transport = KeyManagementServiceGrpcAsyncIOTransport(channel=_local(endpoint, caller))
            return cls(kms_v1.KeyManagementServiceAsyncClient(transport=transport), endpoint)
        if caller is None:
            raise EndpointError("Cloud KMS beyond this machine needs credentials")
        options = ClientOptions(api_endpoint=endpoint) if endpoint else None
        client = kms_v1.KeyManagementServiceAsyncClient(credentials=caller, client_options=options)
        return cls(client, endpoint or GOOGLE)

    async def aclose(self) -> None:
        """Close the channel."""
        await self._client.transport.close()  # type: ignore[no-untyped-call]

    async def get_location(self, project: str, location: str) -> Location:
        """A location, and whether it has HSM; an unknown one raises `MISROUTED_LOCATION`."""
        name = f"projects/{project}/locations/{location}"
        request = locations_pb2.GetLocationRequest(name=name)
        found = await self._call("GetLocation", name, self._client.get_location, request)
        metadata = kms_v1.LocationMetadata()
        found.metadata.Unpack(kms_v1.LocationMetadata.pb(metadata))
        return Location(name=found.name or name, hsm_available=metadata.hsm_available)

    async def get_key_ring(self, name: str) -> KeyRing | None:
        """A key ring; None when there is none of that name."""
        request = kms_v1.GetKeyRingRequest(name=name)
        found = await self._find("GetKeyRing", name, self._client.get_key_ring, request)
        return KeyRing(name=found.name) if found else None

    async def create_key_ring(self, name: str) -> tuple[KeyRing, bool]:
        """Create a key ring (guide step 1), or read the existing one; and whether it was created.

        It is also False when this call created the ring but the first response was lost.
        """
        parent, _, ring_id = name.rpartition("/keyRings/")
        request = kms_v1.CreateKeyRingRequest(parent=parent, key_ring_id=ring_id)
        try:
            made = await self._call("CreateKeyRing", name, self._client.create_key_ring, request)
        except GoogleApiError as error:
            return await _adopted(error, name, self.get_key_ring), False
        return KeyRing(name=made.name), True

    async def get_crypto_key(self, name: str) -> CryptoKey | None:
        """A crypto key with its primary version; None when there is none of that name."""
        request = kms_v1.GetCryptoKeyRequest(name=name)
        found = await self._find("GetCryptoKey", name, self._client.get_crypto_key, request)
        return CryptoKey.of(found) if found else None

    async def list_crypto_keys(self, key_ring: str) -> AsyncIterator[CryptoKey]:
        """All keys of a ring, each with its primary version; one read for up to 1000 keys."""
        request = kms_v1.ListCryptoKeysRequest(parent=key_ring, page_size=1000)
        call = self._client.list_crypto_keys
        async for page in self._pages("ListCryptoKeys", key_ring, call, request):
            for key in page.crypto_keys:
                yield CryptoKey.of(key)

    async def create_crypto_key(self, name: str, spec: KeySpec) -> tuple[CryptoKey, bool]:
        """Create a key (guide step 2), or read the existing one; and whether it was created.

        False does not say who created it: the caller must compare it and check its label.
        """
        parent, _, key_id = name.rpartition("/cryptoKeys/")
        request = kms_v1.CreateCryptoKeyRequest(
            parent=parent, crypto_key_id=key_id, crypto_key=spec.message()
        )
        call = self._client.create_crypto_key
        try:
            made = await self._call("CreateCryptoKey", name, call, request)
        except GoogleApiError as error:
            return await _adopted(error, name, self.get_crypto_key), False
        return CryptoKey.of(made), True

    async def list_crypto_key_versions(self, name: str) -> list[KeyVersion]:
        """All versions of a key."""
        request = kms_v1.ListCryptoKeyVersionsRequest(parent=name, page_size=1000)
        call = self._client.list_crypto_key_versions
        pages = self._pages("ListCryptoKeyVersions", name, call, request)
        return [KeyVersion.of(one) async for page in pages for one in page.crypto_key_versions]

    async def add_label(self, name: str, key: str, value: str) -> CryptoKey:
        """Add one label, keep the others, and return the key as read back.

        Crypto keys have no etag, and an update replaces all labels: a label that another caller
        writes between our read and our write is lost.

        Raises:
            GoogleApiError: Also for a missing key and for a 65th label.
        """
        request = kms_v1.GetCryptoKeyRequest(name=name)
        found = await self._call("GetCryptoKey", name, self._client.get_crypto_key, request)
        if found.labels.get(key) == value:
            return CryptoKey.of(found)
        labels = dict(found.labels) | {key: value}
        if len(labels) > MAX_LABELS:
            raise _refused(
                "UpdateCryptoKey",
                name,
                "TOO_MANY_LABELS",
                f"the key has {MAX_LABELS} labels already",
                "Remove a label that nobody needs, then try again.",
            )
        update = kms_v1.UpdateCryptoKeyRequest(
            crypto_key=kms_v1.CryptoKey(name=name, labels=labels),
            update_mask=FieldMask(paths=["labels"]),
        )
        await self._call("UpdateCryptoKey", name, self._client.update_crypto_key, update)
        found = await self._call("GetCryptoKey", name, self._client.get_crypto_key, request)
        return CryptoKey.of(found)

    async def get_iam_policy(self, resource: str) -> policy_pb2.Policy:
        """The policy of a key or key ring in version 3, so with its conditions."""
        request = iam_policy_pb2.GetIamPolicyRequest(
            resource=resource,
            options=options_pb2.GetPolicyOptions(requested_policy_version=POLICY_VERSION),
        )
        return await self._call("GetIamPolicy", resource, self._client.get_iam_policy, request)

    async def add_grants(
        self, resource: str, member: str, roles: Iterable[str]
    ) -> tuple[policy_pb2.Policy, bool]:
        """Grant `member` those `roles` that it lacks (guide step 3); and whether it was written.

        When another caller changes the policy at the same time, the whole read-modify-write is
        repeated, 6 attempts at most.
        """
        wanted = tuple(roles)
        written = False

        # each attempt reads the policy again: with the old etag the write would fail again
        async def cycle() -> policy_pb2.Policy:
            nonlocal written
            policy = await self.get_iam_policy(resource)
            extended = with_grants(policy, member, wanted)
            if extended is None:
                return policy
            # before the call: a write whose response is lost may have taken effect
            written = True
            return await self._set_iam_policy(resource, extended)

        return await retrying(cycle, _lost_race, attempts=POLICY_ATTEMPTS), written

    async def test_iam_permissions(
        self, resource: str, permissions: Iterable[str]
    ) -> frozenset[str]:
        """Those of `permissions` that the caller has on the resource."""
        request = iam_policy_pb2.TestIamPermissionsRequest(
            resource=resource, permissions=list(permissions)
        )
        call = self._client.test_iam_permissions
        found = await self._call("TestIamPermissions", resource, call, request)
        return frozenset(found.permissions)

    async def _set_iam_policy(self, resource: str, policy: policy_pb2.Policy) -> policy_pb2.Policy:
        if not policy.etag:  # Cloud KMS would overwrite the policy unconditionally
            raise _refused(
                "SetIamPolicy",
                resource,
                "NO_ETAG",
                "the policy came without an etag, so writing it could undo others' changes",
                "Try again; if it stays so, check what stands between here and Google.",
            )
        request = iam_policy_pb2.SetIamPolicyRequest(resource=resource, policy=policy)
        return await self._call("SetIamPolicy", resource, self._client.set_iam_policy, request)

    async def _find(
        self, call: str, name: str, method: Callable[..., Awaitable[T]], request: object
    ) -> T | None:
        try:
            return await self._call(call, name, method, request)
        except GoogleApiError as error:
            # with a reason it is something else, such as a location that does not exist
            if error.problem.status == "NOT_FOUND" and error.problem.reason is None:
                return None
            raise

    async def _call(
        self, call: str, resource: str, method: Callable[..., Awaitable[T]], request: object
    ) -> T:
        async def send() -> T:
            try:
                # the library's own defaults: creates are retried, IAM calls have no timeout at all
                return await method(request=request, retry=None, timeout=TIMEOUT_SECONDS)
            except (GoogleAPIError, GoogleAuthError, grpc.RpcError) as error:
                problem = classify(error, call=call, resource=resource)
            # outside the handler: the library's exception holds the call, and with it the token
            raise GoogleApiError(problem)

        return await retrying(send, transient)

    async def _pages(
        self, call: str, resource: str, method: Callable[..., Awaitable[Any]], request: ListRequest
    ) -> AsyncIterator[Any]:
        seen = set[str]()
        while True:
            page = await self._call(call, resource, method, request)
            yield page
            if not page.next_page_token:
                return
            if page.next_page_token in seen:
                raise GoogleApiError(endless_list(call, resource))
            seen.add(page.next_page_token)
            request.page_token = page.next_page_token


async def _adopted(
    error: GoogleApiError, name: str, read: Callable[[str], Awaitable[T | None]]
) -> T:
    """The existing resource, when `error` is ALREADY_EXISTS; otherwise raise `error`."""
    found = await read(name) if error.problem.status == "ALREADY_EXISTS" else None
    if found is None:  # also the name of a deleted key, which Cloud KMS never frees
        raise error
    return found


def _lost_race(error: Exception) -> RetryDecision:
    return isinstance(error, GoogleApiError) and error.problem.status == "ABORTED"


def _refused(call: str, resource: str, reason: str, message: str, advice: str) -> GoogleApiError:
    """The error for a write that is not sent."""
    return GoogleApiError(
        GoogleProblem(
            status="FAILED_PRECONDITION",
            reason=reason,
            resource=resource,
            message=message,
            advice=advice,
            call=call,
        )
    )


def _local(endpoint: str, caller: Credentials | None) -> grpc.aio.Channel:
    """A channel to loopback without TLS.

    Not `insecure_channel`: gRPC sends a token only over a channel with channel credentials.
    """
    channel = grpc.local_channel_credentials(grpc.LocalConnectionType.LOCAL_TCP)
    if caller is not None:
        token = grpc.metadata_call_credentials(_LocalToken(caller))
        channel = grpc.composite_channel_credentials(channel, token)
    return grpc.aio.secure_channel(endpoint, channel, options=[("grpc.enable_http_proxy", 0)])


class _LocalToken(grpc.AuthMetadataPlugin):  # type: ignore[misc]  # grpc has no annotations
    """Adds a bearer token and nothing else.

    google-auth's own plugin also asks a Google host about the account; a sandbox must not do that.
    """

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._lock = threading.Lock()

    def __call__(
        self, context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback
    ) -> None:
        del context
        try:
            with self._lock:  # gRPC may call a plugin from several threads
                if not self._credentials.valid:
                    self._credentials.refresh(TokenRequest())  # type: ignore[no-untyped-call]
        except GoogleAuthError as error:
            callback((), error)
            return
        callback((("authorization", f"Bearer {self._credentials.token}"),), None)
