"""States that look dangerous but are not: the check passes, and says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from cmek.anthropic_identity import MEMBER, ROLES
from sandbox.server import Sandbox
from tests.support.checking import check
from tests.support.condition_setups import KMS, ingress
from tests.support.staging import EXTERNAL_KEY, FOLDER, KEY, NUMBER, ORGANIZATION, WORKSPACE, Stage

pytestmark = pytest.mark.anyio


def _audit_from_above(stage: Stage) -> None:
    stage.world.google.data_access_logs = []
    stage.audit(ORGANIZATION, ["DATA_READ"], service="allServices")
    stage.audit(FOLDER, ["DATA_WRITE", "ADMIN_READ"], service=KMS, exempted="user:ada@example.com")


def _audit_with_a_level_unreadable(stage: Stage) -> None:
    stage.deny("resourcemanager.organizations.getIamPolicy")


def _constraints(**changes: Any) -> Callable[[Stage], None]:
    def setup(stage: Stage) -> None:
        for name, value in changes.items():
            setattr(stage.world.kms.constraints, name, value)

    return setup


def _ingress(resource: str, part: str = "status") -> Callable[[Stage], None]:
    to = ingress()["ingressTo"] | {"resources": [resource]}
    rule = ingress(identities=[MEMBER], to=to)
    return lambda stage: stage.perimeter(part, ingressPolicies=[rule])


def _own_perimeter(stage: Stage) -> None:
    stage.perimeter(resources=[FOLDER])
    stage.perimeter("spec", resources=[FOLDER])
    stage.perimeter(name="open", restrictedServices=["storage.googleapis.com"])


def _bridge(stage: Stage) -> None:
    stage.perimeter()
    (perimeters,) = stage.world.google.perimeters.values()
    perimeters[0]["perimeterType"] = "PERIMETER_TYPE_BRIDGE"


def _attached(stage: Stage) -> None:
    stage.key()
    stage.world.admin.workspaces[WORKSPACE].external_key_id = EXTERNAL_KEY


def _no_organization(stage: Stage) -> None:
    stage.world.kms.projects[KEY.project].ancestors = []


def _colleague(stage: Stage) -> None:
    stage.key()
    stage.grant(str(KEY), ROLES[0], "user:ada@example.com")


@dataclass(frozen=True, slots=True)
class Harmless:
    """A state, the check that could mistake it for a fault, and its expected evidence."""

    name: str
    check: str
    setup: Callable[[Stage], object]
    evidence: str
    asked: dict[str, Any] = field(default_factory=dict)


PASSES: tuple[Harmless, ...] = (
    Harmless("logs switched on above", "audit_logs", _audit_from_above, FOLDER),
    Harmless("a level unreadable", "audit_logs", _audit_with_a_level_unreadable, "not readable"),
    Harmless(
        "Anthropic's customer listed",
        "drs_legacy",
        _constraints(allowed_policy_member_domains=["C0sandbox", "C0anthropic"]),
        "C0anthropic among them",
        {"permitted_customer_id": "C0anthropic"},
    ),
    Harmless(
        "Anthropic's account listed",
        "drs_managed",
        _constraints(allowed_member_subjects=["user:ada@example.com", MEMBER]),
        "lists anthropic-cmek-client-us",
    ),
    Harmless(
        "a group of locations",
        "location_policy",
        _constraints(resource_locations=["in:us-locations"]),
        "allowed",
    ),
    Harmless(
        "another level allowed too",
        "protection_policy",
        _constraints(allowed_protection_levels=["SOFTWARE", "HSM"]),
        "allowed",
    ),
    *(
        Harmless(
            f"a perimeter that lets Anthropic in to {resource}",
            "perimeter",
            _ingress(resource),
            "perimeter vault lets Anthropic in",
        )
        for resource in ("*", f"projects/{NUMBER}", FOLDER, ORGANIZATION)
    ),
    Harmless(
        "a dry run that lets Anthropic in",
        "perimeter",
        _ingress("*", "spec"),
        "no perimeter",
    ),
    Harmless(
        "a perimeter around another project",
        "perimeter",
        lambda stage: stage.perimeter(resources=["projects/1"]),
        "no perimeter",
    ),
    Harmless(
        "a perimeter around other services",
        "perimeter",
        lambda stage: stage.perimeter(restrictedServices=["storage.googleapis.com"]),
        "no perimeter",
    ),
    Harmless(
        "a perimeter around another folder",
        "perimeter",
        lambda stage: stage.perimeter(resources=["folders/1"]),
        "no perimeter",
    ),
    Harmless(
        "a perimeter around the folder, and the project in an open one",
        "perimeter",
        _own_perimeter,
        "perimeter open, the nearest around projects/123456789012, does not restrict",
    ),
    Harmless(
        "a bridge between perimeters",
        "perimeter",
        _bridge,
        "no perimeter",
    ),
    Harmless("no organization", "perimeter", _no_organization, "in no organization"),
    Harmless("no organization", "drs_custom", _no_organization, "in no organization"),
    Harmless("workspace has this key", "workspace", _attached, "has this key already"),
    Harmless(
        "Service Usage unreadable",
        "kms_api",
        lambda stage: stage.deny("serviceusage.services.get"),
        "Cloud KMS answered",
    ),
    Harmless(
        "rights on the ring only",
        "caller_on_project",
        lambda stage: stage.ring(),
        "its own rights count",
    ),
    Harmless("rights on the key", "caller_on_existing", lambda stage: stage.key(), str(KEY)),
    Harmless("grants on the key", "broader_grants", lambda stage: stage.key(), "nothing found"),
    Harmless(
        "a colleague on the key",
        "look_alike_members",
        _colleague,
        "nothing found",
    ),
    Harmless(
        "software where no HSM is",
        "location",
        lambda stage: stage.world.kms.locations_without_hsm.add("us-east5"),
        "none is requested",
        {"protection_level": "SOFTWARE"},
    ),
)


@pytest.mark.parametrize("harmless", PASSES, ids=lambda one: f"{one.check}: {one.name}")
async def test_what_only_looks_wrong_passes(
    sandbox: Sandbox, stage: Stage, harmless: Harmless
) -> None:
    """No false alarm stops an onboarding, and the evidence says why."""
    harmless.setup(stage)
    report = await check(sandbox, **harmless.asked)
    (found,) = [one for one in report.checks if one.id == harmless.check]
    assert found.status == "pass", found
    assert harmless.evidence in found.evidence, found
