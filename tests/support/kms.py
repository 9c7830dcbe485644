"""The official Cloud KMS client for the sandbox, over each of its transports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
from google.auth.credentials import AnonymousCredentials
from google.cloud import kms_v1
from google.cloud.kms_v1.services.key_management_service.transports import (
    KeyManagementServiceGrpcAsyncIOTransport,
    KeyManagementServiceGrpcTransport,
)
from google.iam.v1 import iam_policy_pb2, options_pb2, policy_pb2
from google.oauth2.credentials import Credentials

from cli.local.sandbox import SandboxAddress
from cmek.anthropic_identity import MEMBER
from sandbox.server import Sandbox
from sandbox.world import World

Client = kms_v1.KeyManagementServiceClient
Purpose = kms_v1.CryptoKey.CryptoKeyPurpose
State = kms_v1.CryptoKeyVersion.CryptoKeyVersionState
Level = kms_v1.ProtectionLevel
PROJECT = "projects/acme-kms-prod"
LOCATION = f"{PROJECT}/locations/us-east5"
NO_RETRY: dict[str, Any] = {"retry": None, "timeout": 10}


def grpc_client(sandbox: Sandbox | SandboxAddress, token: str | None = None) -> Client:
    """A client over gRPC; call credentials send the token, and need local channel credentials."""
    channel = grpc.insecure_channel(sandbox.grpc)
    if token:
        credentials = grpc.composite_channel_credentials(
            grpc.local_channel_credentials(grpc.LocalConnectionType.LOCAL_TCP),
            grpc.access_token_call_credentials(token),
        )
        channel = grpc.secure_channel(sandbox.grpc, credentials)
    return Client(transport=KeyManagementServiceGrpcTransport(channel=channel))


def rest_client(sandbox: Sandbox, token: str | None = None) -> Client:
    """A client over HTTP and JSON."""
    # google-auth's constructors have no types
    credentials = Credentials(token) if token else AnonymousCredentials()  # type: ignore[no-untyped-call]
    options = {"api_endpoint": sandbox.http}
    return Client(credentials=credentials, transport="rest", client_options=options)


def async_client(sandbox: Sandbox) -> kms_v1.KeyManagementServiceAsyncClient:
    """A client over gRPC for asyncio; make and use it inside one event loop."""
    channel = grpc.aio.insecure_channel(sandbox.grpc)
    transport = KeyManagementServiceGrpcAsyncIOTransport(channel=channel)
    return kms_v1.KeyManagementServiceAsyncClient(transport=transport)


@dataclass(slots=True)
class Kms:
    """An empty sandbox and clients of its administrator."""

    sandbox: Sandbox
    grpc: Client
    rest: Client

    @property
    def world(self) -> World:
        """The sandbox's state."""
        return self.sandbox.world

    def ring(self, ring_id: str = "ring", parent: str = LOCATION) -> str:
        """Create a key ring; returns its name."""
        request = kms_v1.CreateKeyRingRequest(parent=parent, key_ring_id=ring_id)
        return self.grpc.create_key_ring(request).name

    def key(
        self, key_id: str = "key", *, ring: str | None = None, **fields: Any
    ) -> kms_v1.CryptoKey:
        """Create a key of purpose ENCRYPT_DECRYPT, in a new ring unless one is given."""
        skip = fields.pop("skip_initial_version_creation", False)
        return self.grpc.create_crypto_key(
            request={
                "parent": ring or self.ring(),
                "crypto_key_id": key_id,
                "crypto_key": {"purpose": Purpose.ENCRYPT_DECRYPT} | fields,
                "skip_initial_version_creation": skip,
            },
            **NO_RETRY,
        )

    def set_state(self, version: str, state: int) -> kms_v1.CryptoKeyVersion:
        """Enable or disable a version."""
        changed = kms_v1.CryptoKeyVersion(name=version, state=state)
        return self.grpc.update_crypto_key_version(
            crypto_key_version=changed, update_mask={"paths": ["state"]}, **NO_RETRY
        )

    def policy(self, resource: str, version: int = 3) -> policy_pb2.Policy:
        """The resource's policy as a reader of `version` sees it."""
        options = options_pb2.GetPolicyOptions(requested_policy_version=version)
        request = iam_policy_pb2.GetIamPolicyRequest(resource=resource, options=options)
        return self.grpc.get_iam_policy(request, timeout=10)

    def write(self, resource: str, policy: policy_pb2.Policy) -> policy_pb2.Policy:
        """Set exactly this policy, with its etag."""
        request = iam_policy_pb2.SetIamPolicyRequest(resource=resource, policy=policy)
        return self.grpc.set_iam_policy(request, timeout=10)

    def grant(self, resource: str, role: str, member: str = MEMBER, condition: str = "") -> None:
        """Add one binding by a read-modify-write."""
        policy = self.policy(resource)
        binding = policy.bindings.add(role=role, members=[member])
        if condition:
            binding.condition.title = "condition"
            binding.condition.expression = condition
        policy.version = 3
        self.write(resource, policy)

    def token(self, name: str, permissions: set[str] | None = None) -> str:
        """A bearer token of a new identity that has these permissions (None: by policies)."""
        identities = self.world.identities
        identity = identities.add(name, f"user:{name}@example.com", permissions)
        return identities.issue_token(identity)
