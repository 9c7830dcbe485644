"""`python -m benchmarks.seeded checks` or `… sweep 3000`: a sandbox with a benchmark's world."""

from __future__ import annotations

import sys

from sandbox import seed
from sandbox.server import serve
from sandbox.world import World
from tests.support.fleet import many_keys
from tests.support.staging import EXTERNAL_KEY, WORKSPACE, Stage

KEYS_A_RING = 100


def everything_there() -> World:
    """A key, ring and attached workspace under one folder and a perimeter: the most requests."""
    stage = Stage(seed.new_world(minimal=True))
    stage.reset()
    stage.key()
    stage.perimeter(restrictedServices=["storage.googleapis.com"])
    stage.world.admin.workspaces[WORKSPACE].external_key_id = EXTERNAL_KEY
    return stage.world


def keys_in_rings(count: int) -> World:
    """`count` healthy keys, each attached to its own workspace."""
    world = seed.new_world(minimal=True)
    many_keys(world, count, KEYS_A_RING)
    return world


if __name__ == "__main__":
    serve(world=everything_there() if sys.argv[1] == "checks" else keys_in_rings(int(sys.argv[2])))
