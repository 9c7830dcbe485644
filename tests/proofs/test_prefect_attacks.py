"""The attacks by Prefect's API, all of them; and what their judge notices."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping

import pytest

from cli.deploy import PROJECT
from tests.proofs.prefect_attacks import verdict

NEEDED = ("unshare", "ip", "runuser", "useradd", "openssl", "psql", "ssh-keygen")
MISSING = [one for one in NEEDED if shutil.which(one) is None]
if os.geteuid() != 0:
    MISSING.append("root")
SIGNED = {"wrkspc_01": "ekey_01"}
RAN = {"pull-step": 999}


@pytest.mark.prove
@pytest.mark.e2e
@pytest.mark.timeout(1800)
@pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")
def test_whoever_writes_to_prefects_api_attaches_nothing_that_no_approver_has_signed() -> None:
    """Code that runs as the worker tries everything; the only attach is the signed one."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.proofs.prefect_attacks"],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["problems"] == []
    assert found["tried"] > 1000


@pytest.mark.parametrize(
    ("attached", "ran", "noticed"),
    [
        (SIGNED, RAN, None),
        (SIGNED | {"wrkspc_02": "ekey_01"}, RAN, "wrkspc_02 has ekey_01, which no approver"),
        ({"wrkspc_01": "ekey_02"}, RAN, "wrkspc_01 has ekey_02, which no approver"),
        ({}, RAN, "the signed attach was not made"),
        (SIGNED, {"pickled-state": 999}, "nothing was tried as the worker"),
        (SIGNED, {"pull-step": 0}, "executed as root"),
    ],
)
def test_the_judge_notices(
    attached: Mapping[str, str], ran: Mapping[str, int], noticed: str | None
) -> None:
    """It notices another workspace, another key, and a proof that has proved nothing."""
    problems = list(verdict(attached, SIGNED, ran))
    assert bool(problems) is (noticed is not None)
    assert noticed is None or noticed in problems[0]
