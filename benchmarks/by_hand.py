"""One onboarding by this project, and by the guide's gcloud and curl commands, on one sandbox."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from cmek.anthropic_identity import MEMBER, ROLES
from cmek.names import organization_label
from tests.support.gcloud import gcloud_environment
from tests.support.onboarding import Onboardings, onboardings

ROUNDS = 3
RING = "by-hand"
KEY = "claude-prod"


def compare(show: Callable[[str], None]) -> float | None:
    """Show seconds and requests of a first and a second run, and the guide's with gcloud and curl.

    Returns:
        The median of this project's first runs, divided by the guide's; None without the guide.
    """
    by_hand = bool(shutil.which("gcloud") and shutil.which("curl"))
    show(f"{'':24} {'seconds':>8} {'requests':>9} {'writes':>7}  outcome")
    taken = [_round(show, by_hand) for _ in range(ROUNDS)]
    show("No person's waiting time is included; the guide has no approval, checks or read-back.")
    if not by_hand:
        show("the guide by hand: gcloud or curl is not installed here")
        return None
    own, guide = median(own for own, _ in taken), median(guide for _, guide in taken)
    show(f"Medians of the first runs: {own:.2f} s and {guide:.2f} s, ratio {own / guide:.2f}")
    return own / guide


def _round(show: Callable[[str], None], by_hand: bool) -> tuple[float, float]:
    """Both ways on a new sandbox; the seconds of the first run of each."""
    first: dict[str, float] = {"the guide, first run": 0.0}
    with onboardings() as bench:
        workspace = bench.fresh
        for title in ("this project, first run", "this project, again"):
            with _measured(bench, show, title, first) as outcome:
                run = bench.start(workspace).execute()
                if run.state == "Suspended":
                    run.approve()
                outcome.append(run.state)
        workspace = _other_fresh(bench, workspace)
        for title in ("the guide, first run", "the guide, again") if by_hand else ():
            with _measured(bench, show, title, first) as outcome:
                outcome.append(_guide(bench, workspace))
    return first["this project, first run"], first["the guide, first run"]


@contextmanager
def _measured(
    bench: Onboardings, show: Callable[[str], None], title: str, taken: dict[str, float]
) -> Iterator[list[str]]:
    bench.control.clear_log()
    outcome: list[str] = []
    started = time.monotonic()
    yield outcome
    taken[title] = seconds = time.monotonic() - started
    log = bench.control.log()
    writes = sum(one["write"] for one in log)
    show(f"{title:24} {seconds:>8.1f} {len(log):>9} {writes:>7}  {'; '.join(outcome)}")


def _other_fresh(bench: Onboardings, taken: str) -> str:
    return next(
        one["id"]
        for one in bench.sandbox.workspaces
        if one["state"] == "fresh" and one["id"] != taken
    )


def _guide(bench: Onboardings, workspace: str) -> str:
    """Every step in the guide's order, up to the first that fails."""
    sandbox = bench.sandbox
    label, value = organization_label(sandbox.organization_id)
    where = f"--location=us-east5 --project={sandbox.project_id}"
    in_ring = f"--keyring={RING} {where}"
    key_name = f"projects/{sandbox.project_id}/locations/us-east5/keyRings/{RING}/cryptoKeys/{KEY}"
    kind = "--purpose=encryption --protection-level=hsm"
    grant = f"gcloud kms keys add-iam-policy-binding {KEY} {in_ring} --member={MEMBER}"
    commands = [
        f"gcloud kms keyrings create {RING} {where}",
        f"gcloud kms keys create {KEY} {in_ring} {kind} --labels={label}={value}",
        *(f"{grant} --role={role}" for role in ROLES),
        f"gcloud kms keys describe {KEY} {in_ring} --format=value(name)",
    ]
    with tempfile.TemporaryDirectory(prefix="cmek-gcloud-") as home:
        for number, command in enumerate(commands, start=1):
            done = subprocess.run(  # noqa: S603 - the commands above
                command.split(),
                env=gcloud_environment(sandbox, Path(home)),
                capture_output=True,
                check=False,
            )
            if done.returncode:
                return f"fails at command {number} ({' '.join(command.split()[2:4])})"
    config = {"type": "gcp", "key_name": key_name}
    made = _curl(bench, "external_keys", {"display_name": KEY, "provider_config": config})
    checked = _curl(bench, f"external_keys/{made['id']}/validate", {})
    _curl(bench, f"workspaces/{workspace}", {"external_key_id": made["id"]})
    return f"validation {checked['status']}, attached"


def _curl(bench: Onboardings, path: str, body: dict[str, object]) -> dict[str, str]:
    command = [
        *("curl", "--silent", "--fail", "--noproxy", "*", "--data", json.dumps(body)),
        *("--header", f"x-api-key: {bench.sandbox.admin_key}"),
        *("--header", "anthropic-version: 2023-06-01"),
        *("--header", "content-type: application/json"),
        f"{bench.sandbox.http}/v1/organizations/{path}",
    ]
    sent = subprocess.run(command, stdout=subprocess.PIPE, check=True)  # noqa: S603 - as above
    answer = sent.stdout
    found: dict[str, str] = json.loads(answer)
    return found
