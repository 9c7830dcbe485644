"""What the Google APIs of the checks remember beyond Cloud KMS, its policies and constraints."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

ACCESS_POLICY: Final = "accessPolicies/987654321"

Json = dict[str, Any]


class GoogleState(BaseModel):
    """States of the world that tests set; a new sandbox passes every check but a recommendation.

    Billing and the Cloud KMS API are switches, organization policies and the perimeter are in
    `OrgConstraints`, IAM policies and ancestors in `KmsState`.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    project_states: dict[str, Literal["ACTIVE", "DELETE_REQUESTED"]] = Field(default_factory=dict)
    """By project id; a project that is not here is ACTIVE."""
    disabled_services: list[str] = Field(default_factory=list)
    """APIs other than Cloud KMS that are off, such as `cloudbilling.googleapis.com`."""
    data_access_logs: list[Literal["ADMIN_READ", "DATA_READ", "DATA_WRITE"]] = [
        "DATA_READ",
        "DATA_WRITE",
    ]
    """Audit logs of Cloud KMS in a project whose IAM policy nobody has written yet."""
    policy_rules: dict[str, list[Json]] = Field(default_factory=dict)
    """Constraint → the effective policy's rules, in place of those made from `OrgConstraints`."""
    custom_constraints: list[Json] = Field(default_factory=list)
    access_policies: list[Json] = [{"name": ACCESS_POLICY, "title": "default policy"}]
    perimeters: dict[str, list[Json]] = Field(default_factory=dict)
    """Access policy → service perimeters, besides the one made from `perimeter_blocks`."""
    protected_resources: dict[str, Json] = Field(default_factory=dict)
    """Crypto key → its ProtectedResourcesSummary."""
    page_size: int = Field(default=50, ge=1)
    """Of lists, when the caller asks for none."""
    latency_seconds: float = Field(default=0.0, ge=0.0)
    """How long each of these calls takes."""
