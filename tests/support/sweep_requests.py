"""Prefect's server does not answer a request of a revalidation: only its subject may be missing.

The requests are what an undisturbed revalidation makes, so that a new one is covered without any
change here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final
from unittest.mock import patch

from cmek.revalidation.fleet import FLEET
from tasks.artifacts import page_key
from tasks.revalidation import ENDED, OVERVIEW
from tests.support.revalidating import Revalidation
from tests.support.sweep_crashes import sweep_points
from tests.support.sweeps import NEWS, VERDICTS, Sweeps

TABLES: Final = (f"read of {FLEET}", f"artifact {FLEET}", f"artifact {OVERVIEW}", f"event {ENDED}")
"""How the requests for the table of all keys, and those after it, begin."""


@dataclass
class Unanswered:
    """The nth request with this name is not answered, or all from the nth on."""

    what: str
    number: int
    lasting: bool
    seen: int = field(default=0, compare=False)

    def __str__(self) -> str:
        return f"{self.what}, {self.number}{' and all later' if self.lasting else ''}"

    def __call__(self, what: str) -> bool:
        """Whether this request is not answered."""
        self.seen += what == self.what
        return what == self.what and (
            self.seen >= self.number if self.lasting else self.seen == self.number
        )


def unanswered_requests(sweeps: Sweeps) -> list[Unanswered]:
    """Every request to Prefect's server, once and lasting."""
    sweep_points(sweeps)
    return [
        Unanswered(what, number, lasting)
        for what, times in Counter(sweeps.kept.asked).items()
        for number in range(1, times + 1)
        for lasting in (False, True)
    ]


def survive_unanswered(sweeps: Sweeps, request: Unanswered) -> None:
    """Execute without that answer, then retry the run or revalidate again.

    Raises:
        AssertionError: another key has no verdict, a run hides what is missing, or it stays so.
    """
    run, where = sweeps.begin(), str(request)
    with patch.object(sweeps.kept, "refuses", request):
        sweeps.driver.execute(run)
    assert request.seen >= request.number, f"{where}: never asked"
    assert sweeps.news() <= Counter(NEWS), f"{where}: events {sweeps.news()}"
    if not sweeps.done(run):  # the previous table is read first, before any key
        assert request.what == f"read of {FLEET}", f"{where}: {run.message}"
        assert run.error is not None, where
    else:
        _check_rest(sweeps, run, request)
    done, known = sweeps.done(run), len(sweeps.log)
    if done == set(sweeps.ids.values()) and run.error is None:
        run, done = Revalidation(), set()
    else:
        run.retry()
    sweeps.driver.execute(run)
    sweeps.check_end(run, f"{where}, later")
    again = {one.resource for one in sweeps.log[known:] if "validate" in one.call} & done
    assert not again, f"{where}: {again} were validated again"


def _check_rest(sweeps: Sweeps, run: Revalidation, request: Unanswered) -> None:
    where = str(request)
    touched = {
        name
        for name, key in sweeps.ids.items()
        if page_key(key) in request.what or f"cmek.key.{key}" in request.what
    }
    missing = {name for name, key in sweeps.ids.items() if key not in sweeps.done(run)}
    assert missing <= touched, f"{where}: no record of {missing}"
    if request.what.startswith("read of") and not request.lasting:
        assert not missing, f"{where}: read once only, no record of {missing}"
    for name in missing:
        assert sweeps.ids[name] in run.message, f"{where}: the message hides {name}: {run.message}"
    followed = sweeps.to_look_again()
    if request.what == "follow-up" or "dark" in touched:
        assert followed in ([], [{"dark"}]), f"{where}: {followed}"
    else:
        assert followed == [{"dark"}], f"{where}: {followed}"
    if not request.what.startswith(TABLES):
        rows = {name: sweeps.kept.rows()[key].level for name, key in sweeps.ids.items()}
        wrong = {name for name, level in rows.items() if level != VERDICTS[name]}
        assert all(rows[name] == "unknown" for name in wrong & touched), f"{where}: {rows}"
        assert wrong <= touched, f"{where}: {rows}"
    assert f"{len(VERDICTS)} keys: " in run.message, f"{where}: {run.message}"
    reported = run.error is not None or bool(missing)
    ends = request.what.startswith(TABLES) or request.what == "follow-up"
    assert run.error is not None or not ends, f"{where}: ended as if nothing were missing"
    assert reported or not request.what.startswith("artifact"), f"{where}: {run.message}"
