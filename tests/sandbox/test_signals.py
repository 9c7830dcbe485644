"""Webhooks and audit log pushes, received and verified by third-party code.

The official Anthropic SDK registers endpoints and verifies their deliveries; google-auth verifies
the token of a push, and Google's discovery document of Cloud Logging the entry.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import anthropic
import google.auth.transport.requests
import pytest
from google.cloud import kms_v1
from google.oauth2 import id_token
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from cmek.anthropic_identity import MEMBER, ROLES
from sandbox import signals
from tests.support.admin import KEY_RING, Admin
from tests.support.discovery import discovery
from tests.support.kms import State, grpc_client
from tests.support.sandbox import SandboxProcess, sandbox_process
from tests.support.waiting import wait_until
from tests.support.web_server import QuietHandler, serving

EVENTS = ["external_key.failed", "external_key.recovered"]
KEY = f"{KEY_RING}/cryptoKeys/claude-prod"
VERSION = f"{KEY}/cryptoKeyVersions/1"


@dataclass
class Receiver:
    """A server on loopback that stores what it gets; the first `refusals` messages get 503."""

    url: str = ""
    refusals: int = 0
    got: list[tuple[dict[str, str], str]] = field(default_factory=list)

    def expect(self, count: int = 1) -> list[tuple[dict[str, str], str]]:
        """The first `count` messages."""
        wait_until(lambda: len(self.got) >= count, f"{count} messages", seconds=10)
        return self.got[:count]


@contextmanager
def _receiving() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(QuietHandler):
        def do_POST(self) -> None:
            """Store the message."""
            body = self.body().decode()
            receiver.got.append(({k.lower(): v for k, v in self.headers.items()}, body))
            self.send_response(503 if len(receiver.got) <= receiver.refusals else 204)
            self.end_headers()

    with serving(Handler) as address:
        receiver.url = f"{address}/hook"
        yield receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver of messages."""
    with _receiving() as one:
        yield one


@pytest.fixture
def attached(admin: Admin) -> Admin:
    """An organization in which a workspace has a working key."""
    assert admin.attach(admin.fresh(), admin.working_key()).status_code == 200
    return admin


def _sdk(admin: Admin | SandboxProcess) -> anthropic.Anthropic:
    sandbox = admin.sandbox if isinstance(admin, Admin) else admin
    return anthropic.Anthropic(base_url=sandbox.http, api_key=sandbox.admin_key, max_retries=0)


def _disable(admin: Admin, version: str = VERSION, state: str = "DISABLED") -> None:
    admin.google("PATCH", version, {"state": state}, updateMask="state")


def _events(receiver: Receiver, count: int) -> list[str]:
    return [json.loads(body)["data"]["type"] for _, body in receiver.expect(count)]


def test_the_official_sdk_registers_an_endpoint_and_verifies_what_it_gets(
    attached: Admin, receiver: Receiver
) -> None:
    client = _sdk(attached)
    webhooks = client.beta.organization.webhooks
    made = webhooks.create(url=receiver.url, enabled_events=["external_key.failed"], name="watch")
    _disable(attached)
    ((headers, body),) = receiver.expect()
    event = client.beta.webhooks.unwrap(body, headers=headers, key=made.signing_secret)
    assert event.data.type == "external_key.failed"
    (key,) = client.organization.external_keys.list()
    assert event.data.id == key.id
    assert event.data.organization_id == attached.sandbox.organization_id
    assert event.id == headers["webhook-id"]
    with pytest.raises(WebhookVerificationError):
        client.beta.webhooks.unwrap(body + " ", headers=headers, key=made.signing_secret)


def test_endpoints_are_read_changed_and_deleted_as_the_sdk_types_them(
    admin: Admin, receiver: Receiver
) -> None:
    webhooks = _sdk(admin).beta.organization.webhooks
    made = webhooks.create(url=receiver.url, enabled_events=["external_key.failed"])
    assert made.signing_secret.startswith("whsec_")
    shown = webhooks.retrieve(made.id)
    assert shown.model_dump() == made.model_dump(exclude={"signing_secret"})
    assert [one.id for one in webhooks.list()] == [made.id]
    changed = webhooks.update(made.id, state="disabled", enabled_events=[], description="d")
    assert (changed.state, changed.description) == ("disabled", "d")
    assert changed.enabled_events == ["external_key.failed"]
    again = webhooks.regenerate_signing_secret(made.id)
    assert again.signing_secret != made.signing_secret
    assert webhooks.delete(made.id).type == "webhook_endpoint_deleted"
    with pytest.raises(anthropic.NotFoundError):
        webhooks.retrieve(made.id)


