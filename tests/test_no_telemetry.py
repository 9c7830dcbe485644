"""No server and no client of a test or a benchmark sends telemetry to Prefect's makers.

`tests/flows/test_invariants.py` asks a running server whether telemetry is off.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from prefect._internal.analytics.enabled import is_telemetry_enabled
from prefect.settings import get_current_settings

ROOT = Path(__file__).parents[1]
STARTS = re.compile(
    r'"prefect", "server", "start"|prefect_test_harness|SubprocessASGIServer|cli\.local\._server"'
)
"""Ways to start a server without `cli.local.stack`, which turns telemetry off."""
WITH_THE_STACKS_ENVIRONMENT = {"tests/e2e/test_replicas.py"}


def test_this_process_has_it_off_and_gives_that_to_its_children() -> None:
    assert not is_telemetry_enabled()
    settings = get_current_settings()
    assert not settings.server.analytics_enabled
    assert not settings.server.ephemeral.enabled
    assert os.environ["DO_NOT_TRACK"] == "1"
    assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"


def test_a_benchmark_has_it_off_whoever_starts_it() -> None:
    """This is so outside `make` too, which sets the same variables."""
    shown = "print(os.environ['DO_NOT_TRACK'], os.environ['PREFECT_SERVER_ANALYTICS_ENABLED'])"
    command = [sys.executable, "-c", f"import os, benchmarks; {shown}"]
    done = subprocess.run(
        command, cwd=ROOT, env={}, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["1", "false"]
    makefile = (ROOT / "Makefile").read_text()
    assert "export DO_NOT_TRACK := 1\n" in makefile
    assert "export PREFECT_SERVER_ANALYTICS_ENABLED := false\n" in makefile


def test_no_other_way_of_starting_a_server_is_used() -> None:
    files = [one for name in ("tests", "benchmarks") for one in (ROOT / name).rglob("*.py")]
    found = {
        str(one.relative_to(ROOT))
        for one in files
        if one != Path(__file__) and STARTS.search(one.read_text())
    }
    assert found == WITH_THE_STACKS_ENVIRONMENT
    for name in found:
        assert "stack.local.environment" in (ROOT / name).read_text()
