"""The table of what can be wrong beforehand: how it comes about, and what the checks then say.

The tests walk through it and `docs/troubleshooting.md` lists it.
"""

from __future__ import annotations

from tests.support.condition_setups import Blind, Condition, both, deny, google
from tests.support.conditions_key import KEY_CONDITIONS
from tests.support.conditions_organization import ORGANIZATION_CONDITIONS
from tests.support.conditions_project import PROJECT_CONDITIONS
from tests.support.staging import Stage

CONDITIONS: tuple[Condition, ...] = (
    *PROJECT_CONDITIONS,
    *ORGANIZATION_CONDITIONS,
    *KEY_CONDITIONS,
)


def _no_location(stage: Stage) -> None:
    stage.fault("GetLocation", "PERMISSION_DENIED")


READ_KMS = ("cloudkms.keyRings.get", "cloudkms.cryptoKeys.get")

BLIND: tuple[Blind, ...] = (
    Blind("project", deny("resourcemanager.projects.get")),
    Blind("billing", deny("resourcemanager.projects.get")),
    Blind("kms_api", both(deny("serviceusage.services.get", *READ_KMS), _no_location)),
    Blind("check_apis", google(disabled_services=["orgpolicy.googleapis.com"])),
    Blind("location", _no_location),
    Blind("caller_on_project", google(disabled_services=["cloudresourcemanager.googleapis.com"])),
    Blind("caller_on_existing", deny("cloudkms.keyRings.get")),
    Blind("caller_on_existing", deny("cloudkms.cryptoKeys.get", key=True)),
    Blind(
        "audit_logs",
        both(google(data_access_logs=[]), deny("resourcemanager.organizations.getIamPolicy")),
    ),
    Blind("drs_legacy", deny("orgpolicy.policy.get")),
    Blind("drs_managed", deny("orgpolicy.policy.get")),
    Blind("drs_custom", deny("orgpolicy.customConstraints.list")),
    Blind("drs_custom", deny("resourcemanager.projects.get")),
    Blind("location_policy", deny("orgpolicy.policy.get")),
    Blind("protection_policy", deny("orgpolicy.policy.get")),
    Blind("destroy_delay_policy", deny("orgpolicy.policy.get")),
    Blind("disable_before_destroy", deny("orgpolicy.policy.get")),
    Blind("perimeter", deny("accesscontextmanager.policies.list")),
    Blind("perimeter", deny("accesscontextmanager.servicePerimeters.list")),
    Blind("key_purpose", deny("cloudkms.cryptoKeys.get", key=True)),
    Blind("key_protection", deny("cloudkms.cryptoKeys.get", key=True)),
    Blind("key_origin", deny("cloudkms.cryptoKeys.get", key=True)),
    Blind("key_primary", deny("cloudkms.cryptoKeys.get", key=True)),
    Blind("key_justifications", deny("cloudkms.cryptoKeys.get", key=True)),
    Blind("key_shared", deny("cloudkms.protectedResources.search", key=True)),
    Blind("broader_grants", deny("resourcemanager.projects.getIamPolicy")),
    Blind("public_members", deny("cloudkms.cryptoKeys.getIamPolicy", key=True)),
    Blind("look_alike_members", deny("cloudkms.keyRings.getIamPolicy", key=True)),
    Blind("admin_credential", lambda stage: stage.fault("organization.me")),
    Blind("cmek_reachable", lambda stage: stage.fault("external_keys.list")),
    Blind("workspace", lambda stage: stage.fault("workspaces.retrieve", 403)),
    Blind("retention", lambda stage: None),
)
"""Each check's `unknown` path. `features` and `effect_time` read nothing, so they have none."""
