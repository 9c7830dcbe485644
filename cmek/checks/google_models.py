"""The few fields that the checks use of Google's answers; everything else is ignored.

Source: the discovery documents of cloudresourcemanager v1/v3, cloudbilling v1, serviceusage v1,
orgpolicy v2, accesscontextmanager v1 and kmsinventory v1.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from cmek.models import FrozenModel


class GoogleModel(FrozenModel):
    """JSON with camelCase names."""

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
    """Whether usage of the project is charged to an open account."""

    billing_enabled: bool = False
    billing_account_name: str = ""


class Service(GoogleModel):
    """One API's state in the project."""

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
    """An effective organization policy; no rules means the constraint's default."""

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
    """A container of perimeters; scoped ones cover some folders or projects only."""

    name: str
    title: str = ""


class IngressSource(GoogleModel):
    """Where a request may come from."""

    access_level: str = ""


class IngressFrom(GoogleModel):
    """Whom an ingress rule lets in."""

    identities: tuple[str, ...] = ()
    identity_type: str = "IDENTITY_TYPE_UNSPECIFIED"
    sources: tuple[IngressSource, ...] = ()


class ApiOperation(GoogleModel):
    """What an ingress rule lets them do."""

    service_name: str = ""
    method_selectors: tuple[dict[str, Any], ...] = ()


class IngressTo(GoogleModel):
    """What an ingress rule lets them reach."""

    operations: tuple[ApiOperation, ...] = ()
    resources: tuple[str, ...] = ()


class IngressPolicy(GoogleModel):
    """One ingress rule."""

    ingress_from: IngressFrom = IngressFrom()
    ingress_to: IngressTo = IngressTo()
    title: str = ""


class PerimeterConfig(GoogleModel):
    """What a perimeter encloses and who may come in."""

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
    """How many Google Cloud resources a key protects; Anthropic's data is never among them."""

    resource_count: Annotated[int, Field(ge=0)] = 0
    project_count: int = 0
    cloud_products: dict[str, Any] = Field(default_factory=dict)
    warnings: tuple[dict[str, Any], ...] = ()
