"""Signed webhooks and pushes, as Anthropic and Pub/Sub send them, and a server of certificates."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from google.auth import crypt, jwt

from tests.support.web_server import QuietHandler, serving

SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ORGANIZATION: Final = "3f1c9a52-7d4e-4b8a-9c60-2e5d8f7a1b34"
AUDIENCE: Final = "https://cmek.example.com/pubsub"
ACCOUNT: Final = "cmek-push@acme-kms-prod.iam.gserviceaccount.com"
ISSUER: Final = "https://accounts.google.com"


def webhook(
    external_key_id: str,
    kind: str = "external_key.failed",
    *,
    secret: str = SECRET,
    sent: str = "evt_01",
    at: float | None = None,
) -> tuple[dict[str, str], bytes]:
    """Headers and body of one delivery."""
    data = {"type": kind, "id": external_key_id, "organization_id": ORGANIZATION}
    event = {"type": "event", "id": sent, "created_at": "2026-11-26T17:20:03.1Z", "data": data}
    body = json.dumps(event, separators=(",", ":")).encode()
    stamp = str(int(time.time() if at is None else at))
    key = base64.b64decode(secret.removeprefix("whsec_") + "==")
    signed = f"{sent}.{stamp}.".encode() + body
    signature = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return {
        "webhook-id": sent,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1a,other v1,{signature}",
    }, body


def push(
    method: str, resource: str, *, service: str = "cloudkms.googleapis.com", sent: str = "1"
) -> bytes:
    """The body of one push."""
    entry = {
        "logName": "projects/acme-kms-prod/logs/cloudaudit.googleapis.com%2Factivity",
        "protoPayload": {"serviceName": service, "methodName": method, "resourceName": resource},
    }
    data = base64.b64encode(json.dumps(entry).encode()).decode()
    message = {"data": data, "messageId": sent, "message_id": sent}
    return json.dumps({"message": message, "subscription": "projects/p/subscriptions/s"}).encode()


@dataclass
class Google:
    """Signs OIDC tokens, and serves the certificate."""

    certs_url: str
    key: Any
    fetched: list[str] = field(default_factory=list)

    def token(self, **claims: Any) -> dict[str, str]:
        """The header of a push; `claims` replace those of the real subscription."""
        now = int(time.time())
        payload = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "email": ACCOUNT,
            "email_verified": True,
            "sub": "1",
            "iat": now,
            "exp": now + 3600,
        } | claims
        pem = self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
        signing: Any = crypt.RSASigner
        encode: Any = jwt.encode
        token = encode(signing.from_string(pem, "key-1"), payload).decode()
        return {"authorization": f"Bearer {token}"}


@contextmanager
def google() -> Iterator[Google]:
    """A key that signs as Google's do, and a server of its certificate on loopback."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "google")])
    day = timedelta(days=1)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.now(UTC) - day)
        .not_valid_after(datetime.now(UTC) + day)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM).decode()
    fetched: list[str] = []

    class Certificates(QuietHandler):
        def do_GET(self) -> None:
            fetched.append(self.path)
            self.reply(200, json.dumps({"key-1": pem}).encode())

    with serving(Certificates) as address:
        yield Google(f"{address}/oauth2/v1/certs", key, fetched)
