"""`cmek doctor`: whether server, worker, credentials and approvals are set up as they should be.

It changes nothing. Where it runs matters: signers, results and application default credentials are
those of this machine and this user, so it is run as the worker's user on the worker's machine.
"""

from __future__ import annotations

import asyncio
import base64
import getpass
import json
import os
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit
from urllib.request import (  # type: ignore[attr-defined]
    getproxies_environment,
    proxy_bypass_environment,
)
from uuid import UUID

import httpx
import typer
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import WorkPool
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.schemas.automations import Automation
from prefect.exceptions import ObjectNotFound
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_SSL_CERT_FILE,
    PREFECT_API_TLS_INSECURE_SKIP_VERIFY,
    get_current_settings,
)
from pydantic import ValidationError

from cli.client import check_api, configured_url, every, explained, redirect_target
from cli.deploy import (
    OWN_ENVIRONMENT,
    PREFECT_FILE,
    PROJECT,
    REMINDER,
    automation_files,
    named_deployments,
    pool_problem,
)
from cli.kept import load_flow
from cli.options import AnthropicBlock, JsonArray, KmsBlock, PolicyBlock, check_project
from cli.terminal import STATUS_STYLES, new_console, printable, show_rows
from cmek.addresses import is_loopback
from cmek.errors import CmekError
from cmek.gcp.gcloud import bind, key_in, revoke
from cmek.keys.prerequisites import unknown_warnings
from cmek.models import FrozenModel
from cmek.onboarding.policy import DEFAULT_POLICY, OnboardingSettings, deviations
from cmek.plain_text import shortened
from cmek.records import RECORDS
from cmek.signatures.signers import DIRECTORY, REQUIRED_VARIABLE, find_signers, required_signatures
from cmek.signatures.verification import PROGRAM

Status = Literal["pass", "warn", "fail", "unknown"]
_ROLES: Final = PROJECT / "deploy" / "roles"
_WRITES: Final = ("cloudkms.cryptoKeys.update", "cloudkms.cryptoKeys.setIamPolicy")
_SOMEBODY: Final = "MEMBER"
"""Placeholder in a command when the caller is not known."""
_ASKED_KEYS: Final = 20
"""For how many attached keys the write access is tested."""
_DEFAULT_POOL: Final = "cmek"
_SECONDS: Final = 10.0
_NO_CSRF: Final = 422
"""What Prefect answers to the request for a token where the protection is off."""
_LONGEST: Final = 400
"""Characters of a text that a gateway, or what is in its place, has given."""


class DoctorFinding(FrozenModel):
    """One check: what was found, and what to do where it is not as it should be."""

    check: str
    status: Status
    found: str
    remedy: str = ""


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
    yield _proxy(url, getproxies_environment())
    settings = {"trust_env": False} if is_loopback(url) else None
    try:
        with explained(url), get_client(httpx_settings=settings, sync_client=True) as client:
            yield _server(client, url)
            yield from _web(url)
            deployments = named_deployments(client)
            yield from _pools(client, deployments)
            wanted = _wanted()
            yield _deployments(deployments, wanted)
            yield _schedules(deployments, wanted)
            yield check_automations(client)
            project = project_id or _project(deployments)
            yield from _blocks(policy, anthropic_block, kms_block, project)
    except CmekError as error:
        yield DoctorFinding(check="server", status="fail", found=str(error), remedy=_SETTINGS)


_SETTINGS: Final = (
    "set PREFECT_API_URL and PREFECT_API_AUTH_STRING in this shell, as in docs/operations.md"
)
_ENROL: Final = f"enrol the approvers in {DIRECTORY}/allowed_signers (docs/operations.md, step 8)"


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
    people = sum(
        bool(line.strip()) and not line.lstrip().startswith("#")
        for line in signers.allowed_lines.splitlines()
    )
    return DoctorFinding(
        check="approvals",
        status="pass" if REQUIRED_VARIABLE in os.environ else "warn",
        found=f"{me} {people} enrolled keys; an attach needs {needed} signatures",
        remedy=f"set {REQUIRED_VARIABLE}={needed} in the worker's environment: a worker that is"
        " moved to where the signers are not then attaches nothing",
    )


def _server(client: SyncPrefectClient, url: str) -> DoctorFinding:
    theirs, ours = check_api(client, url), version("prefect")
    same = theirs.split(".")[:2] == ours.split(".")[:2]
    return DoctorFinding(
        check="server",
        status="pass" if same else "fail",
        found=f"{url} runs Prefect {theirs}; here it is {ours}",
        remedy="" if same else "install the same requirements.lock for server and worker",
    )


