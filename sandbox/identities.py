"""Who calls: fake Google identities, their bearer tokens and what they may do.

Google tokens and assertions expire by the machine's time, not by the sandbox's movable clock:
google-auth decides by the machine's time when to renew them, and would go on sending a token that
only the sandbox thinks stale.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from cmek.anthropic_identity import MEMBER
from sandbox.errors import GoogleError
from sandbox.identity_tokens import JWT_BEARER, LIFETIME_SECONDS, SigningKey, TokenRefusedError
from sandbox.switches import Switches

PROJECT_ID: Final = "acme-kms-prod"
ADMINISTRATOR_TOKEN: Final = "sandbox-administrator-not-a-real-token"
CREDENTIAL_HELP: Final = "https://cloud.google.com/docs/authentication"


@dataclass(slots=True)
class Identity:
    """A principal.

    `permissions` is `"all"`, an exact set, or None: whatever the IAM policies grant to `member`.
    `denied` wins over all of them, as an IAM deny policy does.
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
        """Yes or no without looking at policies; None when the policies decide."""
        if permission in self.denied:
            return False
        if self.permissions == "all":
            return True
        return None if self.permissions is None else permission in self.permissions

    def deny(self, permission: str) -> None:
        """Take one permission away, however it was given."""
        self.denied.add(permission)


class Identities:
    """Names, tokens, and who an anonymous caller is.

    Three stand there from the start: `administrator` and `onboarding` (the service account of the
    credentials file) may do everything; `anthropic` has what the IAM policies grant to Anthropic's
    published service account.
    """

    def __init__(
        self, switches: Switches, project_id: str = PROJECT_ID, key: SigningKey | None = None
    ) -> None:
        self.switches = switches
        self.project_id = project_id
        self.key = key or SigningKey()
        self.by_name: dict[str, Identity] = {}
        self.tokens: dict[str, str] = {}
        self.administrator = self.add(
            "administrator", "user:administrator@example.com", "all", token=ADMINISTRATOR_TOKEN
        )
        self.onboarding = self.add(
            "onboarding", f"serviceAccount:cmek@{project_id}.iam.gserviceaccount.com", "all"
        )
        self.anthropic = self.add("anthropic", MEMBER)

    def add(
        self,
        name: str,
        member: str,
        permissions: frozenset[str] | set[str] | Literal["all"] | None = None,
        *,
        token: str | None = None,
    ) -> Identity:
        """Make or replace an identity; with `token`, that bearer token names it."""
        exact = permissions if permissions is None or permissions == "all" else set(permissions)
        known = self.by_name.get(name)
        identity = Identity(
            name,
            member,
            frozenset(exact) if isinstance(exact, set) else exact,
            subject=known.subject if known else f"1{len(self.by_name):020d}",
        )
        self.by_name[name] = identity
        if token is not None:
            self.tokens[token] = name
        return identity

    def issue_token(self, identity: Identity) -> str:
        """A new bearer token for `identity`."""
        token = f"sandbox-{identity.name}-{secrets.token_hex(8)}"
        self.tokens[token] = identity.name
        return token

    def resolve(self, bearer: str | None) -> Identity:
        """Whose bearer token this is; without one, who the switch says.

        Raises:
            GoogleError: UNAUTHENTICATED, for an unknown token, or none while the switch
                `anonymous_caller` refuses callers without credentials.
        """
        if bearer is None and self.switches.anonymous_caller == "administrator":
            return self.administrator
        name = self.tokens.get(bearer or "")
        identity = self.by_name[name] if name else self._signed_by(bearer or "")
        if identity is None:
            raise _unauthenticated(missing=bearer is None)
        return identity

    def _signed_by(self, bearer: str) -> Identity | None:
        """The service account that signed itself a token, as the client libraries do.

        Source: https://google.aip.dev/auth/4111
        """
        try:
            claims = self.key.verify(bearer)
        except ValueError:
            return None
        if str(claims.get("aud", "")).endswith("/token"):
            return None  # an assertion for the token endpoint is no token
        return self._service_account(claims.get("iss"))

    def _service_account(self, email: object) -> Identity | None:
        """Who may use the credentials file's key: every service account but Anthropic's."""
        for identity in self.by_name.values():
            if identity.email == email and identity is not self.anthropic:
                return identity
        return None

    def name_of(self, bearer: str | None) -> str:
        """The caller's name for the log, also when `resolve` would refuse it."""
        try:
            return self.resolve(bearer).name
        except GoogleError:
            return "unauthenticated"

    def service_account_file(self, path: Path, token_uri: str) -> None:
        """Write the `onboarding` identity's credentials file; its tokens come from `token_uri`."""
        self.key.write_service_account_file(
            path,
            email=self.onboarding.email,
            client_id=self.onboarding.subject,
            project_id=self.project_id,
            token_uri=token_uri,
        )

    def token_endpoint(self, form: dict[str, str]) -> dict[str, Any]:
        """Answer Google's `/token`: a signed assertion for an access or an identity token.

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
        identity = self._service_account(claims.get("iss"))
        if identity is None:
            raise TokenRefusedError(
                "invalid_grant", f"Invalid grant: account {claims.get('iss')} not found"
            )
        if audience := claims.get("target_audience"):
            return {"id_token": self.identity_token(identity, audience)}
        return {
            "access_token": self.issue_token(identity),
            "expires_in": LIFETIME_SECONDS,
            "token_type": "Bearer",
        }

    def identity_token(self, identity: Identity, audience: str) -> str:
        """A signed Google identity token of `identity` for `audience`."""
        return self.key.identity_token(identity.email, identity.subject, audience)


def bearer_of(authorization: str | None) -> str | None:
    """The token in an `Authorization` header, or None without one."""
    if not authorization:
        return None
    scheme, _, token = authorization.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else authorization


def _unauthenticated(*, missing: bool) -> GoogleError:
    reason = "CREDENTIALS_MISSING" if missing else "ACCESS_TOKEN_INVALID"
    message = (
        "Request is missing required authentication credential."
        if missing
        else "Request had invalid authentication credentials."
    )
    return GoogleError(
        "UNAUTHENTICATED",
        f"{message} Expected OAuth 2 access token, login cookie or other valid authentication "
        f"credential. See {CREDENTIAL_HELP}.",
        [
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": reason,
                "domain": "googleapis.com",
                "metadata": {"service": "cloudkms.googleapis.com"},
            }
        ],
    )
