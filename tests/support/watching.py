"""`cmek listen` for a stack, changes of a key, and a receiver of notifications."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from google.cloud import kms_v1

from tests.support.command import CMEK
from tests.support.kms import NO_RETRY, State, grpc_client
from tests.support.server import free_port
from tests.support.stack import Stack
from tests.support.waiting import wait_until
from tests.support.web_server import serving


@dataclass
class Sink:
    """What a webhook received."""

    url: str
    messages: list[dict[str, Any]] = field(default_factory=list)

    def wait_for(self, word: str, about: str, seconds: float = 30) -> str:
        """The body of the first message with this word in its subject and `about` in its body.

        Other tests on the same stack, and its schedules, cause notifications as well.
        """
        found = wait_until(
            lambda: next(
                (m for m in self.messages if word in m["subject"] and about in m["body"]), None
            ),
            f"notified of {word!r} about {about!r}",
            seconds,
        )
        return str(found["body"])


@contextmanager
def webhook_sink() -> Iterator[Sink]:
    """A web server that stores what is posted to it."""
    messages: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            messages.append(json.loads(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Log nothing."""

    with serving(Handler) as address:
        yield Sink(f"{address}/", messages)


@dataclass
class Listening:
    """`cmek listen` as a process, and the sandbox's two senders."""

    stack: Stack
    url: str
    webhook: str

    def only(self, source: str) -> None:
        """Let only this sender send; with any other name neither of them sends."""
        state = "enabled" if source == "webhook" else "disabled"
        webhooks(self.stack, "POST", f"/{self.webhook}", {"state": state})
        push = f"{self.url}/pubsub" if source == "audit log" else None
        self.stack.control.signals(push_url=push, push_audience=f"{self.url}/pubsub")


def webhooks(stack: Stack, method: str, path: str, body: object) -> dict[str, Any]:
    sandbox = stack.local.sandbox
    headers = {
        "x-api-key": sandbox.admin_key,
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "webhooks-2026-10-07",
    }
    with httpx.Client(base_url=sandbox.http, headers=headers, trust_env=False) as api:
        response = api.request(method, f"/v1/organizations/webhooks{path}", json=body)
    return dict(response.raise_for_status().json())


@contextmanager
def listening(stack: Stack, tmp_path: Path) -> Iterator[Listening]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    body = {
        "url": f"{url}/webhook",
        "enabled_events": ["external_key.failed", "external_key.recovered"],
    }
    made = webhooks(stack, "POST", "", body)
    secret = tmp_path / "secret"
    secret.write_text(made["signing_secret"])
    push = {
        "audience": f"{url}/pubsub",
        "account": "cmek-push@acme-kms-prod.iam.gserviceaccount.com",
        "certs-url": f"{stack.local.sandbox.http}/oauth2/v1/certs",
    }
    options = [f"--push-{name}={value}" for name, value in push.items()]
    command = [CMEK, "listen", f"--port={port}", f"--webhook-secret-file={secret}", *options]
    with (tmp_path / "listen.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=dict(stack.local.environment), stdout=log, stderr=log
        )
    try:
        wait_until(lambda: _answers(url), f"listening: {(tmp_path / 'listen.log').read_text()}")
        yield Listening(stack, url, made["id"])
    finally:
        process.terminate()
        process.wait(10)
        stack.control.signals(push_url=None)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", trust_env=False).is_success
    except httpx.TransportError:
        return False


def change_key(stack: Stack, name: str, *, enabled: bool) -> None:
    """Disable or enable the first version, and set a rotation, which the sample key lacks."""
    kms = grpc_client(stack.local.sandbox)
    state = State.ENABLED if enabled else State.DISABLED
    version = kms_v1.CryptoKeyVersion(name=f"{name}/cryptoKeyVersions/1", state=state)
    kms.update_crypto_key_version(
        crypto_key_version=version, update_mask={"paths": ["state"]}, **NO_RETRY
    )
    rotation = kms_v1.CryptoKey(
        name=name,
        rotation_period=timedelta(days=90),
        next_rotation_time=datetime.now(UTC) + timedelta(days=80),
    )
    paths = ["rotation_period", "next_rotation_time"]
    kms.update_crypto_key(crypto_key=rotation, update_mask={"paths": paths}, **NO_RETRY)


def webhook_block(stack: Stack, sink: Sink) -> str:
    """Make a notification block through the API, as the UI does; returns its name."""
    kind = stack.client.read_block_type_by_slug("custom-webhook")
    (schema,) = stack.client.request(
        "POST",
        "/block_schemas/filter",
        json={"block_schemas": {"block_type_id": {"any_": [str(kind.id)]}}},
    ).json()[:1]
    name = f"people-{uuid4().hex[:8]}"
    document = {
        "name": name,
        "block_type_id": str(kind.id),
        "block_schema_id": schema["id"],
        "data": {
            "name": "people",
            "url": sink.url,
            "json_data": {"subject": "{{subject}}", "body": "{{body}}"},
        },
    }
    stack.client.request("POST", "/block_documents/", json=document).raise_for_status()
    return f"custom-webhook/{name}"
