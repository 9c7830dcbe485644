"""The table of what can be wrong beforehand: how it comes about, and what the checks then say.

The tests walk through it and `docs/troubleshooting.md` lists it.
"""

from __future__ import annotations

from tests.support.condition_setups import Blind, Condition
from tests.support.conditions_key import KEY_BLIND, KEY_CONDITIONS
from tests.support.conditions_organization import ORGANIZATION_BLIND, ORGANIZATION_CONDITIONS
from tests.support.conditions_project import PROJECT_BLIND, PROJECT_CONDITIONS

CONDITIONS: tuple[Condition, ...] = (
    *PROJECT_CONDITIONS,
    *ORGANIZATION_CONDITIONS,
    *KEY_CONDITIONS,
)
BLIND: tuple[Blind, ...] = (*PROJECT_BLIND, *ORGANIZATION_BLIND, *KEY_BLIND)
"""Each check's `unknown` path. `features` and `effect_time` read nothing, so they have none."""
