"""The policy, the credentials of its blocks, and what the worker may do with them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import httpx
import yaml
from pydantic import ValidationError

from blocks.anthropic_admin import AnthropicAdmin
from cli.deploy import PROJECT
from cli.doctor.finding import LONGEST, DoctorFinding, said
from cmek._http import http_client, send_bounded
from cmek.errors import CmekError
from cmek.gcp.gcloud import bind, key_in, revoke
from cmek.keys.prerequisites import unknown_warnings
from cmek.models import FrozenModel
from cmek.onboarding.policy import OnboardingSettings, deviations
from cmek.plain_text import shortened
from tasks.clients import (
    admin_client,
    close_clients,
    google_client,
    kms_client,
    load_block,
    onboarding_policy,
)
from tasks.revalidation import read_all_registered

_ROLES: Final = PROJECT / "deploy" / "roles"
_WRITES: Final = ("cloudkms.cryptoKeys.update", "cloudkms.cryptoKeys.setIamPolicy")
_SOMEBODY: Final = "MEMBER"
"""Placeholder in a command when the caller is not known."""
_SECONDS: Final = 10.0
"""For the answer of a gateway."""
_ASKED_KEYS: Final = 20
"""For how many attached keys the write access is tested."""


def check_blocks(
    policy: str, anthropic_block: str | None, kms_block: str | None, project: str | None
) -> list[DoctorFinding]:
    """The policy, and the credentials of the blocks that it names unless others were given."""

    async def checked() -> list[DoctorFinding]:
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
    loaded = await load_block(AnthropicAdmin, block)
    if loaded.gateway:
        return await check_gateway(loaded.base_url)
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


async def check_gateway(base_url: str) -> DoctorFinding:
    """Whether the gateway at this address is ready to attach.

    A gateway that does not answer, or answers something else, is a failure, not an error.
    """
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
            f"{response.status_code}, {said(response)}",
            remedy="correct the block's address, the proxy before the gateway, or `names` in the "
            "gateway's settings (docs/gateway.md)",
        )
    problems = [shortened(one, LONGEST) for one in health.problems]
    if health.unsettled:
        problems.append(f"{health.unsettled} attaches without a known outcome")
    if not (problems or response.is_success):
        problems.append(f"HTTP {response.status_code} without a reason")
    return DoctorFinding(
        check="gateway",
        status="fail" if problems else "pass",
        found="; ".join(problems)
        or f"{base_url} holds the credential for {shortened(health.upstream, LONGEST)}; an attach "
        f"needs {health.minimum_signatures} signatures",
        remedy="journalctl -u cmek-gateway says more" if problems else "",
    )


async def _google(block: str, project: str | None) -> DoctorFinding:
    """Which permissions of the role in deploy/ the worker's identity has on the project."""
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
