"""`python -m benchmarks.gateway`: how much time the gateway adds to a call that it passes on.

Sandbox and gateway are processes of their own. The same read is made directly and through the
gateway, in turns, each over its own kept connection. Exits with 1 when it adds too much.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.sandbox import SandboxProcess, sandbox_process

MOST_ADDED = 0.010
"""Seconds."""
_READ = "/v1/organizations/me"


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=300)
    options = parser.parse_args()
    with sandbox_process() as sandbox, _gateway(sandbox) as url:
        direct, through = _measure(sandbox, url, options.calls)
    added = through - direct
    sys.stdout.write(
        f"A read: {direct * 1000:.1f} ms directly, {through * 1000:.1f} ms through the gateway, "
        f"which adds {added * 1000:.1f} ms (at most {MOST_ADDED * 1000:g}); ratio "
        f"{through / direct:.1f}; medians of {options.calls}\n"
    )
    return int(added > MOST_ADDED)


def _measure(sandbox: SandboxProcess, url: str, calls: int) -> tuple[float, float]:
    """Median seconds of a read, directly and through the gateway."""
    headers = {"x-api-key": sandbox.admin_key, "anthropic-version": "2023-06-01"}
    seconds: tuple[list[float], list[float]] = [], []
    with (
        httpx.Client(base_url=sandbox.http, headers=headers, trust_env=False) as directly,
        httpx.Client(base_url=url, trust_env=False) as through,
    ):
        for _ in range(calls):
            for client, kept in zip((directly, through), seconds, strict=True):
                started = time.perf_counter()
                client.get(_READ).raise_for_status()
                kept.append(time.perf_counter() - started)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


@contextmanager
def _gateway(sandbox: SandboxProcess) -> Iterator[str]:
    """The address of a gateway in front of this sandbox."""
    with tempfile.TemporaryDirectory(prefix="cmek-bench-") as home:
        key, settings = Path(home) / "admin_key", Path(home) / "gateway.toml"
        key.write_text(sandbox.admin_key, encoding="utf-8")
        settings.write_text(
            f'journal = "{home}/journal.sqlite"\nport = 0\nupstream = "{sandbox.http}"\n'
            f'admin_key_file = "{key}"\n',
            encoding="utf-8",
        )
        command = [
            str(Path(sys.executable).with_name("cmek")),
            "gateway",
            "--config",
            str(settings),
        ]
        with subprocess.Popen(  # noqa: S603 - our own command
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, encoding="utf-8"
        ) as process:
            assert process.stdout is not None
            try:
                yield json.loads(process.stdout.readline())["gateway"]
            finally:
                process.terminate()


if __name__ == "__main__":
    raise SystemExit(main())
