"""One day's revalidation of a small fleet, repeated in new worlds with the same past.

Every key's history has yesterday's record, so that today's revalidation can find what has broken or
recovered, and which events were already sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

from cmek.anthropic_identity import MEMBER, ROLES
from cmek.keys.health import UNFINISHED
from cmek.keys.verdicts import KeyRecord
from sandbox import seed
from sandbox.kms.state import GoogleProject
from sandbox.world import Entry
from tests.support.driver import Driver, driving
from tests.support.fleet import Fleet
from tests.support.kms import LOCATION
from tests.support.revalidating import Kept, Revalidation, revalidating

BEYOND: Final = "acme-kms-beyond"
"""A second project, whose policy holds the grants of one key."""
VERDICTS: Final = {
    "fine": "healthy",
    "fine-too": "healthy",
    "lone": "healthy",
    "mended": "healthy",
    "risky": "at_risk",
    "inherited": "at_risk",
    "dark": "unknown",
    "disabled": "broken",
    "vanished": "broken",
}
"""The true verdict on each key today."""
NEWS: Final = {
    ("cmek.key.recovered", "mended"),
    ("cmek.key.broken", "disabled"),
    ("cmek.key.broken", "vanished"),
}
"""The events that must be sent today."""


class Sweeps:
    """Makes worlds, and knows what a revalidation must have left in the end."""

    def __init__(self, driver: Driver, kept: Kept) -> None:
        self.driver, self.kept = driver, kept
        self.ids: dict[str, str] = {}
        self.fleet = self._yesterday()
        driver.execute(Revalidation())
        self.past = Kept(driver)
        self.past.go_back_to(kept)

    @property
    def log(self) -> list[Entry]:
        """Every outside call in this world."""
        return self.driver.sandbox.world.log.entries

    def begin(self) -> Revalidation:
        """Make today's world, and a run that has not been executed yet."""
        self.fleet = self._yesterday()
        self.fleet.set_state("mended", 1, "ENABLED")
        self.fleet.set_state("disabled", 1, "DISABLED")
        self.fleet.delete("vanished")
        switches = self.fleet.world.switches
        switches.initial_version_pending_seconds = 3600
        self.ids["dark"] = self.fleet.onboard("dark")
        self.kept.go_back_to(self.past)
        return Revalidation()

    def _yesterday(self) -> Fleet:
        world = self.driver.sandbox.world
        seed.reset(world, minimal=True)
        fleet = Fleet(world)
        plain = ("fine", "fine-too", "mended", "disabled", "vanished")
        self.ids = {name: fleet.onboard(name) for name in plain}
        self.ids["risky"] = fleet.onboard("risky", destroy_scheduled_duration=timedelta(days=2))
        self.ids["lone"] = self._in_ring(fleet, f"{LOCATION}/keyRings/lone", "lone")
        world.kms.projects[BEYOND] = GoogleProject(BEYOND, "200000000001")
        ring = f"projects/{BEYOND}/locations/us-east5/keyRings/ring"
        self.ids["inherited"] = self._in_ring(fleet, ring, "inherited")
        fleet.set_policy(f"{ring}/cryptoKeys/inherited", {})
        grants = {role: [MEMBER] for role in ROLES}
        fleet.set_policy(f"projects/{BEYOND}", grants)
        fleet.set_state("mended", 1, "DISABLED")
        return fleet

    @staticmethod
    def _in_ring(fleet: Fleet, ring: str, name: str) -> str:
        fleet.make_ring(ring)
        return fleet.onboard(name, ring=ring)

    # what there is in the end

    def record(self, name: str) -> KeyRecord:
        """The last record of a key."""
        return self.kept.records(self.ids[name])[-1]

    def looks(self, name: str, run: Revalidation) -> int:
        """How many records of this run are in a key's history."""
        records = self.kept.records(self.ids[name])
        return sum(record.run_id == str(run.id) for record in records)

    def news(self) -> Counter[tuple[str, str]]:
        """The events since yesterday, and how often each."""
        names = {f"cmek.key.{key}": name for name, key in self.ids.items()}
        sent = [one for id_, one in self.kept.events.items() if id_ not in self.past.events]
        return Counter((what, names[who]) for what, who in sent if who in names)

    def done(self, run: Revalidation) -> set[str]:
        """External keys for which this run has a record, so that a retry need not read them."""
        return {
            key
            for key in self.ids.values()
            if any(one.run_id == str(run.id) for one in self.kept.records(key))
        }

    def to_look_again(self) -> list[set[str]]:
        """The keys of each follow-up that is scheduled."""
        names = {key: name for name, key in self.ids.items()}
        return [
            {names[one["external_key_id"]] for one in request["look_again"]}
            for request in self.kept.follow_ups.values()
        ]

    def check_end(self, run: Revalidation, where: str) -> None:
        """Every key has its true verdict, every event was sent once, nothing was changed outside.

        Raises:
            AssertionError: the message says what is wrong.
        """
        self.check_kept(run, where)
        found = {name: str(self.record(name).verdict) for name in VERDICTS}
        assert found == VERDICTS, f"{where}: {_difference(found, VERDICTS)}"
        assert run.state == "Failed", f"{where}: {run.state} {run.message}"  # a key is broken
        assert run.error is None, f"{where}: {run.message}"
        assert self.news() == Counter(NEWS), f"{where}: events {self.news()}"
        followed = self.to_look_again()
        assert len(followed) == 1, f"{where}: {followed}"
        assert "dark" in followed[0], f"{where}: {followed}"

    def check_kept(self, run: Revalidation, where: str) -> None:
        """Every key has one record and one row, from completed reads; no outside call wrote.

        Raises:
            AssertionError: the message says what is wrong.
        """
        writes = [entry.call for entry in self.log if entry.write]
        assert writes == [], f"{where}: {writes}"
        rows = self.kept.rows()
        assert sorted(rows) == sorted(self.ids.values()), f"{where}: {sorted(rows)}"
        for name, key in self.ids.items():
            record = self.record(name)
            assert record.run_id == str(run.id), f"{where}: {name} was not read"
            assert rows[key].level is record.verdict, f"{where}: {name}: {rows[key].verdict}"
            ended = all(reason.rule != UNFINISHED for reason in record.reasons)
            assert ended, f"{where}: {name}: {record.reasons}"


@contextmanager
def sweeping(**options: Any) -> Iterator[Sweeps]:
    """A sandbox, a driver, and revalidations that it can execute."""
    with driving(**options) as driver, revalidating(driver) as kept:
        yield Sweeps(driver, kept)


def _difference(found: dict[str, str], wanted: dict[str, str]) -> dict[str, str]:
    return {name: found[name] for name in wanted if found[name] != wanted[name]}
