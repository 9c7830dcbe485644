"""How the table counts the results of mutmut."""

from __future__ import annotations

import tomllib

from tests.proofs.mutants import ROOT, summary

RESULTS = """
    cmek.onboarding.gate.x_decide__mutmut_1: killed
    cmek.onboarding.gate.x_decide__mutmut_2: survived
    cmek.onboarding.gate.x_decide__mutmut_3: timeout
    cmek.onboarding.plan.x_build_plan__mutmut_1: no tests
    cmek.onboarding.plan.x_build_plan__mutmut_2: suspicious
"""


def test_only_a_mutant_that_tests_noticed_counts_as_killed() -> None:
    """One that no test runs, or that ended in an odd way, is a survivor with its name."""
    assert summary(RESULTS) == {
        "tried": 5,
        "killed": 2,
        "survivors": [
            "cmek.onboarding.gate.x_decide__mutmut_2 survived",
            "cmek.onboarding.plan.x_build_plan__mutmut_1 no tests",
            "cmek.onboarding.plan.x_build_plan__mutmut_2 suspicious",
        ],
    }


def test_gate_plan_and_signatures_are_mutated_and_their_tests_are_there() -> None:
    """A module or a test that was moved, but not in pyproject.toml, is found here."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutmut"]
    for pattern in settings["only_mutate"]:
        assert list(ROOT.glob(pattern)), pattern
    for name in (*settings["pytest_add_cli_args_test_selection"], *settings["also_copy"]):
        assert (ROOT / name).exists(), name
