"""A thousand keys: correct verdicts, the number of reads, and no key left out."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.support.fleet import Fleet, many_keys
from tests.support.kms import LOCATION
from tests.support.onboarding import Onboardings
from tests.support.revalidation import Revalidations

KEYS = 1000


@pytest.mark.prove
@pytest.mark.timeout(600)
def test_a_thousand_keys_get_their_verdicts_in_two_reads_each(bench: Onboardings) -> None:
    """Five keys are broken in different ways, three unreachable; then the deadline is too short."""
    world = bench.sandbox.world
    world.admin.external_keys.clear()
    keys = many_keys(world, KEYS)
    broken = _break_five(world, keys)
    lost = set(keys[500:503])
    for number in (500, 501, 502):
        bench.control.fault(
            "ListCryptoKeyVersions", resource=f"*/key-{number:05}", status="UNAVAILABLE", times=9
        )
    revalidations = Revalidations.deployed(bench.client)
    bench.control.clear_log()
    run = revalidations.run(reads_per_minute=1_000_000, concurrency=64)
    rows = {row.external_key_id: row for row in revalidations.rows(run)}
    assert run.state_name == "Failed"
    assert Counter(str(row.level) for row in rows.values()) == {
        "broken": 5,
        "unknown": 3,
        "healthy": KEYS - 8,
    }
    assert {says: rows[key].why for key, says in broken.items() if says not in rows[key].why} == {}
    assert {key for key, row in rows.items() if row.level == "unknown"} == lost
    assert len(bench.control.calls(service="kms")) <= 2.2 * KEYS
    hurried = revalidations.run(reads_per_minute=1200, concurrency=64, deadline_seconds=15)
    levels = Counter(str(row.level) for row in revalidations.rows(hurried))
    assert sum(levels.values()) == KEYS
    assert levels["unknown"] > KEYS / 2
    assert levels["healthy"] > 0


def _break_five(world: object, keys: list[str]) -> dict[str, str]:
    fleet = Fleet(world, f"{LOCATION}/keyRings/ring-003")  # type: ignore[arg-type]
    fleet.delete("key-00300")
    fleet.set_state("key-00301", 1, "DISABLED")
    fleet.destroy("key-00302", 1)
    fleet.update("key-00303", labels={})
    fleet.set_policy(fleet.key("key-00304"), {})
    return dict(
        zip(
            keys[300:305],
            (
                "Cloud KMS has no key",
                "DISABLED",
                "DESTROY_SCHEDULED",
                "label",
                "cryptoKeyEncrypterDecrypter",
            ),
            strict=True,
        )
    )


def test_the_keys_of_a_ring_that_was_deleted_are_broken(bench: Onboardings) -> None:
    """Cloud KMS lists no keys of a ring that is gone, and says so of each key itself."""
    world = bench.sandbox.world
    world.admin.external_keys.clear()
    fleet = Fleet(world)
    keys = {fleet.onboard(name) for name in ("one", "two")}
    for name in ("one", "two"):
        fleet.delete(name)
    with world.lock:
        del world.kms.key_rings[fleet.ring]
    revalidations = Revalidations.deployed(bench.client)
    rows = revalidations.rows(revalidations.run(reads_per_minute=1_000_000))
    assert {row.external_key_id: str(row.level) for row in rows} == dict.fromkeys(keys, "broken")
