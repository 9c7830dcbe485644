"""One fault at one call of a revalidation: it must not become a verdict on a key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from cmek._http import ATTEMPTS
from cmek.anthropic.errors import AdminApiError
from tests.support.crashes import WHEN
from tests.support.fault_combinations import PATIENCE, RefusedCalls
from tests.support.fault_scripts import Script, faults_of
from tests.support.revalidating import Revalidation
from tests.support.sweep_crashes import sweep_points
from tests.support.sweeps import BEYOND, NEWS, VERDICTS, Sweeps

FIRST_READS: Final = {"organization.me", "workspaces.list", "external_keys.list"}
"""Without their answers there is no key to read, and the run fails."""


def sweep_scripts(sweeps: Sweeps) -> list[Script]:
    """Every fault at every call that an undisturbed revalidation makes."""
    sweep_points(sweeps)
    return [
        Script(entry.call, tuple(fault.items()), when, lasting, resource=entry.resource)
        for entry in sweeps.log
        for fault in faults_of(entry.service, entry.call)
        for when in WHEN
        for lasting in (False, True)
    ]


def sweep_silences(sweeps: Sweeps) -> list[Script]:
    """The first call of each name gets no answer within the client's patience."""
    sweep_points(sweeps)
    fault = (("kind", "delay"), ("seconds", 2 * PATIENCE))
    calls = dict.fromkeys(entry.call for entry in sweeps.log)
    return [Script(call, fault, when, lasting=False) for call in calls for when in WHEN]


def sweep_refusals(sweeps: Sweeps) -> list[RefusedCalls]:
    """A refusal for each number of a call; the order varies, so each may be of an HTTP call."""
    numbers = range(1, len(sweep_points(sweeps)) // len(WHEN) + 1)
    return [RefusedCalls(1, number, lasting) for number in numbers for lasting in (False, True)]


def survive_sweep_faults(sweeps: Sweeps, script: Script) -> None:
    """Execute with the fault, then revalidate again.

    Raises:
        AssertionError: too many calls, a verdict without a read, or a lost verdict.
    """
    run = sweeps.begin()
    sweeps.driver.sandbox.world.faults.add(script.injected())
    sweeps.driver.execute(run)
    sweeps.driver.sandbox.world.faults.clear()
    _check_meanwhile(sweeps, run, f"revalidating: {script}", _touched(sweeps, script))
    _look_later(sweeps, run, f"revalidating: {script}")


def survive_sweep_refusal(sweeps: Sweeps, refused: RefusedCalls) -> None:
    """Execute with those calls refused by the operating system, then revalidate again.

    Raises:
        AssertionError: as with a fault.
    """
    run = sweeps.begin()
    with sweeps.driver.refusing(refused):
        sweeps.driver.execute(run)
    _check_meanwhile(sweeps, run, f"revalidating: {refused}", VERDICTS)
    _look_later(sweeps, run, f"revalidating: {refused}")


def _touched(sweeps: Sweeps, script: Script) -> Iterable[str]:
    """Keys whose verdict depends on the call."""
    if script.resource in {"", "*"} or script.call in FIRST_READS:
        return VERDICTS
    if script.call == "cloudresourcemanager.projects.getIamPolicy":
        return ["inherited"] if BEYOND in script.resource else []
    names = {name: sweeps.record(name).key_name for name in VERDICTS if name in sweeps.ids}
    return [
        name
        for name, key_name in names.items()
        if script.resource in {sweeps.ids[name], key_name, key_name.rpartition("/cryptoKeys/")[0]}
    ]


def _check_meanwhile(sweeps: Sweeps, run: Revalidation, where: str, touched: Iterable[str]) -> None:
    """What could not be read is `unknown`, the rest has its true verdict; no event is wrong."""
    counts = Counter((one.call, one.resource) for one in sweeps.log)
    most = max(counts.values(), default=0)
    assert most <= ATTEMPTS, f"{where}: {counts.most_common(1)}"
    assert sweeps.news() <= Counter(NEWS), f"{where}: events {sweeps.news()}"
    if run.error is not None:
        assert isinstance(run.error, AdminApiError), f"{where}: {run.message}"
        return
    sweeps.check_kept(run, where)
    found = {name: str(sweeps.record(name).verdict) for name in VERDICTS}
    for name, verdict in found.items():
        allowed = {VERDICTS[name], "unknown"} if name in touched else {VERDICTS[name]}
        assert verdict in allowed, f"{where}: {name} is {verdict}"
    unknown = {name for name, verdict in found.items() if verdict == "unknown"}
    assert sweeps.to_look_again() == [unknown], f"{where}: {sweeps.to_look_again()}"


def _look_later(sweeps: Sweeps, run: Revalidation, where: str) -> None:
    """Retry a failed run; after one that has ended, execute the next sweep."""
    if run.error is None:
        run = Revalidation()
    else:
        run.retry()
    sweeps.driver.execute(run)
    sweeps.check_end(run, f"{where}, later")
