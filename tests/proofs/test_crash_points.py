"""A process that is killed around any outside call leaves nothing that a retry cannot finish.

Tried here: every point around a write or a validation, and a part of the others. `make prove` tries
all points, and kills real processes.
"""

from __future__ import annotations

from tests.support.crashes import Point, crash_points, survive
from tests.support.driver import Driver

EVERY = 36


def chosen(points: list[Point]) -> list[Point]:
    """The points of the short profile."""
    return [
        point
        for number, point in enumerate(points)
        if point.write or "validate" in point.call or not number % EVERY
    ]


def test_every_crash_around_the_creation_converges(driver: Driver) -> None:
    """A crash around the create leaves one workspace; only a new workspace has these points."""
    points = crash_points(driver, creates=True)
    assert "workspaces.create" in {one.call for one in points if one.write}
    for point in points:
        if point.call == "workspaces.create":
            survive(driver, point)


def test_every_crash_converges(driver: Driver) -> None:
    """The end is one ring, key, external key and attach, both grants, and complete evidence."""
    points = crash_points(driver)
    assert {"workspaces.update", "SetIamPolicy"} <= {one.call for one in points if one.write}
    for point in chosen(points):
        survive(driver, point)