def _proxy(url: str, proxies: Mapping[str, str]) -> DoctorFinding:
    """Whether Prefect's own client, which reads the environment, sends the login through a proxy.

    Args:
        url: Of the server.
        proxies: From the environment, `no` among them: as `getproxies_environment` gives them.
    """
    parts = urlsplit(url)
    host, proxied = parts.hostname or "", parts.scheme in proxies or "all" in proxies
    if not proxied or is_loopback(url) or proxy_bypass_environment(host, dict(proxies)):
        return DoctorFinding(check="proxy", status="pass", found=f"none between here and {host}")
    return DoctorFinding(
        check="proxy",
        status="warn",
        found=f"a proxy is set and NO_PROXY does not name {host}: each call to the Prefect server, "
        "with its login, goes through the proxy",
        remedy=f"add {host} to NO_PROXY and no_proxy, here and in worker.env; a proxy is for "
        "Google and Anthropic",
    )


def _web(url: str) -> Iterator[DoctorFinding]:
    """Login, CSRF protection and UI, as a browser or another program meets them."""
    url = url.rstrip("/")
    headers = get_current_settings().client.custom_headers
    with httpx.Client(
        trust_env=not is_loopback(url), timeout=_SECONDS, verify=_tls(), headers=headers
    ) as http:
        bare = http.build_request("GET", f"{url}/admin/version")
        bare.headers.pop("authorization", None)  # a login, for whomever it is
        yield _login(_sent(http, bare), is_local=is_loopback(url))
        asked = {"client": "cmek-doctor"}
        token = http.build_request("GET", f"{url}/csrf-token", params=asked)
        if login := PREFECT_API_AUTH_STRING.value():
            basic = base64.b64encode(str(login).encode()).decode()
            token.headers.setdefault("authorization", f"Basic {basic}")
        yield _csrf(_sent(http, token))
        yield _ui(
            _sent(http, http.build_request("GET", f"{url.removesuffix('/api')}/ui-settings")), url
        )


def _tls() -> ssl.SSLContext:
    """As Prefect's own client makes it: the settings name an authority, or accept any."""
    if PREFECT_API_TLS_INSECURE_SKIP_VERIFY.value():
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context
    authority = PREFECT_API_SSL_CERT_FILE.value()
    return ssl.create_default_context(cafile=authority) if authority else httpx.create_ssl_context()


def _sent(http: httpx.Client, request: httpx.Request) -> httpx.Response | str:
    """What was answered, or why nothing was."""
    try:
        return http.send(request)
    except httpx.HTTPError as error:
        return f"{request.url}: {error or type(error).__name__}"


def _unclear(check: str, answer: httpx.Response | str) -> DoctorFinding:
    if isinstance(answer, str):
        found = shortened(answer, _LONGEST)
    else:
        to = f" to {redirect_target(answer)}" if answer.is_redirect else f", {_said(answer)}"
        found = f"{answer.url} answers HTTP {answer.status_code}{to}"
    return DoctorFinding(
        check=check,
        status="unknown",
        found=found,
        remedy="something before the Prefect server answers, or nothing: PREFECT_API_URL, "
        "PREFECT_CLIENT_CUSTOM_HEADERS and PREFECT_API_SSL_CERT_FILE say how it is reached; else"
        " run cmek doctor beside the server",
    )


def _login(answer: httpx.Response | str, *, is_local: bool) -> DoctorFinding:
    if isinstance(answer, str):
        return _unclear("login", answer)
    if answer.status_code in {401, 403}:
        return DoctorFinding(check="login", status="pass", found="the API wants a login")
    if not _is_accepted(answer):
        return _unclear("login", answer)
    return DoctorFinding(
        check="login",
        status="warn" if is_local else "fail",
        found="the API wants no login: whoever reaches it can run code as the worker",
        remedy="set PREFECT_SERVER_API_AUTH_STRING for the server, PREFECT_API_AUTH_STRING here",
    )


def _is_accepted(answer: httpx.Response) -> bool:
    """Whether the API has done what was asked; a proxy's page for a login may be a 200 too."""
    return answer.is_success and "json" in answer.headers.get("content-type", "")


