"""An Admin API to call and a Cloud KMS key to register, for the sandbox's own tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from cmek.anthropic_identity import MEMBER, ROLES
from cmek.names import organization_label
from sandbox.server import Sandbox
from sandbox.world import World
from tests.support.sandbox import SandboxControl, running

LOCATION = "projects/acme-kms-prod/locations/us-east5"
KEY_RING = f"{LOCATION}/keyRings/anthropic-cmek"


@dataclass(slots=True)
class Admin:
    """A running sandbox, called with its Admin key."""

    sandbox: Sandbox
    control: SandboxControl
    http: httpx.Client

    @property
    def world(self) -> World:
        """The sandbox's state."""
        return self.sandbox.world

    def call(self, method: str, path: str, body: object = None, **query: Any) -> httpx.Response:
        """One call below `/v1/organizations`."""
        return self.http.request(method, f"/v1/organizations/{path}", json=body, params=query)

    def ok(self, method: str, path: str, body: object = None, **query: Any) -> dict[str, Any]:
        """The JSON of a call that must succeed."""
        return _successful(self.call(method, path, body, **query))

    def fresh(self) -> str:
        """A workspace without a key."""
        return next(one["id"] for one in self.sandbox.workspaces if one["state"] == "fresh")

    def in_state(self, state: str) -> str:
        """The sample workspace in that state."""
        return next(one["id"] for one in self.sandbox.workspaces if one["state"] == state)

    def register(self, key_name: str | None = None, **fields: Any) -> str:
        """Create an external key; returns its id."""
        config = {"type": "gcp", "key_name": key_name or f"{KEY_RING}/cryptoKeys/claude-prod"}
        return str(self.ok("POST", "external_keys", {"provider_config": config, **fields})["id"])

    def google(self, method: str, path: str, body: object = None, **query: str) -> dict[str, Any]:
        """The JSON of a Cloud KMS call that must succeed."""
        return _successful(self.http.request(method, f"/v1/{path}", json=body, params=query))

    def crypto_key(
        self,
        key_id: str = "claude-prod",
        *,
        location: str = "us-east5",
        roles: tuple[str, ...] = ROLES,
        **fields: Any,
    ) -> str:
        """Create a crypto key that by default passes validation; returns its name."""
        label, value = organization_label(self.sandbox.organization_id)
        parent = f"projects/acme-kms-prod/locations/{location}"
        rings = self.google("GET", f"{parent}/keyRings").get("keyRings", [])
        ring = f"{parent}/keyRings/anthropic-cmek"
        if ring not in {one["name"] for one in rings}:
            self.google("POST", f"{parent}/keyRings", {}, keyRingId="anthropic-cmek")
        body = {"purpose": "ENCRYPT_DECRYPT", "labels": {label: value}} | fields
        name = str(self.google("POST", f"{ring}/cryptoKeys", body, cryptoKeyId=key_id)["name"])
        if roles:
            self.bind(name, roles)
        return name

    def bind(self, key_name: str, roles: tuple[str, ...], **binding: Any) -> None:
        """Replace the key's policy by bindings of these roles to Anthropic."""
        bindings = [{"role": role, "members": [MEMBER], **binding} for role in roles]
        policy = {"version": 3, "bindings": bindings}
        self.google("POST", f"{key_name}:setIamPolicy", {"policy": policy})

    def working_key(self, key_id: str = "claude-prod", **fields: Any) -> str:
        """Create an external key whose crypto key passes validation; returns its id."""
        return self.register(self.crypto_key(key_id), **fields)

    def attach(self, workspace_id: str, external_key_id: str, **fields: Any) -> httpx.Response:
        """Try to attach."""
        body = {"external_key_id": external_key_id, **fields}
        return self.call("POST", f"workspaces/{workspace_id}", body)


def _successful(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def error_code(response: httpx.Response) -> str | None:
    """`error.details.error_code` of a refusal."""
    code: str | None = response.json()["error"].get("details", {}).get("error_code")
    return code


@contextmanager
def running_admin(**options: Any) -> Iterator[Admin]:
    """A sandbox in this process and a client with the Admin key."""
    with running(**options) as (sandbox, control):
        headers = {"x-api-key": sandbox.admin_key, "anthropic-version": "2023-06-01"}
        with httpx.Client(base_url=sandbox.http, headers=headers, trust_env=False) as http:
            yield Admin(sandbox, control, http)
