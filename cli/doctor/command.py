"""`cmek doctor`: whether server, worker, credentials and approvals are set up as they should be.

It changes nothing. Where it runs matters: signers, results and application default credentials are
those of this machine and this user, so it is run as the worker's user on the worker's machine.
"""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Final
from urllib.request import getproxies_environment

import typer
from prefect.client.orchestration import get_client

from cli.client import configured_url, explained
from cli.deploy import named_deployments
from cli.doctor.credentials import check_blocks
from cli.doctor.finding import DoctorFinding
from cli.doctor.server import (
    check_automations,
    check_deployments,
    check_pools,
    check_schedules,
    check_server,
    check_triggers,
    project_of,
    wanted_deployments,
)
from cli.doctor.web import check_proxy, check_web
from cli.options import AnthropicBlock, JsonArray, KmsBlock, PolicyBlock, check_project
from cli.terminal import STATUS_STYLES, new_console, printable, show_rows
from cmek.addresses import is_loopback
from cmek.errors import CmekError
from cmek.onboarding.policy import DEFAULT_POLICY
from cmek.signatures.signers import DIRECTORY, REQUIRED_VARIABLE, find_signers, required_signatures
from cmek.signatures.verification import PROGRAM

_SETTINGS: Final = (
    "set PREFECT_API_URL and PREFECT_API_AUTH_STRING in this shell, as in docs/operations.md"
)
_ENROL: Final = f"enrol the approvers in {DIRECTORY}/allowed_signers (docs/operations.md, step 8)"


def doctor_command(
    *,
    policy: PolicyBlock = DEFAULT_POLICY,
    anthropic_block: AnthropicBlock = None,
    kms_block: KmsBlock = None,
    project_id: Annotated[
        str | None,
        typer.Option(
            "--project",
            callback=check_project,
            help="Google Cloud project of the keys; the one that discovery has unless given.",
        ),
    ] = None,
    as_json: JsonArray = False,
) -> None:
    """Check the set-up and say what to do about each fault; exit code 1 on a failure.

    Run it as the worker's user on the worker's machine: signers and application default credentials
    are looked for there. It changes nothing.
    """
    findings = list(examine(anthropic_block, kms_block, project_id, policy))
    if as_json:
        typer.echo(json.dumps([one.model_dump() for one in findings], ensure_ascii=False))
    else:
        show_rows(new_console(), ("", "check", "found", "what to do"), map(_row, findings))
    if any(one.status == "fail" for one in findings):
        raise typer.Exit(1)


def examine(
    anthropic_block: str | None,
    kms_block: str | None,
    project_id: str | None,
    policy: str = DEFAULT_POLICY,
) -> Iterator[DoctorFinding]:
    """Every check in the order in which a set-up is made; one that fails does not stop the rest."""
    yield _approvals()
    try:
        url = configured_url()
    except CmekError as error:
        yield DoctorFinding(check="server", status="fail", found=str(error), remedy=_SETTINGS)
        return
    yield check_proxy(url, getproxies_environment())
    settings = {"trust_env": False} if is_loopback(url) else None
    try:
        with explained(url), get_client(httpx_settings=settings, sync_client=True) as client:
            yield check_server(client, url)
            yield from check_web(url)
            deployments = named_deployments(client)
            yield from check_pools(client, deployments)
            wanted = wanted_deployments()
            yield check_deployments(deployments, wanted)
            yield check_schedules(deployments, wanted)
            yield check_triggers(client, deployments, wanted)
            yield check_automations(client)
            project = project_id or project_of(deployments)
            yield from check_blocks(policy, anthropic_block, kms_block, project)
    except CmekError as error:
        yield DoctorFinding(check="server", status="fail", found=str(error), remedy=_SETTINGS)


def _approvals() -> DoctorFinding:
    """What this user of this machine would accept as an approval."""
    me = f"as {getpass.getuser()} on this machine"
    try:
        signers = find_signers()
        needed = required_signatures(signers, 0)
    except CmekError as error:
        return DoctorFinding(
            check="approvals", status="fail", found=f"{me}: {error}", remedy=_ENROL
        )
    if signers is None:
        return DoctorFinding(
            check="approvals",
            status="warn",
            found=f"{me} typed approvals are accepted: no approver is enrolled",
            remedy=f"{_ENROL}, and set {REQUIRED_VARIABLE}=1 in the worker's environment, so that a"
            " worker without them attaches nothing",
        )
    if not os.access(PROGRAM, os.X_OK):
        return DoctorFinding(
            check="approvals",
            status="fail",
            found=f"{PROGRAM}, which verifies signatures, is not installed",
            remedy="apt-get install openssh-client",
        )
    if shortage := replace(signers, minimum=needed).shortage:
        return DoctorFinding(
            check="approvals", status="fail", found=f"{me} {shortage}", remedy=_ENROL
        )
    people = "an unknown number of" if signers.people is None else len(signers.people)
    return DoctorFinding(
        check="approvals",
        status="pass" if REQUIRED_VARIABLE in os.environ else "warn",
        found=f"{me} {people} people are enrolled; an attach needs {needed} signatures",
        remedy=f"set {REQUIRED_VARIABLE}={needed} in the worker's environment: a worker that is"
        " moved to where the signers are not then attaches nothing",
    )


def _row(one: DoctorFinding) -> tuple[str, str, str, str]:
    remedy = "" if one.status == "pass" else printable(one.remedy)
    status = f"[{STATUS_STYLES[one.status]}]{one.status}[/]"
    return status, printable(one.check), printable(one.found), remedy
