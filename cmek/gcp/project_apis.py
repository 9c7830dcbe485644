"""The Google APIs that only the checks read, with the few response fields that the checks use.

Source: the discovery documents of cloudresourcemanager v1/v3, cloudbilling v1, serviceusage v1,
orgpolicy v2, accesscontextmanager v1 and kmsinventory v1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, TypeVar

from google.auth.credentials import Credentials
from google.iam.v1 import policy_pb2
from google.protobuf import json_format
from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from cmek.addresses import GOOGLE_APIS
from cmek.gcp._transport import GoogleTransport, endless_list, token_endpoint
from cmek.gcp.errors import GoogleApiError
from cmek.models import FrozenModel


class GoogleModel(FrozenModel):
    """Base of the responses: JSON with camelCase names; unknown fields are dropped."""

    model_config = ConfigDict(extra="ignore", alias_generator=to_camel, populate_by_name=True)


class Project(GoogleModel):
    """A project; its `name` carries the number."""

    name: str
    project_id: str = ""
    state: str = "STATE_UNSPECIFIED"

    @property
    def number(self) -> str:
        """The project's number."""
        return self.name.removeprefix("projects/")


class BillingInfo(GoogleModel):
    """Whether the project is linked to an open billing account."""

    billing_enabled: bool = False
    billing_account_name: str = ""


class Service(GoogleModel):
    """The state of one API in a project."""

    name: str
    state: str = "STATE_UNSPECIFIED"

    @property
    def service(self) -> str:
        """`cloudkms.googleapis.com`."""
        return self.name.rpartition("/")[2]


class StringValues(GoogleModel):
    """Allowed and denied values of a list constraint."""

    allowed_values: tuple[str, ...] = ()
    denied_values: tuple[str, ...] = ()


class PolicyRule(GoogleModel):
    """One rule of an organization policy."""

    values: StringValues = StringValues()
    allow_all: bool = False
    deny_all: bool = False
    enforce: bool = False
    condition: dict[str, Any] | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)


class PolicySpec(GoogleModel):
    """The rules in force."""

    rules: tuple[PolicyRule, ...] = ()


class OrgPolicy(GoogleModel):
    """An effective organization policy; without rules the constraint's default applies."""

    name: str = ""
    spec: PolicySpec = PolicySpec()

    @property
    def rules(self) -> tuple[PolicyRule, ...]:
        """The rules in force."""
        return self.spec.rules


class CustomConstraint(GoogleModel):
    """An organization's own constraint."""

    name: str
    display_name: str = ""
    resource_types: tuple[str, ...] = ()
    action_type: str = ""
    condition: str = ""

    @property
    def id(self) -> str:
        """`custom.onlyOurMembers`."""
        return self.name.rpartition("/")[2]


class AccessPolicy(GoogleModel):
    """A container of perimeters; a scoped one covers some folders or projects only."""

    name: str
    title: str = ""


class IngressSource(GoogleModel):
    """Where a request may come from; without an access level from some network or resource."""

    access_level: str = ""


class IngressFrom(GoogleModel):
    """Which callers an ingress rule admits."""

    identities: tuple[str, ...] = ()
    identity_type: str = "IDENTITY_TYPE_UNSPECIFIED"
    sources: tuple[IngressSource, ...] = ()


class ApiOperation(GoogleModel):
    """Which methods of a service an ingress rule allows."""

    service_name: str = ""
    method_selectors: tuple[dict[str, Any], ...] = ()


class IngressTo(GoogleModel):
    """Which resources an ingress rule allows, and which operations or IAM roles on them."""

    operations: tuple[ApiOperation, ...] = ()
    roles: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()


class IngressPolicy(GoogleModel):
    """One ingress rule."""

    ingress_from: IngressFrom = IngressFrom()
    ingress_to: IngressTo = IngressTo()
    title: str = ""


class PerimeterConfig(GoogleModel):
    """What a perimeter encloses, and whom it admits."""

    resources: tuple[str, ...] = ()
    restricted_services: tuple[str, ...] = ()
    access_levels: tuple[str, ...] = ()
    ingress_policies: tuple[IngressPolicy, ...] = ()


class ServicePerimeter(GoogleModel):
    """A VPC Service Controls perimeter; `spec` is its dry run."""

    name: str
    title: str = ""
    perimeter_type: str = "PERIMETER_TYPE_REGULAR"
    status: PerimeterConfig = PerimeterConfig()
    spec: PerimeterConfig = PerimeterConfig()
    use_explicit_dry_run_spec: bool = False


