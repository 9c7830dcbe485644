"""The table of the proofs, and the page that keeps it."""

from __future__ import annotations

import json
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import tests.proofs.__main__ as proofs
from tests.proofs.table import ATTACKS, BEGIN, END, PAGE, PROOFS, ProofRow, rows_on, with_rows


def test_the_page_has_every_proof_in_order() -> None:
    """A proof that has never been run completely has a row too."""
    assert tuple(rows_on(PAGE.read_text())) == PROOFS


def test_a_new_row_takes_the_place_of_the_old_one_and_of_no_other() -> None:
    """So one proof can be repeated alone; each row has its own date and seed."""
    page = PAGE.read_text()
    line = ProofRow("mutants", 10, 9, "killed", enough=0.9).line("2026-11-24, seed 1")
    changed = with_rows(page, [line])
    before, after = rows_on(page), rows_on(changed)
    assert after == before | {"mutants": "| mutants | 10 | 9 killed | yes | 2026-11-24, seed 1 |"}
    assert with_rows(changed, [before["mutants"]]) == page


@pytest.mark.parametrize(("tried", "good", "holds"), [(10, 10, "yes"), (10, 9, "NO"), (0, 0, "NO")])
def test_a_proof_that_tried_nothing_does_not_hold(tried: int, good: int, holds: str) -> None:
    """A proof in which a single case failed does not hold either."""
    assert f"| {holds} |" in ProofRow("outages", tried, good, "converged").line("today")


def test_a_page_without_the_table_is_refused() -> None:
    """The table is not written at some other place."""
    with pytest.raises(ValueError, match="no table"):
        rows_on(f"{BEGIN} and no end")
    assert END in PAGE.read_text()


def test_a_proof_that_breaks_stops_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its row does not hold; the other rows are written, with seed and seconds."""

    def breaks(options: Namespace) -> ProofRow:
        raise RuntimeError(f"seed {options.seed}")

    monkeypatch.setitem(proofs._RUN, "outages", breaks)
    monkeypatch.setitem(proofs._RUN, "mutants", lambda options: ProofRow("mutants", 1, 1, "killed"))
    results = tmp_path / "proofs.json"
    monkeypatch.setattr(proofs, "keep", partial(proofs.keep, file=results))
    monkeypatch.setattr("sys.argv", ["proofs", "--seed", "7", "--only", "outages", "mutants"])
    assert proofs.main() == 1
    printed = capsys.readouterr().out
    assert "seed 7" in printed
    assert "outages: RuntimeError: seed 7" in printed
    kept = json.loads(results.read_text())
    assert {name: one["passed"] for name, one in kept.items()} == {
        "outages": False,
        "mutants": True,
    }
    assert all((one["seed"], one["seconds"]) == (7, 0) for one in kept.values())


def test_results_of_other_proofs_are_kept(tmp_path: Path) -> None:
    """A proof that is repeated alone replaces only its own older result."""
    results = tmp_path / "proofs.json"
    for proof, good, seed in (("mutants", 9, 1), ("outages", 22, 2), ("mutants", 10, 3)):
        proofs.keep(ProofRow(proof, 10, good, "fine"), seed, 60, results)
    kept = json.loads(results.read_text())
    assert {name: (one["good"], one["seed"]) for name, one in kept.items()} == {
        "mutants": (10, 3),
        "outages": (22, 2),
    }


def test_every_attack_test_is_there() -> None:
    """Without a file that was moved, but not in the list, the row would miss attacks."""
    assert [one for one in ATTACKS if not (PAGE.parents[1] / one).is_file()] == []


@pytest.mark.parametrize(("flaky", "good"), [("", 100), ("FlakyReplay: another way", 0)])
def test_a_flaky_schedule_is_a_problem_of_its_own(
    monkeypatch: pytest.MonkeyPatch, flaky: str, good: int
) -> None:
    """It ends its half early, so that too few were tried: the result is neither safe nor unsafe."""
    ends = iter([(50, ""), (20 if flaky else 50, flaky)])

    def half(*arguments: str) -> dict[str, Any]:
        tried, found = next(ends)
        return {"schedules": tried, "executions": 3, "unsafe": 0, "flaky": found}

    monkeypatch.setattr(proofs, "_json", half)
    row = proofs.schedules(Namespace(schedules=100, seed=1, workers=1))
    assert (row.good, row.problems) == (good, (flaky,) if flaky else ())
    assert row.passed == (not flaky)


TESTS = """
import pytest

def test_good():
    assert True

def test_bad():
    print("17 passed, 17 failed")
    assert "this is why" == ""

def test_broken(no_such_fixture):
    pass

def test_skipped():
    pytest.skip("needs a thing: install it")
"""


@pytest.mark.parametrize("bad", [True, False])
def test_a_row_of_tests_names_those_that_failed_and_says_why(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], bad: bool
) -> None:
    file = tmp_path / "test_some.py"
    file.write_text(TESTS)
    row = proofs._tested("variants", "passed", *(() if bad else ("-k", "good or skip")), str(file))
    said = capfd.readouterr().err
    assert (row.tried, row.good, row.passed) == ((3, 1, False) if bad else (1, 1, True))
    failed = [line.split(" - ")[0].rpartition("::")[2] for line in row.problems]
    assert failed == (["test_bad", "test_broken"] if bad else [])
    assert ("this is why" in said) == bad
    assert "needs a thing: install it" in said