def _csrf(answer: httpx.Response | str) -> DoctorFinding:
    if isinstance(answer, str):
        return _unclear("CSRF protection", answer)
    on = _is_accepted(answer)
    if not on and answer.status_code != _NO_CSRF:
        return _unclear("CSRF protection", answer)
    return DoctorFinding(
        check="CSRF protection",
        status="pass" if on else "warn",
        found="on" if on else "off: a page in a browser can send writes",
        remedy="set PREFECT_SERVER_CSRF_PROTECTION_ENABLED=true for the server",
    )


class _UiSettings(FrozenModel):
    """What Prefect's server says of its pages."""

    available_uis: tuple[str, ...] = ()
    api_url: str = ""


def _ui(response: httpx.Response | str, url: str) -> DoctorFinding:
    if isinstance(response, str):
        return _unclear("UI", response)
    try:
        settings = _UiSettings.model_validate_json(response.raise_for_status().content)
    except (httpx.HTTPStatusError, ValidationError):
        return DoctorFinding(
            check="UI",
            status="unknown",
            found=f"{response.url} answers {response.status_code}",
            remedy="switched off (PREFECT_SERVER_UI_ENABLED), or served elsewhere",
        )
    if not settings.available_uis:
        return DoctorFinding(
            check="UI",
            status="fail",
            found="the server has no pages to serve: it could not write them",
            remedy="set PREFECT_SERVER_UI_STATIC_DIRECTORY to a folder that its user can write",
        )
    same = settings.api_url.rstrip("/") == url.rstrip("/")
    return DoctorFinding(
        check="UI",
        status="pass" if same else "warn",
        found=f"its pages call {settings.api_url}",
        remedy=""
        if same
        else f"right if a browser reaches that; else set"
        f" PREFECT_SERVER_UI_API_URL={url} for the server",
    )


def _pools(
    client: SyncPrefectClient, deployments: Mapping[str, DeploymentResponse]
) -> Iterator[DoctorFinding]:
    names = {one.work_pool_name for one in deployments.values() if one.work_pool_name} or {
        _DEFAULT_POOL
    }
    for name in sorted(names):
        problem = pool_problem(client, name)
        if problem:
            what, _, remedy = problem.partition(": ")
            yield DoctorFinding(check=f"work pool {name}", status="fail", found=what, remedy=remedy)
            continue
        yield DoctorFinding(
            check=f"work pool {name}", status="pass", found="a run has no say about its job"
        )
        pool = client.read_work_pool(name)
        if pool.type != "process":
            yield _jobs(pool)
        yield _worker(client, name)


def _jobs(pool: WorkPool) -> DoctorFinding:
    """Check the environment of jobs: their machines have no signers and keep no records."""
    text = json.dumps(pool.base_job_template)
    missing = [one for one in (REQUIRED_VARIABLE, RECORDS) if one not in text]
    return DoctorFinding(
        check=f"jobs of {pool.name}",
        status="fail" if missing else "pass",
        found=f"their environment has no {' and no '.join(missing)}: "
        "typed approvals would be accepted, or a run that waited would find nothing"
        if missing
        else "typed approvals are refused, and what a waiting run remembers is kept in a bucket",
        remedy="take env from the template in deploy/" if missing else "",
    )


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


def _wanted() -> dict[str, dict[str, Any]] | None:
    """The deployments of the file by FLOW/NAME, or None where there is no file."""
    if not PREFECT_FILE.is_file():
        return None
    found = yaml.safe_load(PREFECT_FILE.read_text(encoding="utf-8"))["deployments"]
    return {f"{load_flow(one).name}/{one['name']}": one for one in found}


def _deployments(
    deployments: Mapping[str, DeploymentResponse], wanted: Mapping[str, object] | None
) -> DoctorFinding:
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


def _schedules(
    deployments: Mapping[str, DeploymentResponse], wanted: Mapping[str, Mapping[str, object]] | None
) -> DoctorFinding:
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


def _project(deployments: Mapping[str, DeploymentResponse]) -> str | None:
    """The project that `cmek deploy --project` gave to discovery."""
    for one in deployments.values():
        request = (one.parameters or {}).get("request")
        if isinstance(request, dict) and request.get("project_id"):
            return str(request["project_id"])
    return None