class ProtectedResources(GoogleModel):
    """How many Google Cloud resources a key protects; Anthropic's data is never counted."""

    resource_count: Annotated[int, Field(ge=0)] = 0
    project_count: int = 0
    cloud_products: dict[str, Any] = Field(default_factory=dict)
    warnings: tuple[dict[str, Any], ...] = ()


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
            credentials: None for a sandbox that accepts anonymous callers.
            base_url: One address for all services, for the sandbox; None for Google.
            quota_project: The project whose quota and enabled APIs are used, when it is not the
                credentials' own.

        Raises:
            EndpointError: `base_url` is plain text and not on loopback.
        """
        email = getattr(credentials, "service_account_email", None)
        self.caller = f"serviceAccount:{email}" if email and "@" in email else None
        """The IAM member of the credentials; None when they do not say, such as a person's."""
        self.endpoint = base_url or GOOGLE_APIS
        self.token_endpoint = token_endpoint(credentials)
        """Where the credentials get their tokens; None when the credentials name no address."""
        self._http = GoogleTransport(credentials, base_url=base_url, quota_project=quota_project)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def project(self, project: str) -> Project:
        """`cloudresourcemanager.projects.get` (v3): state and number."""
        return await self._get(Project, RESOURCE_MANAGER, f"v3/projects/{project}")

    async def ancestors(self, project: str) -> tuple[str, ...]:
        """`cloudresourcemanager.projects.getAncestry` (v1): its folders and its organization."""
        path = f"v1/projects/{project}:getAncestry"
        return await self._http.post(_ancestors, RESOURCE_MANAGER, path, {})

    async def iam_policy(self, resource: str) -> policy_pb2.Policy:
        """`getIamPolicy` (v3) of a project, folder or organization, conditions included."""
        body = {"options": {"requestedPolicyVersion": 3}}
        path = f"v3/{resource}:getIamPolicy"
        return await self._http.post(_policy, RESOURCE_MANAGER, path, body)

    async def project_permissions(self, project: str, permissions: Sequence[str]) -> frozenset[str]:
        """`cloudresourcemanager.projects.testIamPermissions` (v3): those that the caller has."""
        path = f"v3/projects/{project}:testIamPermissions"
        body = {"permissions": list(permissions)}
        return await self._http.post(_permissions, RESOURCE_MANAGER, path, body)

    async def billing(self, project: str) -> BillingInfo:
        """`cloudbilling.projects.getBillingInfo`."""
        return await self._get(BillingInfo, BILLING, f"v1/projects/{project}/billingInfo")

    async def service(self, project: str, service: str) -> Service:
        """`serviceusage.services.get`."""
        return await self._get(Service, SERVICE_USAGE, f"v1/projects/{project}/services/{service}")

    async def org_policy(self, project: str, constraint: str) -> OrgPolicy:
        """`orgpolicy.projects.policies.getEffectivePolicy`."""
        path = f"v2/projects/{project}/policies/{constraint}:getEffectivePolicy"
        return await self._get(OrgPolicy, ORG_POLICY, path)

    async def custom_constraints(self, organization: str) -> tuple[CustomConstraint, ...]:
        """`orgpolicy.organizations.customConstraints.list`, all pages."""
        return await self._pages(
            CustomConstraint, ORG_POLICY, f"v2/{organization}/customConstraints"
        )

    async def access_policies(self, organization: str) -> tuple[AccessPolicy, ...]:
        """`accesscontextmanager.accessPolicies.list`, all pages, with scoped policies."""
        query = {"parent": organization}
        return await self._pages(AccessPolicy, ACCESS_CONTEXT, "v1/accessPolicies", query)

    async def perimeters(self, access_policy: str) -> tuple[ServicePerimeter, ...]:
        """`accesscontextmanager.accessPolicies.servicePerimeters.list`, all pages."""
        return await self._pages(
            ServicePerimeter, ACCESS_CONTEXT, f"v1/{access_policy}/servicePerimeters"
        )

    async def protected_resources(self, key_name: str) -> ProtectedResources:
        """`kmsinventory…getProtectedResourcesSummary`, of the organization or else the project."""
        query = {"fallbackScope": "FALLBACK_SCOPE_PROJECT"}
        path = f"v1/{key_name}/protectedResourcesSummary"
        return await self._get(ProtectedResources, INVENTORY, path, query)

    async def _get(
        self, model: type[Model], service: str, path: str, query: Mapping[str, str] | None = None
    ) -> Model:
        return await self._http.get(model.model_validate, service, path, query)

    async def _pages(
        self, model: type[Model], service: str, path: str, query: Mapping[str, str] | None = None
    ) -> tuple[Model, ...]:
        field = path.rpartition("/")[2]  # in each of these APIs the collection names the field

        def parse(response: dict[str, Any]) -> tuple[list[Model], str]:
            items = [model.model_validate(one) for one in response.get(field, [])]
            return items, str(response.get("nextPageToken") or "")

        found: list[Model] = []
        token, seen = "", set[str]()
        while True:
            page = dict(query or {}) | ({"pageToken": token} if token else {})
            items, token = await self._http.get(parse, service, path, page)
            found += items
            if not token:
                return tuple(found)
            if token in seen:
                raise GoogleApiError(endless_list(f"GET https://{service}/{path}"))
            seen.add(token)


def _ancestors(response: dict[str, Any]) -> tuple[str, ...]:
    ids = [one["resourceId"] for one in response["ancestor"]]
    return tuple(f"{one['type']}s/{one['id']}" for one in ids if one["type"] != "project")


def _policy(response: dict[str, Any]) -> policy_pb2.Policy:
    return json_format.ParseDict(response, policy_pb2.Policy(), ignore_unknown_fields=True)


def _permissions(response: dict[str, Any]) -> frozenset[str]:
    return frozenset(response.get("permissions", []))
