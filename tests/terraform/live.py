"""What the stand-in reads and writes: the sandbox's Cloud KMS over REST."""

from __future__ import annotations

from typing import Any

import httpx

State = dict[str, Any]


class LiveState:
    """Resources as they are, in the form of Terraform state."""

    def __init__(self, base_url: str, *, labels_on_import: bool) -> None:
        self._http = httpx.Client(base_url=f"{base_url}/v1/", timeout=10, trust_env=False)
        self._labels_on_import = labels_on_import

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def read(self, kind: str, state: State) -> State | None:
        """The live resource with this id; None when there is none."""
        if kind == "google_kms_crypto_key_iam_member":
            return self._member(state)
        found = self._get(state["id"])
        if found is None:
            return None
        if kind == "google_kms_key_ring":
            _, project, _, location, _, name = state["id"].split("/")
            return state | {"project": project, "location": location, "name": name}
        if kind == "google_kms_crypto_key":
            return state | self._crypto_key(found, state)
        raise NotImplementedError(f"{kind} has no counterpart in the sandbox")

    def _crypto_key(self, key: dict[str, Any], state: State) -> State:
        ring, _, name = key["name"].partition("/cryptoKeys/")
        labels = key.get("labels", {})
        known = state.get("labels")
        if known is None and self._labels_on_import:
            known = labels
        managed = {one: labels[one] for one in known or {} if one in labels}
        return {
            "name": name,
            "key_ring": ring,
            "purpose": key["purpose"],
            "rotation_period": key.get("rotationPeriod"),
            "destroy_scheduled_duration": key["destroyScheduledDuration"],
            "import_only": key.get("importOnly", False),
            "crypto_key_backend": key.get("cryptoKeyBackend", ""),
            "labels": managed,
            "terraform_labels": managed,
            "effective_labels": labels,
            "primary": [
                {"name": one["name"], "state": one["state"]}
                for one in [key.get("primary")]
                if one is not None
            ],
            "version_template": [
                {
                    "algorithm": key["versionTemplate"]["algorithm"],
                    "protection_level": key["versionTemplate"]["protectionLevel"],
                }
            ],
        }

    def _member(self, state: State) -> State | None:
        key, role, member = state["id"].split(" ")
        policy = self._policy(key)
        for binding in policy.get("bindings", []):
            same = binding["role"] == role and "condition" not in binding
            if same and member in binding["members"]:
                found = {"crypto_key_id": key, "role": role, "member": member, "condition": []}
                return state | found | {"etag": policy["etag"]}
        return None

    def add_member(self, planned: State) -> State:
        """Add one member to one role, as the Terraform resource does."""
        key, role, member = planned["crypto_key_id"], planned["role"], planned["member"]
        policy = self._policy(key)
        policy.setdefault("bindings", []).append({"role": role, "members": [member]})
        self._send("POST", f"{key}:setIamPolicy", {"policy": policy | {"version": 3}})
        state = self._member(planned | {"id": f"{key} {role} {member}"})
        assert state is not None
        return state

    def update_key(self, before: State, planned: State) -> State:
        """Write the changed fields; nothing if only Terraform's own bookkeeping has changed."""
        change: dict[str, Any] = {}
        if planned["rotation_period"] != before["rotation_period"]:
            change["rotationPeriod"] = planned["rotation_period"]
        if planned["effective_labels"] != before["effective_labels"]:
            change["labels"] = planned["effective_labels"]
        if change:
            self._send("PATCH", f"{planned['id']}?updateMask={','.join(change)}", change)
        state = self.read("google_kms_crypto_key", planned)
        assert state is not None
        return state

    def _policy(self, key: str) -> dict[str, Any]:
        query = "options.requestedPolicyVersion=3"
        return self._send("GET", f"{key}:getIamPolicy?{query}")

    def _get(self, name: str) -> dict[str, Any] | None:
        response = self._http.get(name)
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        return self._json(response)

    def _send(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        return self._json(self._http.request(method, path, json=body))

    @staticmethod
    def _json(response: httpx.Response) -> dict[str, Any]:
        assert response.is_success, response.text
        found: dict[str, Any] = response.json()
        return found
