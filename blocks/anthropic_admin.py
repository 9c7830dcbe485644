"""The Admin API of one Anthropic organization: address and credential."""

from __future__ import annotations

from uuid import UUID

from prefect.blocks.abstract import CredentialsBlock
from prefect_gcp import GcpCredentials
from pydantic import ConfigDict, Field, HttpUrl, SecretStr, field_validator, model_validator

from blocks.google_kms import checked_url, service_account_key
from cmek.addresses import ADMIN_API, ANTHROPIC
from cmek.anthropic.auth import AdminKey, Credential, GatewayAccess, WorkloadIdentity
from cmek.anthropic.client import AdminApi
from cmek.gcp._transport import id_token_provider
from cmek.trusted_hosts import check_destination

_FEDERATION = ("federation_rule_id", "organization_id", "service_account_id")


class AnthropicAdmin(CredentialsBlock):
    """Access to the Admin API of one Anthropic organization.

    Exactly one credential: an Admin API key; workload identity federation, by which a Google
    service account's ID token is exchanged for a short-lived `org:admin` token, so that no static
    secret exists; or none, where the base URL is a `cmek gateway`, which holds the credential and
    refuses an attach without signed approvals.

    Example:
        ```python
        from blocks import AnthropicAdmin

        admin = await AnthropicAdmin.aload("anthropic-admin")
        print(await admin.check())
        ```
    """

    # A validation error would otherwise show the secrets that it was given.
    model_config = ConfigDict(hide_input_in_errors=True)

    _block_type_name = "Anthropic Admin"
    _block_type_slug = "anthropic-admin"
    _description = (
        "Access to the Admin API of one Anthropic organization: an Admin API key, a Google "
        "service account by workload identity federation, or a cmek gateway that holds either."
    )
    _documentation_url = HttpUrl("https://platform.claude.com/docs/en/manage-claude/cmek-admin-api")
    _logo_url = HttpUrl("https://www.anthropic.com/favicon.ico")

    admin_key: SecretStr | None = Field(
        default=None,
        title="Admin API key",
        description="Starts with sk-ant-admin01-; leave it empty for workload identity federation.",
    )
    federation_rule_id: str | None = Field(
        default=None,
        title="Federation rule",
        description="fdrl_…, with scope org:admin; made in the Anthropic Console only.",
    )
    organization_id: UUID | None = Field(
        default=None,
        title="Organization",
        description="The organization's UUID; for workload identity federation.",
    )
    service_account_id: str | None = Field(
        default=None,
        title="Anthropic service account",
        description="svac_…; for workload identity federation.",
    )
    audience: str = Field(
        default=ADMIN_API,
        title="Audience",
        description="The audience that the federation rule expects in the Google ID token.",
    )
    gcp_credentials: GcpCredentials | None = Field(
        default=None,
        title="Google identity",
        description="Whose ID token is exchanged; empty: the service account of this machine.",
    )
    base_url: str = Field(
        default=ADMIN_API,
        title="Base URL",
        description="https; http is allowed on this machine only.",
    )
    gateway: bool = Field(
        default=False,
        title="Gateway",
        description="The base URL is a cmek gateway, which holds the credential: leave all of the "
        "above empty. Every approval must then be signed.",
    )

    @field_validator("base_url")
    @classmethod
    def _encrypted(cls, url: str) -> str:
        return checked_url(url)

    @model_validator(mode="after")
    def _one_credential(self) -> AnthropicAdmin:
        given = [n for n in ("admin_key", *_FEDERATION) if getattr(self, n) is not None]
        if self.gateway:
            if given:
                raise ValueError(
                    f"a gateway holds the credential itself: leave {', '.join(given)} empty"
                )
            return self
        missing = [name for name in _FEDERATION if getattr(self, name) is None]
        if self.admin_key is not None:
            if len(missing) < len(_FEDERATION):
                raise ValueError("give an Admin API key or workload identity federation, not both")
            AdminKey(self.admin_key)
        elif missing:
            raise ValueError(
                "give an Admin API key, or all of workload identity federation; missing: "
                f"admin_key, or {', '.join(missing)}"
            )
        return self

    def get_client(self) -> AdminApi:
        """A new client, for the event loop that first uses it; the caller closes it.

        Raises:
            EndpointError: The address is not Anthropic's, nor allowed by the administrator.
            ValueError: The Google identity's key can't sign.
        """
        # a gateway runs on a host of the administrator's, so Anthropic's hosts are not allowed
        check_destination(self.base_url, () if self.gateway else ANTHROPIC)
        return AdminApi(self.base_url, self._credential())

    async def check(self) -> str:
        """Say whose credential it is, by reading the organization and its external keys.

        Raises:
            AdminApiError: what is wrong and what to do about it.
        """
        client = self.get_client()
        try:
            organization = await client.organization.me()
            async for _ in client.external_keys.list():
                break
        finally:
            await client.aclose()
        return (
            f"{self.base_url} accepts the credential for {organization.name} ({organization.id}) "
            "and lets it read external keys"
        )

    def _credential(self) -> Credential:
        if self.gateway:
            return GatewayAccess()
        if self.admin_key is not None:
            return AdminKey(self.admin_key)
        if self.federation_rule_id and self.organization_id and self.service_account_id:
            google = self.gcp_credentials
            google_key = service_account_key(google) if google is not None else None
            return WorkloadIdentity(
                federation_rule_id=self.federation_rule_id,
                organization_id=self.organization_id,
                service_account_id=self.service_account_id,
                audience=self.audience,
                id_token=id_token_provider(google_key),
                token_endpoint=google_key["token_uri"] if google_key else None,
            )
        raise ValueError("the block has no credential")
