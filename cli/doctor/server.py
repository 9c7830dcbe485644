"""What is set up on the Prefect server: work pools, workers, deployments, automations."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any, Final
from uuid import UUID

import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import WorkPool
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.schemas.automations import Automation
from prefect.exceptions import ObjectNotFound

from cli.client import check_api, every
from cli.deploy import (
    OWN_ENVIRONMENT,
    PREFECT_FILE,
    REMINDER,
    automation_files,
    pool_problem,
)
from cli.doctor.finding import DoctorFinding
from cli.kept import load_flow, triggers_of
from cmek.errors import listed
from cmek.records import KEY_FILE, RECORDS
from cmek.signatures.signers import REQUIRED_VARIABLE

_DEFAULT_POOL: Final = "cmek"


def check_server(client: SyncPrefectClient, url: str) -> DoctorFinding:
    """Whether server and worker run the same minor version of Prefect; `url` is for the text."""
    theirs, ours = check_api(client, url), version("prefect")
    same = theirs.split(".")[:2] == ours.split(".")[:2]
    return DoctorFinding(
        check="server",
        status="pass" if same else "fail",
        found=f"{url} runs Prefect {theirs}; here it is {ours}",
        remedy="" if same else "install the same requirements.lock for server and worker",
    )


def check_pools(
    client: SyncPrefectClient, deployments: Mapping[str, DeploymentResponse]
) -> Iterator[DoctorFinding]:
    """For each work pool of ours: whether a run can change its job, and whether it has a worker."""
    names = {one.work_pool_name for one in deployments.values() if one.work_pool_name} or {
        _DEFAULT_POOL
    }
    for name in sorted(names):
        problem = pool_problem(client, name)
        if problem:
            what, _, remedy = problem.partition(": ")
            yield DoctorFinding(check=f"work pool {name}", status="fail", found=what, remedy=remedy)
            continue
        pool = client.read_work_pool(name)
        paused = [f"prefect work-pool resume {name}"] if pool.is_paused else []
        paused += [
            f"prefect work-queue resume {queue.name} --pool {name}"
            for queue in client.read_work_queues(work_pool_name=name)
            if queue.is_paused
        ]
        yield DoctorFinding(
            check=f"work pool {name}",
            status="fail" if paused else "pass",
            found="it is paused, or a queue of it: there no run starts"
            if paused
            else "a run has no say about its job",
            remedy="; ".join(paused),
        )
        if pool.type != "process":
            yield _jobs(pool)
        yield _worker(client, name)


def _jobs(pool: WorkPool) -> DoctorFinding:
    """Check the environment of jobs: their machines have no signers and keep no records."""
    given = dict(_variables(pool.base_job_template))
    wrong = [
        f"{name}={given[name]}" if name in given else f"no {name}"
        for name, wanted in _OF_JOBS.items()
        if not re.fullmatch(wanted, given.get(name, ""))
    ]
    return DoctorFinding(
        check=f"jobs of {pool.name}",
        status="fail" if wrong else "pass",
        found=f"their environment has {listed(wrong)}: "
        "typed approvals would be accepted, or a run that waited would find nothing"
        if wrong
        else "typed approvals are refused, and what a waiting run remembers is kept in a bucket",
        remedy="take env from the template in deploy/, with the name of your bucket"
        if wrong
        else "",
    )


_OF_JOBS: Final = {
    REQUIRED_VARIABLE: "[1-9]",
    RECORDS: "gs://(?!BUCKET(/|$)).+",
    KEY_FILE: "/.+",
}
"""The variables that a job needs, and what their values look like."""


def _variables(template: object) -> Iterator[tuple[str, str]]:
    """Each variable of a job, as containers have them: `{"name": …, "value": …}`."""
    if isinstance(template, dict):
        if isinstance(template.get("name"), str) and "value" in template:
            yield template["name"], str(template["value"])
        for one in template.values():
            yield from _variables(one)
    elif isinstance(template, list):
        for one in template:
            yield from _variables(one)


def _worker(client: SyncPrefectClient, pool: str) -> DoctorFinding:
    path = {"work_pool_name": pool}
    found = client.request(
        "POST", "/work_pools/{work_pool_name}/workers/filter", path_params=path, json={}
    )
    online = [one["name"] for one in found.json() if one["status"] == "ONLINE"]
    return DoctorFinding(
        check=f"worker of {pool}",
        status="pass" if online else "fail",
        found=f"online: {', '.join(online)}" if online else "no worker is online: no run starts",
        remedy="" if online else "systemctl status cmek-worker; journalctl -u cmek-worker",
    )


def wanted_deployments() -> dict[str, dict[str, Any]] | None:
    """The deployments of the file by FLOW/NAME, or None where there is no file."""
    if not PREFECT_FILE.is_file():
        return None
    found = yaml.safe_load(PREFECT_FILE.read_text(encoding="utf-8"))["deployments"]
    return {f"{load_flow(one).name}/{one['name']}": one for one in found}


def check_deployments(
    deployments: Mapping[str, DeploymentResponse], wanted: Mapping[str, object] | None
) -> DoctorFinding:
    """Whether all of the file are there, and none takes unknown parameters."""
    if wanted is None:
        return DoctorFinding(
            check="deployments",
            status="unknown",
            found=f"there is no {PREFECT_FILE} that says which there should be",
            remedy=OWN_ENVIRONMENT,
        )
    missing = sorted(set(wanted) - set(deployments))
    open_forms = sorted(
        name
        for name, one in deployments.items()
        if (one.parameter_openapi_schema or {}).get("additionalProperties") is not False
    )
    faults = [f"missing: {', '.join(missing)}"] if missing else []
    if open_forms:
        faults.append(f"unknown parameters are accepted by: {', '.join(open_forms)}")
    return DoctorFinding(
        check="deployments",
        status="fail" if faults else "pass",
        found="; ".join(faults) or f"{len(deployments)} are there",
        remedy="cmek deploy --project PROJECT" if faults else "",
    )


def check_schedules(
    deployments: Mapping[str, DeploymentResponse], wanted: Mapping[str, Mapping[str, object]] | None
) -> DoctorFinding:
    """Whether what should run by itself has a schedule that is active."""
    idle = sorted(
        name
        for name, one in deployments.items()
        if one.schedules and (one.paused or not any(each.active for each in one.schedules))
    )
    bare = sorted(
        name
        for name, one in (wanted or {}).items()
        if one.get("schedules") and name in deployments and not deployments[name].schedules
    )
    planned = sum(bool(one.schedules) for one in deployments.values())
    faults = [f"paused: {', '.join(idle)}"] if idle else []
    if bare:
        faults.append(f"without a schedule: {', '.join(bare)}")
    found = "; ".join(faults) or f"{planned} active"
    return DoctorFinding(
        check="schedules",
        status="pass" if planned and not faults else "warn",
        found=found if planned else "no deployment has one: no key is checked by itself",
        remedy="switch the schedule on in the UI; where there is none: cmek deploy",
    )


def check_triggers(
    client: SyncPrefectClient,
    deployments: Mapping[str, DeploymentResponse],
    wanted: Mapping[str, Mapping[str, Any]] | None,
) -> DoctorFinding:
    """Whether the events that start a deployment still do; each has an automation of its own."""
    off, there = [], 0
    for name, in_file in sorted((wanted or {}).items()):
        names = [one["name"] for one in in_file.get("triggers") or ()]
        if not names or name not in deployments:
            continue
        enabled = triggers_of(client, deployments[name])
        off += [f"{one} (of {name})" for one in names if not enabled.get(one)]
        there += sum(enabled.get(one, False) for one in names)
    return DoctorFinding(
        check="triggers",
        status="warn" if off else "pass" if there else "unknown",
        found=f"off or missing: {', '.join(off)}: their events start nothing"
        if off
        else f"{there} are on"
        if there
        else "there is no deployment with one",
        remedy="switch it on under Automations in the UI; where there is none: cmek deploy",
    )


def check_automations(client: SyncPrefectClient) -> DoctorFinding:
    """Which automations are missing, of which the reminder alone may be, or can do nothing."""
    wanted = {yaml.safe_load(one.read_text(encoding="utf-8"))["name"] for one in automation_files()}
    there = [one for one in every(client.read_automations) if one.enabled and one.name in wanted]
    missing = sorted(wanted - {one.name for one in there})
    gone = _gone(client, there)
    if gone:
        # An id stays as it is when its block is deleted and made anew under the same name.
        absent = f"; not installed or switched off: {', '.join(missing)}" if missing else ""
        return DoctorFinding(
            check="automations",
            status="fail",
            found=f"these do nothing, as their block or deployment was deleted, even if there is"
            f" one of the same name now: {', '.join(gone)}{absent}",
            remedy="install again with each block: cmek automations install --block TYPE/NAME",
        )
    if missing == [REMINDER]:
        # somebody has chosen so
        found = "all are there but the reminder, which `--approval-hours 0` leaves out"
        return DoctorFinding(check="automations", status="pass", found=found)
    return DoctorFinding(
        check="automations",
        status="warn" if missing else "pass",
        found=f"not installed or switched off: {', '.join(missing)}"
        if missing
        else "all are there",
        remedy="cmek automations install --block TYPE/NAME" if missing else "",
    )


def _gone(client: SyncPrefectClient, automations: Sequence[Automation]) -> list[str]:
    """The names of those with an action whose block or deployment is not on the server."""

    @cache
    def exists(read: Callable[[UUID], object], one: UUID) -> bool:
        try:
            read(one)
        except ObjectNotFound:
            return False
        return True

    def read_block(one: UUID) -> object:
        return client.read_block_document(one, include_secrets=False)

    reads = {"block_document_id": read_block, "deployment_id": client.read_deployment}
    return sorted(
        {
            automation.name
            for automation in automations
            for action in automation.actions
            for field, read in reads.items()
            if (named := getattr(action, field, None)) and not exists(read, named)
        }
    )


def project_of(deployments: Mapping[str, DeploymentResponse]) -> str | None:
    """The project that `cmek deploy --project` gave to discovery."""
    for one in deployments.values():
        request = (one.parameters or {}).get("request")
        if isinstance(request, dict) and request.get("project_id"):
            return str(request["project_id"])
    return None
