"""The one table of faults: how each is caused, and what must be reported about it.

The tests of the checks, of the diagnosis and of the health rules use it, and
`docs/troubleshooting.md` lists it.
"""

from __future__ import annotations

from tests.support.condition_setups import (
    Blind,
    ExpectedCause,
    ExpectedCheck,
    ExpectedHealth,
    KeyCondition,
    Situation,
)
from tests.support.conditions_anthropic import ANTHROPIC_BLIND, ANTHROPIC_CONDITIONS
from tests.support.conditions_key import KEY_BLIND, KEY_CONDITIONS
from tests.support.conditions_organization import ORGANIZATION_BLIND, ORGANIZATION_CONDITIONS
from tests.support.conditions_project import PROJECT_BLIND, PROJECT_CONDITIONS

__all__ = ["BLIND", "CHECKED", "CONDITIONS", "DIAGNOSED", "HEALTH", "KEY_CONDITIONS"]
CONDITIONS: tuple[Situation, ...] = (
    *PROJECT_CONDITIONS,
    *ORGANIZATION_CONDITIONS,
    *KEY_CONDITIONS,
    *ANTHROPIC_CONDITIONS,
)
CHECKED: tuple[tuple[Situation, ExpectedCheck], ...] = tuple(
    (one, one.check) for one in CONDITIONS if one.check
)
DIAGNOSED: tuple[tuple[Situation, ExpectedCause], ...] = tuple(
    (one, one.cause) for one in CONDITIONS if one.cause
)
HEALTH: tuple[tuple[KeyCondition, ExpectedHealth], ...] = tuple(
    (one, one.health) for one in KEY_CONDITIONS if one.health
)
BLIND: tuple[Blind, ...] = (*PROJECT_BLIND, *ORGANIZATION_BLIND, *KEY_BLIND, *ANTHROPIC_BLIND)
"""Each check's `unknown` path. `features` and `effect_time` read nothing, so they have none."""
