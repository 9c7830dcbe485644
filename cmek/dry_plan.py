"""What an onboarding would do, step by step, from reads alone. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from cmek.anthropic_identity import ROLES
from cmek.key_policy import is_ours
from cmek.kms_models import CryptoKey
from cmek.markdown import code, table
from cmek.request import OnboardingRequest

Action = Literal[
    "nothing", "create", "adopt", "grant", "register", "approve and attach", "approve and create"
]


@dataclass(frozen=True, slots=True)
class Step:
    """One guide step and what it would do."""

    number: int
    title: str
    action: Action
    resource: str


@dataclass(frozen=True, slots=True)
class Standings:
    """What exists already."""

    ring_exists: bool
    key: CryptoKey | None
    granted_roles: frozenset[str]
    external_key_id: str | None
    attached: bool


def dry_plan(request: OnboardingRequest, organization: UUID, found: Standings) -> tuple[Step, ...]:
    """The writes that a run of this request would make now; `nothing` where none is needed."""
    name = str(request.key_name)
    adopted = found.key is not None and not is_ours(found.key, organization)
    key_action: Action = "adopt" if adopted else "nothing" if found.key else "create"
    registered = found.external_key_id is not None
    return (
        Step(
            1,
            "Key ring",
            "nothing" if found.ring_exists else "create",
            request.key_name.key_ring_name,
        ),
        Step(2, "Crypto key", key_action, name),
        Step(3, "Grants", "nothing" if found.granted_roles.issuperset(ROLES) else "grant", name),
        Step(
            5,
            "External key",
            "nothing" if registered else "register",
            found.external_key_id or name,
        ),
        _last_step(request, found),
    )


def _last_step(request: OnboardingRequest, found: Standings) -> Step:
    if request.create_workspace is not None:
        return Step(7, "New workspace", "approve and create", request.create_workspace)
    action: Action = "nothing" if found.attached else "approve and attach"
    return Step(7, "Attach", action, request.subject)


def dry_plan_text(steps: tuple[Step, ...]) -> str:
    """The steps as a Markdown table."""
    return table(
        ("step", "", "would", "on"),
        ((str(step.number), step.title, step.action, code(step.resource)) for step in steps),
    )
