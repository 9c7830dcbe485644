"""Time and memory of a revalidation, compared with the shortest time that is possible.

The sandbox, the Prefect server and each sweep are processes of their own; a sweep's memory is its
own peak.
"""

from __future__ import annotations

import asyncio
import json
import math
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from pydantic import SecretStr

from blocks.anthropic_admin import AnthropicAdmin
from blocks.google_kms import GoogleKms
from cmek.keys.verdicts import Depth
from cmek.revalidation.request import RevalidationRequest
from flows.revalidate import revalidate_keys
from tests.support.sandbox import SandboxProcess, sandbox_process


@dataclass(frozen=True)
class Conditions:
    """The latency and the quota of the sandbox."""

    kms_seconds: float = 0.1
    validate_seconds: float = 1.0
    reads_per_minute: int = 1_000_000
    concurrency: int = 32


@dataclass(frozen=True)
class Measured:
    """One sweep."""

    keys: int
    seconds: float
    floor_seconds: float
    kms_reads: int
    validations: int
    requests: int
    fastest_minute: int
    """The most Cloud KMS reads in any 60 seconds of the sandbox's log."""
    peak_mb: float
    state: str

    @property
    def ratio(self) -> float:
        """1.0 would be perfect."""
        return self.seconds / self.floor_seconds


def measure(keys: int, conditions: Conditions, depth: Depth = "full") -> Measured:
    """One sweep over that many healthy keys, in a new sandbox and a new process.

    Before a quick one runs a full one, which is not measured.
    """
    with sandbox_process("sweep", str(keys), module="benchmarks.seeded") as sandbox:
        sandbox.control.switches(
            kms_latency_seconds=conditions.kms_seconds,
            validate_seconds=conditions.validate_seconds,
        )
        if depth == "quick":
            _sweep_in_child(sandbox, Conditions(0.0, 0.0), "full")
        sandbox.control.clear_log()
        child = _sweep_in_child(sandbox, conditions, depth)
        log = sandbox.control.log()
    reads = [one for one in log if one["service"] == "kms"]
    return Measured(
        keys=keys,
        seconds=child["seconds"],
        floor_seconds=floor_seconds(keys, len(reads), conditions, depth),
        kms_reads=len(reads),
        validations=len([one for one in log if "validate" in one["call"]]),
        requests=len(log),
        fastest_minute=_fastest_minute([one["time"] for one in reads]),
        peak_mb=child["peak_mb"],
        state=child["state"],
    )


def floor_seconds(keys: int, reads: int, conditions: Conditions, depth: Depth) -> float:
    """The shortest possible time: by the latency or by the quota, whichever is longer.

    A key's validation and its reads are independent, so a check takes at least the longer of the
    two. A ring's keys are listed before any of them is read: two reads, one after the other. A
    quick sweep has no validation.
    """
    validation = conditions.validate_seconds if depth == "full" else 0.0
    one_check = max(validation, 2 * conditions.kms_seconds)
    latency = math.ceil(keys / conditions.concurrency) * one_check
    quota = reads / conditions.reads_per_minute * 60
    return max(latency, quota)


def _fastest_minute(times: list[str]) -> int:
    moments = sorted(datetime.fromisoformat(one).timestamp() for one in times)
    most, first = 0, 0
    for last, moment in enumerate(moments):
        while moment - moments[first] >= 60:
            first += 1
        most = max(most, last - first + 1)
    return most


def _sweep_in_child(
    sandbox: SandboxProcess, conditions: Conditions, depth: Depth
) -> dict[str, Any]:
    order = {"http": sandbox.http, "grpc": sandbox.grpc, "admin_key": sandbox.admin_key}
    order["depth"] = depth
    result = subprocess.run(  # noqa: S603 - this very module
        [sys.executable, "-m", "benchmarks.sweeps", json.dumps(order | asdict(conditions))],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        encoding="utf-8",
    )
    answer: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return answer


async def _sweep(order: dict[str, str]) -> dict[str, object]:
    """Inside the child: save the blocks, then run the sweep."""
    await AnthropicAdmin(base_url=order["http"], admin_key=SecretStr(order["admin_key"])).save(
        "anthropic-admin", overwrite=True
    )
    await GoogleKms(endpoint=order["grpc"], checks_endpoint=order["http"]).save(
        "google-kms", overwrite=True
    )
    request = RevalidationRequest.model_validate(
        {
            "depth": order["depth"],
            "concurrency": int(order["concurrency"]),
            "reads_per_minute": int(order["reads_per_minute"]),
        }
    )
    started = time.monotonic()
    state = await revalidate_keys(request, return_state=True)
    return {
        "seconds": time.monotonic() - started,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "state": state.name,
    }


def main(order: str) -> None:
    """One sweep with the conditions in `order`; the result is the last line that it prints."""
    sys.stdout.write("\n" + json.dumps(asyncio.run(_sweep(json.loads(order)))) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