def _blocks(
    policy: str, anthropic_block: str | None, kms_block: str | None, project: str | None
) -> list[DoctorFinding]:
    """The policy, and the credentials of the blocks that it names unless others were given."""

    async def checked() -> list[DoctorFinding]:
        from tasks.clients import close_clients  # noqa: PLC0415

        settings = OnboardingSettings()
        try:
            finding, settings = await _policy(policy)
        except CmekError as error:
            finding = DoctorFinding(
                check="policy",
                status="fail",
                found=str(error),
                remedy="cmek deploy makes the block `default`; another one is made under Blocks",
            )
        admin, kms = anthropic_block or settings.anthropic_block, kms_block or settings.kms_block
        try:
            credential = await _guarded("Anthropic credential", lambda: _anthropic(admin))
            found = [
                finding,
                credential,
                await _guarded("Google credential", lambda: _google(kms, project)),
            ]
            if credential.check == "gateway":
                found.append(await _guarded("write access", lambda: write_access(admin, kms)))
            return found
        finally:
            await close_clients()

    return asyncio.run(checked())


async def _policy(name: str) -> tuple[DoctorFinding, OnboardingSettings]:
    """What differs from the guide, and accepted warnings that no check has."""
    from tasks.clients import onboarding_policy  # noqa: PLC0415

    policy = await onboarding_policy(name)
    unknown = unknown_warnings(policy)
    differing = ", ".join(one.field for one in deviations(policy))
    finding = DoctorFinding(
        check="policy",
        status="warn" if unknown else "pass",
        found=f"{name} accepts warnings that no check has: {', '.join(unknown)}"
        if unknown
        else f"{name} differs from the guide in: {differing}"
        if differing
        else f"{name} is as the guide recommends",
        remedy="edit the block; docs/troubleshooting.md has the ids" if unknown else "",
    )
    return finding, policy


async def _guarded(check: str, find: Callable[[], Awaitable[DoctorFinding]]) -> DoctorFinding:
    try:
        return await find()
    except CmekError as error:
        return DoctorFinding(check=check, status="fail", found=str(error), remedy=error.advice)


async def _anthropic(block: str) -> DoctorFinding:
    """Whose credential it is, and whether it reads what an onboarding reads."""
    from blocks.anthropic_admin import AnthropicAdmin  # noqa: PLC0415
    from tasks.clients import admin_client, load_block  # noqa: PLC0415

    loaded = await load_block(AnthropicAdmin, block)
    if loaded.gateway:
        return await _gateway(loaded.base_url)
    client = await admin_client(block)
    organization = await client.organization.me()
    async for _ in client.workspaces.list():
        break
    async for _ in client.external_keys.list():
        break
    return DoctorFinding(
        check="Anthropic credential",
        status="pass",
        found=f"{loaded.base_url} accepts it for {organization.name} ({organization.id}): "
        "organization, workspaces and external keys can be read; writes are not tried",
    )


class _GatewayHealth(FrozenModel):
    """What `GET /gateway/health` of a cmek gateway answers."""

    upstream: str
    problems: tuple[str, ...]
    minimum_signatures: int | None = None
    unsettled: int | None = None


async def _gateway(base_url: str) -> DoctorFinding:
    from cmek._http import http_client, send_bounded  # noqa: PLC0415

    try:
        async with http_client(base_url, timeout=_SECONDS) as http:
            request = http.build_request("GET", f"{base_url}/gateway/health")
            response = await send_bounded(http, request)
    except httpx.HTTPError as error:
        return DoctorFinding(
            check="gateway",
            status="fail",
            found=f"{base_url}: {error or type(error).__name__}",
            remedy="systemctl status cmek-gateway; journalctl -u cmek-gateway",
        )
    try:
        health = _GatewayHealth.model_validate_json(response.content)
    except ValidationError:
        return DoctorFinding(
            check="gateway",
            status="fail",
            found=f"{base_url} does not answer as a healthy cmek gateway: HTTP "
            f"{response.status_code}, {_said(response)}",
            remedy="correct the block's address, the proxy before the gateway, or `names` in the "
            "gateway's settings (docs/gateway.md)",
        )
    problems = [shortened(one, _LONGEST) for one in health.problems]
    if health.unsettled:
        problems.append(f"{health.unsettled} attaches without a known outcome")
    if not (problems or response.is_success):
        problems.append(f"HTTP {response.status_code} without a reason")
    return DoctorFinding(
        check="gateway",
        status="fail" if problems else "pass",
        found="; ".join(problems)
        or f"{base_url} holds the credential for {shortened(health.upstream, _LONGEST)}; an attach "
        f"needs {health.minimum_signatures} signatures",
        remedy="journalctl -u cmek-gateway says more" if problems else "",
    )


