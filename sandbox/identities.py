"""The callers: fake Google identities, their permissions, keys and tokens.

One key pair signs for both parties, the service account and Google itself; only this process and
its clients trust it. Google's tokens expire by the machine's time, not by the sandbox's movable
clock: google-auth renews them by the machine's time, and would keep sending a token that only the
sandbox considers expired. An assertion for `/token` is checked against the sandbox's clock, so that
a test can give its caller a wrong clock. google-auth has no annotations, hence the ignored types.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import crypt, jwt
from google.auth.exceptions import GoogleAuthError

from cmek.anthropic_identity import MEMBER
from sandbox.errors import SERVICE, GoogleError, error_info
from sandbox.world import Switches

JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
KEY_ID: Final = "sandbox-key-1"
GOOGLE_ISSUER: Final = "https://accounts.google.com"
LIFETIME_SECONDS: Final = 3600
SKEW_SECONDS: Final = 300
"""How far the clock of an assertion's signer may be wrong."""
SHORT_LIVED: Final = (
    "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. "
    "Check your iat and exp values in the JWT claim."
)


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
        # Short: it protects nothing, and OpenSSL checks the key each time credentials are read.
        key = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505
        pem, public = serialization.Encoding.PEM, key.public_key()
        self._numbers = public.public_numbers()
        self.private_pem = key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        self.public_pem = public.public_bytes(
            pem, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode()
        self.certificate_pem = _certificate(key).public_bytes(pem).decode()

    def sign(self, claims: dict[str, Any]) -> str:
        """A compact RS256 JWT."""
        signer = crypt.RSASigner.from_string(self.private_pem, key_id=KEY_ID)  # type: ignore[no-untyped-call]
        return cast("bytes", jwt.encode(signer, claims)).decode()  # type: ignore[no-untyped-call]

    def verify(self, token: str, audience: str | list[str] | None = None) -> dict[str, Any]:
        """The claims of a JWT that this key signed and that is valid by the machine's time.

        Raises:
            ValueError: in any other case, or for another audience.
        """
        try:
            claims = jwt.decode(  # type: ignore[no-untyped-call]
                token, certs={KEY_ID: self.public_pem}, audience=audience
            )
        except GoogleAuthError as error:
            raise ValueError(str(error)) from error
        return dict(claims)

    def jwks(self) -> dict[str, Any]:
        """The public key as a JSON Web Key Set."""
        numbers = {"n": _base64url(self._numbers.n), "e": _base64url(self._numbers.e)}
        facts = {"kty": "RSA", "alg": "RS256", "use": "sig", "kid": KEY_ID}
        return {"keys": [facts | numbers]}


def _certificate(key: rsa.RSAPrivateKey) -> x509.Certificate:
    """Signed by itself, as Google's are, and valid while the sandbox runs."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sandbox")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    dated = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(
        now + timedelta(days=3650)
    )
    return dated.sign(key, hashes.SHA256())


def _base64url(number: int) -> str:
    size = (number.bit_length() + 7) // 8
    return base64.urlsafe_b64encode(number.to_bytes(size, "big")).rstrip(b"=").decode()


PROJECT_ID: Final = "acme-kms-prod"
ADMINISTRATOR_TOKEN: Final = "sandbox-administrator-not-a-real-token"


@dataclass(slots=True)
class Identity:
    """A principal.

    `permissions` is `"all"`, an exact set, or None for what the IAM policies grant to `member`.
    `denied` overrides all of them, as an IAM deny policy does.
    """

    name: str
    member: str
    permissions: frozenset[str] | Literal["all"] | None = None
    denied: set[str] = field(default_factory=set)
    subject: str = ""
    """The numeric unique id that Google puts into `sub` of an identity token."""

    @property
    def email(self) -> str:
        """The address in `member`."""
        return self.member.partition(":")[2]

    def verdict(self, permission: str) -> bool | None:
        """Whether it has `permission` whatever the policies say; None when they decide."""
        if permission in self.denied:
            return False
        if self.permissions == "all":
            return True
        return None if self.permissions is None else permission in self.permissions

    def deny(self, permission: str) -> None:
        """Take one permission away, however it was given."""
        self.denied.add(permission)


class Identities:
    """All identities with their tokens, and who a caller without a token is.

    Three exist from the start: `administrator` and `onboarding` (the service account of the
    credentials file) may do everything; `anthropic` has what the IAM policies grant to Anthropic's
    published service account.
    """

    def __init__(self, switches: Switches, key: SigningKey | None = None) -> None:
        self.switches = switches
        self.key = key or SigningKey()
        self.by_name: dict[str, Identity] = {}
        self.administrator = self.add("administrator", "user:administrator@example.com", "all")
        self.tokens = {ADMINISTRATOR_TOKEN: "administrator"}
        account = f"serviceAccount:cmek@{PROJECT_ID}.iam.gserviceaccount.com"
        self.onboarding = self.add("onboarding", account, "all")
        self.anthropic = self.add("anthropic", MEMBER)

    def add(
        self,
        name: str,
        member: str,
        permissions: frozenset[str] | set[str] | Literal["all"] | None = None,
    ) -> Identity:
        """Make or replace an identity."""
        held = frozenset(permissions) if isinstance(permissions, set) else permissions
        known = self.by_name.get(name)
        subject = known.subject if known else f"1{len(self.by_name):020d}"
        identity = Identity(name, member, held, subject=subject)
        self.by_name[name] = identity
        return identity

    def issue_token(self, identity: Identity) -> str:
        """A new bearer token for `identity`."""
        token = f"sandbox-{identity.name}-{secrets.token_hex(8)}"
        self.tokens[token] = identity.name
        return token

    def resolve(self, bearer: str | None) -> Identity:
        """The owner of a bearer token; without one, by the switch. Raises UNAUTHENTICATED."""
        if bearer is None and self.switches.anonymous_caller == "administrator":
            return self.administrator
        name = self.tokens.get(bearer or "")
        identity = self.by_name[name] if name else self._signed_by(bearer or "")
        if identity is None:
            raise _unauthenticated(missing=bearer is None)
        return identity

    def _signed_by(self, bearer: str) -> Identity | None:
        """The service account that signed its own token: https://google.aip.dev/auth/4111."""
        try:
            claims = self.key.verify(bearer)
        except ValueError:
            return None
        # An assertion for the token endpoint is not an access token.
        assertion = str(claims.get("aud", "")).endswith("/token")
        return None if assertion else self._service_account(claims.get("iss"))

    def _service_account(self, email: object) -> Identity | None:
        """The identity with this address; never Anthropic's, whose private key nobody here has."""
        others = (one for one in self.by_name.values() if one is not self.anthropic)
        return next((one for one in others if one.email == email), None)

    def name_of(self, bearer: str | None) -> str:
        """The caller's name for the log, also when `resolve` would refuse it."""
        try:
            return self.resolve(bearer).name
        except GoogleError:
            return "unauthenticated"

    def service_account_file(self, path: Path, token_uri: str) -> None:
        """Write the `onboarding` identity's credentials file; its tokens come from `token_uri`."""
        info = {
            "type": "service_account",
            "project_id": PROJECT_ID,
            "private_key_id": KEY_ID,
            "private_key": self.key.private_pem,
            "client_email": self.onboarding.email,
            "client_id": self.onboarding.subject,
            "auth_uri": GOOGLE_ISSUER,
            "token_uri": token_uri,
            "universe_domain": "googleapis.com",
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")

    def token_endpoint(self, form: dict[str, str], now: float) -> dict[str, Any]:
        """Google's `/token`: exchange a signed assertion for an access token or an identity token.

        `now` is the service's time, as a Unix time.

        An assertion with the claim `target_audience` gets an `id_token`. Source:
        https://developers.google.com/identity/protocols/oauth2/service-account

        Raises:
            TokenRefusedError: another grant type, a bad assertion, an unknown service account.
        """
        if form.get("grant_type") != JWT_BEARER:
            raise TokenRefusedError("unsupported_grant_type", f"Only {JWT_BEARER} is served.")
        try:
            claims = self.key.verify(form.get("assertion", ""))
        except ValueError as error:
            raise TokenRefusedError("invalid_grant", f"Invalid JWT: {error}") from error
        issued, expires = claims["iat"], claims["exp"]
        if not issued - SKEW_SECONDS <= now < expires + SKEW_SECONDS or (
            expires - issued > LIFETIME_SECONDS
        ):
            raise TokenRefusedError("invalid_grant", SHORT_LIVED)
        identity = self._service_account(claims.get("iss"))
        if identity is None:
            raise TokenRefusedError(
                "invalid_grant", f"Invalid grant: account {claims.get('iss')} not found"
            )
        if audience := claims.get("target_audience"):
            return {"id_token": self.identity_token(identity, audience)}
        return self.access_token(identity)

    def access_token(self, identity: Identity) -> dict[str, Any]:
        """A new bearer token in the form of Google's endpoints."""
        return {
            "access_token": self.issue_token(identity),
            "expires_in": LIFETIME_SECONDS,
            "token_type": "Bearer",
        }

    def identity_token(self, identity: Identity, audience: str) -> str:
        """An identity token in the form of Google's metadata server and token endpoint."""
        now = int(time.time())
        return self.key.sign(
            {
                "iss": GOOGLE_ISSUER,
                "aud": audience,
                "azp": identity.subject,
                "sub": identity.subject,
                "email": identity.email,
                "email_verified": True,
                "iat": now,
                "exp": now + LIFETIME_SECONDS,
            }
        )


def bearer_of(authorization: str | None) -> str | None:
    """The token in an `Authorization` header, or None without one."""
    if not authorization:
        return None
    scheme, _, token = authorization.partition(" ")
    # another scheme is not the same as no header: as an unknown token it is refused
    return token.strip() if scheme.lower() == "bearer" else authorization


def _unauthenticated(*, missing: bool) -> GoogleError:
    problem, reason = (
        ("is missing required authentication credential", "CREDENTIALS_MISSING")
        if missing
        else ("had invalid authentication credentials", "ACCESS_TOKEN_INVALID")
    )
    return GoogleError(
        "UNAUTHENTICATED",
        f"Request {problem}. Expected OAuth 2 access token, login cookie or other valid "
        "authentication credential. See https://cloud.google.com/docs/authentication.",
        [error_info(reason, service=SERVICE)],
    )
