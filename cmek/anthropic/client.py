"""The Admin API's endpoints that an onboarding needs, named as its documentation names them.

Source: https://platform.claude.com/docs/en/manage-claude/cmek-admin-api and guide steps 5 to 7
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, TypeVar, Unpack
from urllib.parse import quote

import httpx

from cmek.anthropic._transport import (
    CREATE,
    IDEMPOTENT,
    ONCE,
    READ,
    AdminCall,
    AdminTransport,
    Once,
    Timeouts,
)
from cmek.anthropic.auth import Credential
from cmek.anthropic.errors import AdminResponseError, CallFailure
from cmek.anthropic.models import (
    ExternalKey,
    ExternalKeyPage,
    Organization,
    Validation,
    Workspace,
    WorkspacePage,
)
from cmek.models import shown

TIMEOUT_SECONDS: Final = 20.0
SLOW_TIMEOUT_SECONDS: Final = 75.0
"""For validate and attach: Anthropic waits up to 30 s for Cloud KMS."""

PENDING_CREATE_LIFETIME: Final = timedelta(minutes=10)
"""How long the creation of a workspace may still take effect when its response was lost: the
official SDK waits as long for a response (600 s)."""

ORGANIZATION_PATH: Final = "/v1/organizations/me"
EXTERNAL_KEYS_PATH: Final = "/v1/organizations/external_keys"
WORKSPACES_PATH: Final = "/v1/organizations/workspaces"


_Parameters = dict[str, str | int | list[str]]
Page = TypeVar("Page", ExternalKeyPage, WorkspacePage)


class AdminApi:
    """An async client; use it in one event loop, and close it there.

    Every method raises `AdminApiError` (see `cmek.anthropic.errors`) and nothing else.
    """

    def __init__(
        self,
        base_url: str,
        credential: Credential,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        slow_timeout_seconds: float = SLOW_TIMEOUT_SECONDS,
    ) -> None:
        """Make a client without connecting.

        Raises:
            EndpointError: `base_url` is plain text and not on loopback.
        """
        timeouts = Timeouts(timeout_seconds, slow_timeout_seconds)
        transport = AdminTransport(base_url, credential, timeouts)
        self._transport = transport
        self.base_url = transport.base_url
        self.is_gateway = transport.is_gateway
        """Whether a cmek gateway at `base_url` holds the credential and checks approvals."""
        self.token_endpoint = transport.token_endpoint
        """Where the Google ID token comes from; it is exchanged at `base_url`."""
        self.organization = OrganizationResource(transport)
        self.external_keys = ExternalKeys(transport)
        self.workspaces = Workspaces(transport)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    async def forward(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> httpx.Response:
        """Send a call unchanged and return the response, whatever its status.

        For the gateway, which has decided that the call may be sent. Nothing is retried, except
        that a 401 is answered with a new token, if the credential has one.

        Raises:
            AdminApiError: No response, or no credential.
        """
        return await self._transport.forward(
            AdminCall(method, path, IDEMPOTENT, SLOW_TIMEOUT_SECONDS, query, body)
        )


class OrganizationResource:
    """`organization`: the organization of the credential."""

    def __init__(self, transport: AdminTransport) -> None:
        self._transport = transport

    async def me(self) -> Organization:
        """The credential's organization; also the check that the credential works."""
        return await self._transport.get(Organization, ORGANIZATION_PATH, {})


class ExternalKeys:
    """`external_keys`: Anthropic's records of customer-managed keys."""

    def __init__(self, transport: AdminTransport) -> None:
        self._transport = transport

    async def create(self, key_name: str, display_name: str | None = None) -> ExternalKey:
        """Register a crypto key (guide step 5). Not repeated when the outcome is unknown.

        The Admin API has no idempotency key: a second create would register the key twice.
        """
        body = {
            "display_name": display_name,
            "geo": "us",
            "provider_config": {"type": "gcp", "key_name": key_name},
        }
        return await self._transport.post(ExternalKey, EXTERNAL_KEYS_PATH, CREATE, body)

    async def list(self) -> AsyncIterator[ExternalKey]:
        """All external keys, newest first."""
        query: _Parameters = {"limit": 100}
        pages = _pages(self._transport, ExternalKeyPage, EXTERNAL_KEYS_PATH, query, "page")
        async for page in pages:
            for key in page.data:
                yield key.model_copy(update={"request_id": page.request_id})

    async def retrieve(self, external_key_id: str) -> ExternalKey:
        """One external key."""
        return await self._transport.get(
            ExternalKey, _path(EXTERNAL_KEYS_PATH, external_key_id), {}
        )

    async def validate(self, external_key_id: str) -> Validation:
        """Ask Anthropic for an encrypt and decrypt round trip (guide step 6); changes nothing.

        A key that does not work is a result (`failure`), not an error.
        """
        path = _path(EXTERNAL_KEYS_PATH, external_key_id) + "/validate"
        return await self._transport.post_slow(Validation, path, READ, None)