def _said(response: httpx.Response) -> str:
    """What the server says itself: the message of an error as the gateway gives it, or the text."""
    try:
        said = response.json()["error"]["message"]
    except (LookupError, RecursionError, TypeError, ValueError):
        said = response.text
    return shortened(said, _LONGEST) or "an empty answer"


async def _google(block: str, project: str | None) -> DoctorFinding:
    """Which permissions of the role in deploy/ the worker's identity has on the project."""
    from tasks.clients import google_client  # noqa: PLC0415

    client = await google_client(block)
    who = client.caller or "this identity"
    if project is None:
        return DoctorFinding(
            check="Google credential",
            status="unknown",
            found=f"{who}: no project is known, so nothing was asked",
            remedy="cmek doctor --project PROJECT",
        )
    role = _permissions_of("worker")
    held = await client.project_permissions(project, role)
    missing = [one for one in role if one not in held]
    if missing and not held & set(_WRITES) and held.issuperset(_permissions_of("watcher")):
        return DoctorFinding(
            check="Google credential",
            status="warn",
            found=f"{who} may watch over keys on {project}, and write nothing: an onboarding ends"
            " at its prerequisites",
            remedy=_give_back(project, client.caller),
        )
    return DoctorFinding(
        check="Google credential",
        status="fail" if missing else "pass",
        found=f"{who} lacks on {project}: {', '.join(missing)}"
        if missing
        else f"{who} has all {len(role)} permissions of deploy/roles/worker.yaml on {project}",
        remedy=_give_back(project, client.caller) if missing else "",
    )


def _permissions_of(role: str) -> list[str]:
    text = (_ROLES / f"{role}.yaml").read_text(encoding="utf-8")
    found: list[str] = yaml.safe_load(text)["includedPermissions"]
    return found


def _give_back(project: str, caller: str | None) -> str:
    return bind(f"projects/{project}", caller or _SOMEBODY, _worker_role(project))


def _worker_role(project: str) -> str:
    return f"projects/{project}/roles/cmekWorker"


async def write_access(anthropic_block: str, kms_block: str) -> DoctorFinding:
    """Whether this identity may change attached keys, which nothing of ours needs to do.

    Permissions are tested on the key itself, which includes grants on ring, project and above.

    Raises:
        CmekError: The external keys can't be listed, or Cloud KMS does not answer.
    """
    from tasks.clients import google_client, kms_client  # noqa: PLC0415
    from tasks.revalidation import read_all_registered  # noqa: PLC0415

    caller = (await google_client(kms_block)).caller
    who = caller or "this identity"
    kms = await kms_client(kms_block)
    refs = (await read_all_registered(anthropic_block)).refs
    names = sorted({one.key_name for one in refs if one.workspaces and key_in(one.key_name)})
    asked, left = names[:_ASKED_KEYS], len(names[_ASKED_KEYS:])
    held = await asyncio.gather(*(kms.test_iam_permissions(one, _WRITES) for one in asked))
    open_keys = [name for name, may in zip(asked, held, strict=True) if may]
    rest = f"; {left} more were not asked about" if left else ""
    if not open_keys:
        return DoctorFinding(
            check="write access",
            status="unknown" if left else "pass",
            found=f"{who} may change none of {len(asked)} attached keys{rest}",
            remedy="look for the worker in the policies of their projects and rings: "
            "gcloud projects get-iam-policy PROJECT"
            if left
            else "",
        )
    project = open_keys[0].split("/")[1]
    taken = revoke(f"projects/{project}", caller or _SOMEBODY, _worker_role(project))
    return DoctorFinding(
        check="write access",
        status="warn",
        found=f"{who} may change {len(open_keys)} of {len(asked)} attached keys, {open_keys[0]} "
        f"among them{rest}: whoever runs code as the worker could lock Anthropic out",
        remedy="an attached key needs no write of the worker: until the next onboarding, "
        f"{taken} (and give it cmekWatcher, or remove the grant from key or ring where it is "
        "there)",
    )


def _row(one: DoctorFinding) -> tuple[str, str, str, str]:
    remedy = "" if one.status == "pass" else printable(one.remedy)
    status = f"[{STATUS_STYLES[one.status]}]{one.status}[/]"
    return status, printable(one.check), printable(one.found), remedy
