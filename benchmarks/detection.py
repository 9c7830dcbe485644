"""`python -m benchmarks.detection`: from a change of a key to the notification that people get.

On the local stack: sandbox, `cmek listen`, server, worker, and a receiver of the notifications.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final

from cli.deploy import install
from tests.support.stack import Stack, running_stack
from tests.support.waiting import wait_until
from tests.support.watching import (
    Listening,
    Sink,
    change_key,
    listening,
    webhook_block,
    webhook_sink,
)

SIGNALLED: Final = timedelta(minutes=1)
SCHEDULE: Final = timedelta(minutes=15)
LOOKED: Final = timedelta(minutes=16)
PATIENCE: Final = 300.0
KEY: Final = "search-prod"


def main() -> int:
    """Measure, print, judge."""
    missed = False
    with (
        running_stack() as stack,
        webhook_sink() as sink,
        tempfile.TemporaryDirectory(prefix="cmek-detection-") as scratch,
        listening(stack, Path(scratch)) as listener,
    ):
        name = _set_up(stack, sink)
        for what, took, wanted in _measured(stack, sink, listener, name):
            good = took <= wanted
            missed |= not good
            sys.stdout.write(
                f"{what:<32} {took.total_seconds():>7.1f} s, wanted {wanted.total_seconds():.0f} s"
                f"{'' if good else '  MISSED'}\n"
            )
            sys.stdout.flush()
    return 1 if missed else 0


def _set_up(stack: Stack, sink: Sink) -> str:
    """Make the key healthy, check it once so that it has a record, and install notifications."""
    keys = stack.admin("GET", "external_keys")["data"]
    names = [str(one["provider_config"].get("key_name")) for one in keys]
    name = next(one for one in names if one.endswith(KEY))
    change_key(stack, name, enabled=True)
    install(stack.client, [webhook_block(stack, sink)])
    deployment = stack.client.read_deployment_by_name("revalidate-keys/scheduled")
    run = stack.client.create_flow_run_from_deployment(deployment.id)
    stack.wait_for_state(run, "Failed", "At risk", "Completed", seconds=PATIENCE)
    return name


def _measured(
    stack: Stack, sink: Sink, listener: Listening, name: str
) -> Iterator[tuple[str, timedelta, timedelta]]:
    """By each kind of signal, for a key that is disabled and enabled again; then by no signal."""
    for source in ("webhook", "audit log"):
        listener.only(source)
        for enabled in (False, True):
            known, begun = len(sink.messages), time.monotonic()
            change_key(stack, name, enabled=enabled)
            wait_until(lambda: sink.messages[known:], f"notified by {source}", PATIENCE)  # noqa: B023
            change = "enabled" if enabled else "disabled"
            yield f"{source}, {change}", timedelta(seconds=time.monotonic() - begun), SIGNALLED
    listener.only("no signal")
    known, begun_at = len(sink.messages), stack.control.advance(0)
    change_key(stack, name, enabled=False)
    # at worst the change comes just after a quick check, and the next is due after its schedule
    stack.control.advance(SCHEDULE.total_seconds())
    quick = stack.client.read_deployment_by_name("revalidate-keys/quick")
    stack.client.create_flow_run_from_deployment(quick.id)
    wait_until(lambda: sink.messages[known:], "notified by the quick check", PATIENCE)
    yield "quick check, sandbox's clock", stack.control.advance(0) - begun_at, LOOKED


if __name__ == "__main__":
    sys.exit(main())