def test_an_endpoint_elsewhere_or_without_the_beta_is_refused(admin: Admin) -> None:
    body = {"url": "https://example.com/hook", "enabled_events": EVENTS}
    assert admin.call("POST", "webhooks", body).status_code == 404
    webhooks = _sdk(admin).beta.organization.webhooks
    for url in (body["url"], "http://127.0.0.1.example.com/", "ftp://127.0.0.1/"):
        with pytest.raises(anthropic.BadRequestError, match="loopback"):
            webhooks.create(url=str(url), enabled_events=["external_key.failed"])
    admin.control.switches(organization_webhooks=False)
    with pytest.raises(anthropic.NotFoundError):
        webhooks.list()


@pytest.mark.parametrize(
    ("break_it", "mend_it"),
    [
        (
            _disable,
            lambda admin: _disable(admin, state="ENABLED"),
        ),
        (lambda admin: admin.bind(KEY, ()), lambda admin: admin.bind(KEY, ROLES)),
        (
            lambda admin: admin.control.constraints(perimeter_blocks="anthropic"),
            lambda admin: admin.control.constraints(perimeter_blocks="nobody"),
        ),
        (
            lambda admin: admin.control.switches(kms_api_enabled=False),
            lambda admin: admin.control.switches(kms_api_enabled=True),
        ),
        (
            lambda admin: admin.google("PATCH", KEY, {"labels": {}}, updateMask="labels"),
            lambda admin: admin.google(
                "PATCH",
                KEY,
                {"labels": {f"anthropic-org-{admin.sandbox.organization_id}": "true"}},
                updateMask="labels",
            ),
        ),
    ],
    ids=["version disabled", "grants removed", "perimeter", "API off", "label removed"],
)
def test_whatever_breaks_a_key_in_use_is_sent_once_and_so_is_its_recovery(
    attached: Admin, receiver: Receiver, break_it: Any, mend_it: Any
) -> None:
    hook = _sdk(attached).beta.organization.webhooks
    hook.create(url=receiver.url, enabled_events=["external_key.failed", "external_key.recovered"])
    break_it(attached)
    assert _events(receiver, 1) == ["external_key.failed"]
    attached.control.advance(1)  # the keys are checked again: nothing is new
    mend_it(attached)
    assert _events(receiver, 2) == EVENTS
    assert len(attached.world.signals.deliveries) == 2


def test_nothing_is_sent_about_a_key_that_no_workspace_uses(
    attached: Admin, receiver: Receiver
) -> None:
    hook = _sdk(attached).beta.organization.webhooks
    hook.create(url=receiver.url, enabled_events=["external_key.failed"])
    attached.working_key("idle")
    _disable(attached, f"{KEY_RING}/cryptoKeys/idle/cryptoKeyVersions/1")
    _disable(attached)
    ((_, body),) = receiver.expect()
    (sent,) = attached.world.signals.deliveries
    assert json.loads(body)["data"]["type"] == sent.name == "external_key.failed"


def test_time_that_passes_breaks_a_key_too(attached: Admin, receiver: Receiver) -> None:
    hook = _sdk(attached).beta.organization.webhooks
    soon = "request.time < timestamp('2126-01-01T00:00:00Z')"
    attached.bind(KEY, ROLES, condition={"title": "until", "expression": soon})
    hook.create(url=receiver.url, enabled_events=["external_key.failed"])
    attached.control.advance(101 * 366 * 86400.0)
    assert _events(receiver, 1) == ["external_key.failed"]


def test_an_unanswered_delivery_is_repeated_with_its_id_and_a_signature_of_its_own(
    attached: Admin, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "PAUSES_SECONDS", (0.0, 0.05, 0.05, 0.05))
    made = _sdk(attached).beta.organization.webhooks.create(
        url=receiver.url, enabled_events=["external_key.failed"]
    )
    receiver.refusals = 2
    _disable(attached)
    got = receiver.expect(3)
    assert len({headers["webhook-id"] for headers, _ in got}) == 1
    for headers, body in got:
        Webhook(made.signing_secret).verify(body, headers)
    (told,) = attached.world.signals.deliveries
    wait_until(lambda: told.status == "204", "delivered", 5)
    assert told.tries == 3


