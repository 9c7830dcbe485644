"""The reads of the checks, one method each, named after the discovery documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

from google.auth.credentials import Credentials
from google.iam.v1 import policy_pb2
from google.protobuf import json_format

from cmek.checks.google_models import (
    AccessPolicy,
    BillingInfo,
    CustomConstraint,
    GoogleModel,
    OrgPolicy,
    Project,
    ProtectedResources,
    Service,
    ServicePerimeter,
)
from cmek.checks.google_transport import GoogleTransport

BILLING: Final = "cloudbilling.googleapis.com"
SERVICE_USAGE: Final = "serviceusage.googleapis.com"
RESOURCE_MANAGER: Final = "cloudresourcemanager.googleapis.com"
ORG_POLICY: Final = "orgpolicy.googleapis.com"
ACCESS_CONTEXT: Final = "accesscontextmanager.googleapis.com"
INVENTORY: Final = "kmsinventory.googleapis.com"

Model = TypeVar("Model", bound=GoogleModel)


class GoogleReads:
    """An async client of the Google APIs that only the checks read.

    Every method raises `GoogleApiError` and nothing else.
    """

    def __init__(
        self,
        credentials: Credentials | None,
        *,
        base_url: str | None = None,
        quota_project: str | None = None,
    ) -> None:
        """Make a client without connecting.

        Args:
            credentials: None for a sandbox that takes anonymous callers.
            base_url: One address for all services, for the sandbox; None = Google.
            quota_project: Whose quota and enabled APIs count, when not the credential's own.

        Raises:
            EndpointError: `base_url` is plain text and not on loopback.
        """
        email = getattr(credentials, "service_account_email", None)
        self.caller = f"serviceAccount:{email}" if email and "@" in email else None
        """The member that the credentials are, where they tell; a person's do not."""
        self._http = GoogleTransport(credentials, base_url=base_url, quota_project=quota_project)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def project(self, project: str) -> Project:
        """`cloudresourcemanager.projects.get` (v3): state and number."""
        path = f"v3/projects/{project}"
        return await self._http.get(Project.model_validate, RESOURCE_MANAGER, path)

    async def ancestors(self, project: str) -> tuple[str, ...]:
        """`cloudresourcemanager.projects.getAncestry` (v1): folders and organization above it."""
        path = f"v1/projects/{project}:getAncestry"
        return await self._http.post(_ancestors, RESOURCE_MANAGER, path, {})

    async def iam_policy(self, resource: str) -> policy_pb2.Policy:
        """`getIamPolicy` (v3) of a project, folder or organization, conditions included."""
        body = {"options": {"requestedPolicyVersion": 3}}
        path = f"v3/{resource}:getIamPolicy"
        return await self._http.post(_policy, RESOURCE_MANAGER, path, body)

    async def project_permissions(self, project: str, permissions: Sequence[str]) -> frozenset[str]:
        """`cloudresourcemanager.projects.testIamPermissions` (v3): which the caller has."""
        path = f"v3/projects/{project}:testIamPermissions"
        body = {"permissions": list(permissions)}
        return await self._http.post(_permissions, RESOURCE_MANAGER, path, body)

    async def billing(self, project: str) -> BillingInfo:
        """`cloudbilling.projects.getBillingInfo`."""
        path = f"v1/projects/{project}/billingInfo"
        return await self._http.get(BillingInfo.model_validate, BILLING, path)

    async def service(self, project: str, service: str) -> Service:
        """`serviceusage.services.get`."""
        path = f"v1/projects/{project}/services/{service}"
        return await self._http.get(Service.model_validate, SERVICE_USAGE, path)

    async def org_policy(self, project: str, constraint: str) -> OrgPolicy:
        """`orgpolicy.projects.policies.getEffectivePolicy`."""
        path = f"v2/projects/{project}/policies/{constraint}:getEffectivePolicy"
        return await self._http.get(OrgPolicy.model_validate, ORG_POLICY, path)

    async def custom_constraints(self, organization: str) -> tuple[CustomConstraint, ...]:
        """`orgpolicy.organizations.customConstraints.list`, all pages."""
        path = f"v2/{organization}/customConstraints"
        return await self._pages(CustomConstraint, ORG_POLICY, path, "customConstraints", {})

    async def access_policies(self, organization: str) -> tuple[AccessPolicy, ...]:
        """`accesscontextmanager.accessPolicies.list`, all pages, scoped policies too."""
        query = {"parent": organization}
        path = "v1/accessPolicies"
        return await self._pages(AccessPolicy, ACCESS_CONTEXT, path, "accessPolicies", query)

    async def perimeters(self, access_policy: str) -> tuple[ServicePerimeter, ...]:
        """`accesscontextmanager.accessPolicies.servicePerimeters.list`, all pages."""
        path = f"v1/{access_policy}/servicePerimeters"
        return await self._pages(ServicePerimeter, ACCESS_CONTEXT, path, "servicePerimeters", {})

    async def protected_resources(self, key_name: str, project: str) -> ProtectedResources:
        """`kmsinventory…getProtectedResourcesSummary`; looks in the project if it must."""
        query = {"fallbackScope": f"projects/{project}"}
        path = f"v1/{key_name}/protectedResourcesSummary"
        return await self._http.get(ProtectedResources.model_validate, INVENTORY, path, query)

    async def _pages(
        self,
        model: type[Model],
        service: str,
        path: str,
        field: str,
        query: Mapping[str, str],
    ) -> tuple[Model, ...]:
        def parse(answer: dict[str, Any]) -> tuple[list[Model], str | None]:
            items = [model.model_validate(one) for one in answer.get(field, [])]
            return items, answer.get("nextPageToken")

        found: list[Model] = []
        token: str | None = None
        while True:
            asked = dict(query) | ({"pageToken": token} if token else {})
            items, token = await self._http.get(parse, service, path, asked)
            found += items
            if not token:
                return tuple(found)


def _ancestors(answer: dict[str, Any]) -> tuple[str, ...]:
    ids = [one["resourceId"] for one in answer["ancestor"]]
    return tuple(f"{one['type']}s/{one['id']}" for one in ids if one["type"] != "project")


def _policy(answer: dict[str, Any]) -> policy_pb2.Policy:
    return json_format.ParseDict(answer, policy_pb2.Policy(), ignore_unknown_fields=True)


def _permissions(answer: dict[str, Any]) -> frozenset[str]:
    return frozenset(answer.get("permissions", []))
