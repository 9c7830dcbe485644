"""Anthropic's side: credential, organization, CMEK, workspace, and what no API shows.

Source: https://platform.claude.com/docs/en/manage-claude/cmek and …/admin-api
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cmek.admin_models import Workspace
from cmek.checks.findings import Findings
from cmek.checks.model import Check, Prerequisite
from cmek.checks.outcome import Answer, Read, Refused
from cmek.new_workspace import USUAL_LIMIT, named, namesakes
from cmek.request import OnboardingRequest

KEYS_PAGE: Final = "https://platform.claude.com/settings/admin-keys"
WHO: Final = "an admin of the Anthropic organization"

CREDENTIAL: Final = Prerequisite(
    "admin_credential",
    "Admin credential works, for the right organization",
    ("organization.me",),
    WHO,
    "Without it no key can be registered; with another organization's, the wrong one would be.",
)
CMEK: Final = Prerequisite(
    "cmek_reachable",
    "External keys can be read with this credential",
    ("external_keys.list (one page)",),
    f"{WHO}, or Anthropic's account team, which switches CMEK on",
    "CMEK is switched on for an organization by Anthropic's account team.",
)
WORKSPACE: Final = Prerequisite(
    "workspace",
    "Workspace is live and free for this key",
    (
        "workspaces.retrieve",
        "external_keys.retrieve (when the workspace has a key)",
        "workspaces.list (instead, for a new one)",
    ),
    WHO,
    "A workspace takes one key, once; an archived one takes none.",
)
RETENTION: Final = Prerequisite(
    "retention",
    "Workspace retains data",
    (),
    f"{WHO}, in the Console under the workspace's privacy settings: the approver acknowledges it",
    "A key needs a workspace that retains data; attaching locks that setting.",
)
FEATURES: Final = Prerequisite(
    "features",
    "Features that stop working are accepted",
    (),
    "the approver",
    "Console Playground, structured outputs on some models, organization webhooks (default "
    "workspace) and zero data retention end with the key.",
)
EFFECT: Final = Prerequisite(
    "effect_time",
    "Delay in a workspace that is in use is accepted",
    (),
    f"{WHO}, from the workspace's usage: the approver acknowledges it",
    "In a used workspace the key takes effect within a day; what was stored before stays as it is.",
)


def check_credential(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """A refused credential fails; an Admin API that does not answer is unknown."""
    read = findings.anthropic.organization
    if isinstance(read, Refused):
        if read.status in {"401", "403"}:
            yield CREDENTIAL.failed(
                str(read), f"{KEYS_PAGE}: make an Admin API key and put it into the block"
            )
        else:
            yield CREDENTIAL.unknown(read)
        return
    found = f"organization {read.value.id} ({read.value.name})"
    expected = request.expected_organization
    if expected is not None and read.value.id != expected:
        yield CREDENTIAL.failed(
            f"{found}, expected {expected}",
            f"{KEYS_PAGE}: use an Admin API key of organization {expected}",
        )
    else:
        yield CREDENTIAL.passed(found)


def check_cmek(_: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """Reachable; that attaching is allowed shows only when it is done."""
    read = findings.anthropic.external_keys
    if isinstance(read, Answer):
        yield CMEK.passed("external keys can be listed")
    elif read.status in {"400", "401", "403", "404"}:
        yield CMEK.failed(
            str(read), "ask your Anthropic account team to switch CMEK on for the organization"
        )
    else:
        yield CMEK.unknown(read)


def check_workspace(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """Live, and without a key or with this one; of a new one, the name is free."""
    if request.create_workspace is not None:
        yield _new(request.create_workspace, findings.anthropic.workspaces)
        return
    read = findings.anthropic.workspace or Refused("NOT_ASKED", "no workspace is named")
    another = "choose another workspace, or make one"
    if isinstance(read, Refused):
        if read.status == "404":
            yield WORKSPACE.failed(f"{request.workspace_id}: {read}", another)
        else:
            yield WORKSPACE.unknown(read)
        return
    workspace = read.value
    named = f"{workspace.id} ({workspace.name})"
    if workspace.is_archived:
        yield WORKSPACE.failed(f"{named} was archived at {workspace.archived_at}", another)
    elif workspace.external_key_id is None:
        yield WORKSPACE.passed(f"{named} is live and has no key")
    else:
        yield _attached(request, findings, named, workspace.external_key_id)


def _new(name: str, read: Read[tuple[Workspace, ...]] | None) -> Check:
    if not isinstance(read, Answer):
        return WORKSPACE.unknown(read or f"nobody has looked whether {name!r} is free")
    taken = namesakes(read.value, name)
    if taken:
        return WORKSPACE.failed(
            f"{name!r} is taken, or looks like: {named(taken)}",
            "onboard that one by its id, or choose another name",
        )
    live = f"the name {name!r} is free among {len(read.value)} live workspaces"
    if len(read.value) > USUAL_LIMIT:  # the default one does not count
        return WORKSPACE.warned(
            f"{live}, and an organization has at most {USUAL_LIMIT} unless Anthropic raised that",
            "archive one that nobody needs, or ask your Anthropic account team",
        )
    return WORKSPACE.passed(live)


def _attached(request: OnboardingRequest, findings: Findings, named: str, key_id: str) -> Check:
    read = findings.anthropic.workspace_key
    if not isinstance(read, Answer):
        return WORKSPACE.unknown(read or f"{named} has {key_id}, which was not read")
    name = read.value.gcp_key_name
    if name == str(request.key_name):
        return WORKSPACE.passed(f"{named} has this key already: {key_id}")
    return WORKSPACE.failed(
        f"{named} has another key, {key_id}: {name or 'not a Google Cloud key'}",
        "make a new workspace; a workspace's key can never be replaced",
    )


def check_eligibility(request: OnboardingRequest, _: Findings) -> Iterator[Check]:
    """What no API shows and a person therefore acknowledges before attaching."""
    workspace = request.workspace
    yield RETENTION.unknown(f"no API shows whether {workspace} retains data; {RETENTION.why}")
    yield FEATURES.warned(f"in {workspace}: {FEATURES.why}")
    if request.create_workspace is not None:
        yield EFFECT.passed(f"{workspace} is covered from its first request on")
    else:
        yield EFFECT.warned(f"{workspace}: {EFFECT.why}")