def _entry(body: str) -> dict[str, Any]:
    entry: dict[str, Any] = json.loads(base64.b64decode(json.loads(body)["message"]["data"]))
    return entry


def test_a_push_carries_the_audit_log_entry_and_a_token_that_google_auth_verifies(
    attached: Admin, receiver: Receiver
) -> None:
    attached.control.signals(push_url=receiver.url, push_audience="cmek-listen")
    _disable(attached)
    ((headers, body),) = receiver.expect()
    request = google.auth.transport.requests.Request()
    claims = id_token.verify_token(
        headers["authorization"].removeprefix("Bearer "),
        request,
        audience="cmek-listen",
        certs_url=f"{attached.sandbox.http}/oauth2/v1/certs",
    )
    assert claims["iss"] == "https://accounts.google.com"
    assert (claims["email"], claims["email_verified"]) == (
        "cmek-push@acme-kms-prod.iam.gserviceaccount.com",
        True,
    )
    entry = _entry(body)
    payload = entry["protoPayload"]
    assert payload["methodName"] == "UpdateCryptoKeyVersion"
    assert payload["resourceName"] == VERSION
    assert payload["request"]["cryptoKeyVersion"]["state"] == "DISABLED"
    assert payload["authorizationInfo"][0]["permission"] == "cloudkms.cryptoKeyVersions.update"
    assert entry["resource"]["type"] == "cloudkms_cryptokeyversion"
    assert attached.control.audit()[-1] == entry


def test_each_write_leaves_one_entry_of_the_shape_that_google_documents(admin: Admin) -> None:
    """The shape is `LogEntry` of Cloud Logging's document; reads and refusals leave no entry."""
    key = admin.crypto_key()
    admin.google("GET", key)
    _disable(admin)
    admin.http.patch(f"/v1/{VERSION}", json={}, params={"updateMask": "state"})
    policy = {"policy": {"bindings": [{"role": ROLES[0], "members": [MEMBER]}]}}
    admin.google("POST", f"{key}:setIamPolicy", policy)
    admin.http.post("/v3/projects/acme-kms-prod:setIamPolicy", json=policy).raise_for_status()
    admin.control.switches(kms_api_enabled=False)
    entries = admin.control.audit()
    document = discovery("logging.v2")
    for entry in entries:
        assert document.misfits("LogEntry", entry) == []
    assert [
        (one["protoPayload"]["methodName"].rpartition(".")[2], one["resource"]["type"])
        for one in entries
    ] == [
        ("CreateKeyRing", "cloudkms_keyring"),
        ("CreateCryptoKey", "cloudkms_cryptokey"),
        ("SetIamPolicy", "cloudkms_cryptokey"),
        ("UpdateCryptoKeyVersion", "cloudkms_cryptokeyversion"),
        ("SetIamPolicy", "cloudkms_cryptokey"),
        ("SetIamPolicy", "project"),
        ("DisableService", "audited_resource"),
    ]


def test_the_transport_of_a_call_does_not_show_in_its_entry(admin: Admin) -> None:
    """GRPC and HTTP carry the same request; the log has one message for both."""
    admin.crypto_key()
    _disable(admin)
    by_http = admin.control.audit()[-1]["protoPayload"]["request"]
    grpc_client(admin.sandbox).update_crypto_key_version(
        crypto_key_version=kms_v1.CryptoKeyVersion(name=VERSION, state=State.DISABLED),
        update_mask={"paths": ["state"]},
    )
    assert admin.control.audit()[-1]["protoPayload"]["request"] == by_http


def test_the_command_line_registers_both(receiver: Receiver, tmp_path: Any) -> None:
    secret = tmp_path / "secret"
    secret.write_text("whsec_c2FuZGJveC1zZWNyZXQ=\n")
    command = ["--webhook-url", receiver.url, "--webhook-secret-file", str(secret)]
    command += ["--push-url", receiver.url, "--push-account", "a@b.example"]
    with sandbox_process(*command) as sandbox:
        sandbox.control.constraints(perimeter_blocks="everybody")
        ((headers, body),) = receiver.expect()
        Webhook(secret.read_text().strip()).verify(body, headers)
        push = sandbox.control.signals()["push"]
        assert (push["push_url"], push["push_account"]) == (receiver.url, "a@b.example")


def test_nothing_is_sent_beyond_loopback(admin: Admin) -> None:
    with pytest.raises(AssertionError, match="loopback"):
        admin.control.signals(push_url="http://10.0.0.1/")
