"""Google Cloud for the tasks: credentials, quota project, endpoints; and Google ID tokens."""

from __future__ import annotations

import asyncio
from typing import Any

import google.auth
from google.auth.credentials import Credentials
from google.auth.exceptions import GoogleAuthError
from prefect.blocks.abstract import CredentialsBlock
from prefect_gcp import GcpCredentials
from pydantic import ConfigDict, Field, HttpUrl, field_validator, model_validator

from cmek.addresses import GOOGLE, check_base_url, check_endpoint, is_loopback
from cmek.gcp._transport import (
    SCOPES,
    TokenRequest,
    credential_errors,
    service_account_credentials,
    service_account_info,
)
from cmek.gcp.errors import GoogleApiError, classify
from cmek.gcp.kms import CloudKms
from cmek.trusted_hosts import check_destination

_PROBE_LOCATION = "us-east5"


class GoogleKms(CredentialsBlock):
    """Access to Cloud KMS, and to the Google APIs that the prerequisites are read from.

    Without credentials of its own it uses application default credentials. On a loopback
    endpoint it never does: they are for Google only.

    Example:
        ```python
        from blocks import GoogleKms

        kms = await GoogleKms.aload("google-kms")
        print(await kms.check())
        ```
    """

    # A validation error would otherwise show the secrets that it was given.
    model_config = ConfigDict(hide_input_in_errors=True)

    _block_type_name = "Google Cloud KMS"
    _block_type_slug = "google-kms"
    _description = (
        "Access to Cloud KMS, with the credentials of a GCP Credentials block or with application "
        "default credentials."
    )
    _documentation_url = HttpUrl(
        "https://platform.claude.com/docs/en/manage-claude/cmek-google-cloud-kms"
    )
    _logo_url = HttpUrl(
        "https://cdn.sanity.io/images/3ugk85nk/production/10424e311932e31c477ac2b9ef3d53cefbaad708-250x250.png"
    )

    gcp_credentials: GcpCredentials | None = Field(
        default=None,
        title="Credentials",
        description="Empty: application default credentials of the worker.",
    )
    quota_project: str | None = Field(
        default=None,
        title="Quota project",
        description="Whose quota is used and who pays, where it is not the credentials' project.",
    )
    endpoint: str | None = Field(
        default=None,
        title="Cloud KMS endpoint",
        description="HOST:PORT; empty for Google's own. Plain text on this machine only.",
    )
    checks_endpoint: str | None = Field(
        default=None,
        title="Base URL of the other Google APIs",
        description="For a sandbox; empty for Google's own.",
    )

    @field_validator("endpoint")
    @classmethod
    def _host_and_port(cls, endpoint: str | None) -> str | None:
        if endpoint is not None and ("://" in endpoint or "/" in endpoint):
            raise ValueError(f"Cloud KMS endpoint {endpoint!r}: use HOST:PORT")
        return check_endpoint(endpoint) if endpoint else None

    @field_validator("checks_endpoint")
    @classmethod
    def _encrypted(cls, url: str | None) -> str | None:
        return checked_url(url) if url else None

    @model_validator(mode="after")
    def _one_world(self) -> GoogleKms:
        if _local(self.endpoint) != _local(self.checks_endpoint):
            raise ValueError(
                "endpoint and checks_endpoint: both on this machine (a sandbox) or neither, so "
                "that credentials for the one are never sent to the other"
            )
        return self

    def credentials(self) -> Credentials | None:
        """The caller's credentials; None only on loopback, where the sandbox decides the caller.

        Raises:
            GoogleApiError: there are no credentials; says how to get them.
            EndpointError: the credentials would be sent to a plain-text address, or to a host that
                is not Google's, nor allowed by the administrator.
        """
        for address in (self.endpoint, self.checks_endpoint):
            if address is not None:
                check_destination(address, GOOGLE)
        try:
            with credential_errors():
                return self._credentials()
        except GoogleAuthError as error:
            problem = classify(error, call="google credentials")
        raise GoogleApiError(problem)

    def _credentials(self) -> Credentials | None:
        # A GCP Credentials block without a key would silently mean this machine's own identity.
        key = service_account_key(self.gcp_credentials) if self.gcp_credentials else None
        if key is not None:
            return service_account_credentials(key)
        if _local(self.endpoint):
            return None
        default: Credentials = google.auth.default(scopes=list(SCOPES))[0]
        return default

    def get_client(self) -> CloudKms:
        """A new client, for the event loop that first uses it; the caller closes it.

        Raises:
            GoogleApiError: there are no credentials; says how to get them.
        """
        return CloudKms.connect(
            endpoint=self.endpoint,
            credentials=self.credentials(),
            quota_project=self.quota_project,
        )

    async def check(self) -> str:
        """Get a token and, where a project is known, read one of its Cloud KMS locations.

        Raises:
            GoogleApiError: what is wrong and what to do about it.
        """
        credentials = self.credentials()
        if credentials is not None:
            await asyncio.to_thread(_get_token, credentials)
        who = getattr(credentials, "service_account_email", None) or "the caller"
        project = self.quota_project or getattr(self.gcp_credentials, "project", None)
        if project is None:
            return (
                f"Google gives {who} a token; no project is known here, so Cloud KMS was not called"
            )
        client = self.get_client()
        try:
            await client.get_location(project, _PROBE_LOCATION)
        finally:
            await client.aclose()
        return f"Cloud KMS answers {who} in project {project}"


def checked_url(url: str) -> str:
    """The base URL, if it is https (or http on this machine) and has no path of an API.

    Raises:
        ValueError: It is not; says what to write.
    """
    if "://" not in url:
        raise ValueError(f"base URL {url!r}: start it with https://")
    return check_base_url(url)


def _local(endpoint: str | None) -> bool:
    return endpoint is not None and is_loopback(endpoint)


def _get_token(credentials: Credentials) -> None:
    try:
        credentials.refresh(TokenRequest())  # type: ignore[no-untyped-call]
    except GoogleAuthError as error:
        problem = classify(error, call="google credentials")
    else:
        return
    # outside the handler, so that google-auth's error, which quotes text, is not the context
    raise GoogleApiError(problem)


def service_account_key(block: GcpCredentials) -> dict[str, Any] | None:
    """The service-account key in the block or its file; None when it has neither.

    Raises:
        MalformedError: it is no key; google-auth's error, and a ValueError.
        EndpointError: the key's `token_uri` is plain text beyond loopback, or not a host of Google.
    """
    if block.service_account_info is not None:
        key = service_account_info(block.service_account_info.get_secret_value())
    elif block.service_account_file is not None:
        key = service_account_info(block.service_account_file.read_text(encoding="utf-8"))
    else:
        return None
    check_destination(check_endpoint(key["token_uri"]), GOOGLE)
    return key