class Workspaces:
    """`workspaces`: a key is attached to one."""

    def __init__(self, transport: AdminTransport) -> None:
        self._transport = transport

    async def list(
        self,
        *,
        ids: Sequence[str] = (),
        include_archived: bool = False,
        include_default: bool = False,
    ) -> AsyncIterator[Workspace]:
        """All workspaces, or those with these `ids` (at most 100), within the two `include_…`."""
        query: _Parameters = {"limit": 1000}
        query |= {"include_archived": "true"} if include_archived else {}
        query |= {"include_default": "true"} if include_default else {}
        query |= {"ids[]": list(ids)} if ids else {}
        pages = _pages(self._transport, WorkspacePage, WORKSPACES_PATH, query, "after_id")
        async for page in pages:
            for workspace in page.data:
                yield workspace.model_copy(update={"request_id": page.request_id})

    async def everything(self) -> Sequence[Workspace]:
        """All workspaces, archived ones and the default one included: each may have a key."""
        every = self.list(include_archived=True, include_default=True)
        return [one async for one in every]

    async def retrieve(self, workspace_id: str) -> Workspace:
        """One workspace; the default one has an id too."""
        return await self._transport.get(Workspace, _path(WORKSPACES_PATH, workspace_id), {})

    async def create(
        self,
        name: str,
        external_key_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        data_residency: Mapping[str, object] | None = None,
        **once: Unpack[Once],
    ) -> Workspace:
        """Create a workspace, with a key from its first request on. Sent once, never repeated.

        Args:
            name: Of the new workspace.
            external_key_id: Its key.
            tags: Its tags.
            data_residency: The Admin API's object.
            **once: Signed approvals, for a gateway only; and the last check before it is sent.
        """
        body: dict[str, object] = {"name": name}
        body |= {"external_key_id": external_key_id} if external_key_id is not None else {}
        body |= {"tags": dict(tags)} if tags else {}
        body |= {"data_residency": dict(data_residency)} if data_residency else {}
        # a repeated create would make a second workspace, which can only be archived
        return await self._transport.post_slow(Workspace, WORKSPACES_PATH, ONCE, body, **once)

    async def update(
        self,
        workspace_id: str,
        *,
        external_key_id: str | None = None,
        tags: Mapping[str, str | None] | None = None,
        **once: Unpack[Once],
    ) -> Workspace:
        """Attach a key (guide step 7, irreversible, sent once) or change tags.

        Args:
            workspace_id: Which workspace.
            external_key_id: The key to attach.
            tags: The tags to change; None removes a tag.
            **once: For the attach, as for `create`.
        """
        path = _path(WORKSPACES_PATH, workspace_id)
        body: dict[str, object] = {"tags": dict(tags)} if tags else {}
        if external_key_id is None:
            return await self._transport.post(Workspace, path, IDEMPOTENT, body)
        body["external_key_id"] = external_key_id
        # a lost response is settled by reading the workspace, never by sending again (ADR 4)
        return await self._transport.post_slow(Workspace, path, ONCE, body, **once)


async def _pages(
    transport: AdminTransport, model: type[Page], path: str, query: _Parameters, parameter: str
) -> AsyncIterator[Page]:
    """All pages of a list; one that was read before would otherwise be read for ever.

    Args:
        transport: Reads them.
        model: Of one page.
        path: Of the list.
        query: Of the first page.
        parameter: In which the cursor of the next one goes.

    Raises:
        AdminApiError: A page can't be read, or does not name the next one.
    """
    seen = set[str]()
    while True:
        page = await transport.get(model, path, query)
        yield page
        if (cursor := page.cursor) is None:
            return
        if cursor in seen:
            message = f"the list does not end: a page that was read comes again ({shown(cursor)})"
            raise AdminResponseError(CallFailure("GET", f"{transport.base_url}{path}", message))
        seen.add(cursor)
        query = query | {parameter: cursor}


def _path(collection: str, resource_id: str) -> str:
    return f"{collection}/{quote(resource_id, safe='')}"
