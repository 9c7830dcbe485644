"""A process that is gone around any outside call leaves nothing that a retry can't finish.

Here every point around a write, a validation and an attach, and a part of the others; `make prove`
tries all, and kills real processes.
"""

from __future__ import annotations

from tests.support.crashes import Point, crash_points, survive
from tests.support.driver import Driver

EVERY = 9


def chosen(points: list[Point]) -> list[Point]:
    """The points of the short profile."""
    return [
        point
        for number, point in enumerate(points)
        if point.write or "validate" in point.call or not number % EVERY
    ]


def test_every_crash_around_the_creation_converges(driver: Driver) -> None:
    """One workspace, whatever a create's answer does; the points that only a new one has."""
    points = crash_points(driver, creates=True)
    assert "workspaces.create" in {one.call for one in points if one.write}
    for point in points:
        if point.call == "workspaces.create":
            survive(driver, point)


def test_every_crash_converges(driver: Driver) -> None:
    """One ring, key, external key and attach, both grants, evidence whole."""
    points = crash_points(driver)
    assert {"workspaces.update", "SetIamPolicy"} <= {one.call for one in points if one.write}
    for point in chosen(points):
        survive(driver, point)
