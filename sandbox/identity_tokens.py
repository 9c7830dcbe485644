"""RSA keys and signed tokens of the sandbox's Google: what `/token` gives and takes.

One key pair signs for both parties, the service account and Google itself; nothing but this
process and its clients ever trusts it. google-auth has no annotations, hence the ignored calls.
"""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any, Final, cast

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import crypt, jwt
from google.auth.exceptions import GoogleAuthError

JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
KEY_ID: Final = "sandbox-key-1"
GOOGLE_ISSUER: Final = "https://accounts.google.com"
LIFETIME_SECONDS: Final = 3600


class TokenRefusedError(Exception):
    """A token request that Google's token endpoint answers with HTTP 400."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(description)
        self.error = error
        self.description = description

    def to_json(self) -> dict[str, str]:
        """The OAuth error body."""
        return {"error": self.error, "error_description": self.description}


class SigningKey:
    """An RSA key made at start."""

    def __init__(self) -> None:
        self.private_pem = _new_key()
        key = serialization.load_pem_private_key(self.private_pem.encode(), password=None)
        self._numbers = cast("rsa.RSAPrivateKey", key).public_key().public_numbers()
        self.public_pem = (
            key.public_key()
            .public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            .decode()
        )

    def sign(self, claims: dict[str, Any]) -> str:
        """A compact RS256 JWT."""
        signer = crypt.RSASigner.from_string(self.private_pem, key_id=KEY_ID)  # type: ignore[no-untyped-call]
        return cast("bytes", jwt.encode(signer, claims)).decode()  # type: ignore[no-untyped-call]

    def verify(self, token: str, audience: str | list[str] | None = None) -> dict[str, Any]:
        """The claims of a JWT that this key signed and that is valid now (machine's time).

        Raises:
            ValueError: bad signature, expired, not yet valid, malformed or for someone else.
        """
        try:
            claims = jwt.decode(  # type: ignore[no-untyped-call]
                token, certs={KEY_ID: self.public_pem}, audience=audience
            )
        except GoogleAuthError as error:
            raise ValueError(str(error)) from error
        return dict(claims)

    def identity_token(self, email: str, subject: str, audience: str) -> str:
        """What Google's metadata server or token endpoint would mint for `audience`."""
        now = int(time.time())
        return self.sign(
            {
                "iss": GOOGLE_ISSUER,
                "aud": audience,
                "azp": subject,
                "sub": subject,
                "email": email,
                "email_verified": True,
                "iat": now,
                "exp": now + LIFETIME_SECONDS,
            }
        )

    def jwks(self) -> dict[str, Any]:
        """The public key as a JSON Web Key Set."""
        return {
            "keys": [
                {
                    "kty": "RSA",
                    "alg": "RS256",
                    "use": "sig",
                    "kid": KEY_ID,
                    "n": _base64url(self._numbers.n),
                    "e": _base64url(self._numbers.e),
                }
            ]
        }

    def write_service_account_file(
        self, path: Path, *, email: str, client_id: str, project_id: str, token_uri: str
    ) -> None:
        """A credentials file as the Google Cloud console hands it out, readable by its owner."""
        info = {
            "type": "service_account",
            "project_id": project_id,
            "private_key_id": KEY_ID,
            "private_key": self.private_pem,
            "client_email": email,
            "client_id": client_id,
            "auth_uri": GOOGLE_ISSUER,
            "token_uri": token_uri,
            "universe_domain": "googleapis.com",
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")


def _new_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def _base64url(number: int) -> str:
    size = (number.bit_length() + 7) // 8
    return base64.urlsafe_b64encode(number.to_bytes(size, "big")).rstrip(b"=").decode()
