"""The record as a page for people, with queries of other logs about the same events.

Our record says what we did. Cloud Audit Logs and Anthropic's activity feed say what everyone did,
and we can't write to them. The page contains the record itself, byte for byte.

Source: https://docs.cloud.google.com/kms/docs/audit-logging and
https://platform.claude.com/docs/en/manage-claude/compliance-activity-feed
"""

from __future__ import annotations

import re
import shlex
from datetime import datetime
from typing import Final
from urllib.parse import quote, urlencode

from pydantic import BaseModel, ValidationError

from cmek.addresses import ADMIN_API, ADMIN_HEADERS
from cmek.anthropic_identity import SERVICE_ACCOUNT
from cmek.evidence.record import Chain, EvidenceEntry, EvidenceIntegrityError
from cmek.gcp.gcloud import key_in
from cmek.keys.health_rules import THREATENING_METHODS
from cmek.models import FrozenModel, rule_of
from cmek.names import ExternalKeyId, KeyName, WorkspaceId
from cmek.plain_text import code, escape, table

ACTIVITY_TYPES: Final = (
    "org_external_key_created",
    "org_external_key_updated",
    "org_external_key_deleted",
    "org_external_key_validated",
    "platform_workspace_created",
    "platform_workspace_updated",
    "platform_workspace_archived",
    "platform_workspace_inference_data_retention_enabled",
    "platform_workspace_inference_data_retention_disabled",
)
"""An attach is a `platform_workspace_updated` with `external_key_config_id` in its updates."""
_HOW: Final = (
    "Each entry carries the hash of the one before it. `cmek evidence export` writes the record to "
    "a file, `cmek evidence verify` finds a changed byte."
)
# each line of a record begins with a brace, so no line can end the fence
_RECORD: Final = re.compile(r"^```jsonl\n((?:\{.*\n)+)```$", re.MULTILINE)


class Query(FrozenModel):
    """One query of another log."""

    title: str
    command: str
    link: str | None = None
    """A page that shows the same, if there is one."""
    needs: str
    """The rights and settings without which an empty result means nothing."""


class _Planned(BaseModel):
    """The fields of a recorded plan that a query needs; other releases may record other fields."""

    workspace_id: WorkspaceId | None
    """None for a workspace that was still to be created."""
    key_name: str
    external_key_id: ExternalKeyId


class _RecordedRequest(BaseModel):
    plan: _Planned


_METHODS: Final = f'protoPayload.methodName=~"(^|[.])({"|".join(THREATENING_METHODS)})$"'


def key_pattern(key: KeyName) -> str:
    """A regular expression for the `resourceName` of a key and its versions in a log.

    It has no project, since a log may name the project by id or by number.
    """
    return (
        f"/locations/{key.location}/keyRings/{key.key_ring}/cryptoKeys/{key.crypto_key}"
        "(/cryptoKeyVersions/[0-9]+)?$"
    )


def threats_filter(key: KeyName) -> str:
    """Log filter: calls that could break the key or open it to others, as in Terraform's alert.

    The ring is included: a grant on it applies to the key.
    """
    ring = f"/locations/{key.location}/keyRings/{key.key_ring}"
    below = f"(/cryptoKeys/{key.crypto_key}(/cryptoKeyVersions/[0-9]+)?)?"
    return _log_filter(key.project, "activity", _METHODS, f"{ring}{below}$")


def signals_filter(project: str) -> str:
    """Log filter for the Pub/Sub sink of `cmek listen`: the same calls, for every key."""
    return _log_filter(project, "activity", _METHODS, "/keyRings/")


def uses_filter(key: KeyName) -> str:
    """Log filter: everything that Anthropic's service account did with the key."""
    caller = f'protoPayload.authenticationInfo.principalEmail="{SERVICE_ACCOUNT}"'
    return _log_filter(key.project, "data_access", caller, key_pattern(key))


def _log_filter(project: str, log: str, condition: str, pattern: str) -> str:
    return (
        f'logName="projects/{project}/logs/cloudaudit.googleapis.com%2F{log}"\n'
        f'protoPayload.serviceName="cloudkms.googleapis.com"\n{condition}\n'
        f'protoPayload.resourceName=~"{pattern}"'
    )


def queries(
    key: KeyName, workspace_id: str | None, external_key_id: str, since: datetime
) -> tuple[Query, ...]:
    """Ready queries about one onboarding.

    Args:
        key: The attached key.
        workspace_id: The key's workspace; None when it was not created.
        external_key_id: Anthropic's record of the key.
        since: The time from which to search, with a time zone.
    """
    return (
        _log_query(
            "Destruction, disabling and changes of the key and of who may use it",
            key,
            threats_filter(key),
            since,
            "roles/logging.viewer on the project; Admin Activity logs are always on.",
        ),
        _log_query(
            "Uses of the key by Anthropic's service account",
            key,
            uses_filter(key),
            since,
            "roles/logging.privateLogViewer on the project, and Data Access audit logs "
            "(ADMIN_READ, DATA_READ, DATA_WRITE) of Cloud KMS switched on at the time.",
        ),
        _activity_query(workspace_id, external_key_id, since),
    )


def queries_of(chain: Chain) -> tuple[Query, ...]:
    """Queries about the key and workspace of a record, from the time of its first entry.

    There are none without a plan, or when the last plan can't be read: a record does not prove who
    wrote it, so its entries may contain anything.
    """
    request = _last_request(chain)
    try:
        plan = _RecordedRequest.model_validate(request.body).plan if request else None
    except ValidationError:
        plan = None
    key = key_in(plan.key_name) if plan else None
    if request is None or plan is None or key is None:
        return ()
    # the id of a workspace that the run created is only in the entry of its attach
    attached = [
        one.subject for one in chain.entries if (one.run, one.kind) == (request.run, "attached")
    ]
    created = [one for one in attached[-1:] if rule_of(WorkspaceId).fits(one)]
    workspace_id = plan.workspace_id or next(iter(created), None)
    return queries(key, workspace_id, plan.external_key_id, chain.entries[0].at)


def _last_request(chain: Chain) -> EvidenceEntry | None:
    requests = [entry for entry in chain.entries if entry.kind == "approval_request"]
    return requests[-1] if requests else None


def _log_query(title: str, key: KeyName, log_filter: str, since: datetime, needs: str) -> Query:
    limited = f'{log_filter}\ntimestamp>="{_zulu(since)}"'
    one_line = " ".join(limited.splitlines())
    return Query(
        title=title,
        command=f"gcloud logging read {shlex.quote(one_line)} --project={key.project} "
        "--format=json",
        link="https://console.cloud.google.com/logs/query;query="
        f"{quote(limited, safe='')}?project={key.project}",
        needs=needs,
    )


def _activity_query(workspace_id: str | None, external_key_id: str, since: datetime) -> Query:
    parameters = [("activity_types[]", one) for one in ACTIVITY_TYPES]
    parameters += [("created_at.gte", _zulu(since)), ("limit", "5000")]
    url = f"{ADMIN_API}/v1/compliance/activities?{urlencode(parameters)}"
    ours = f'.external_key_id == "{external_key_id}"'
    if workspace_id is not None:
        ours = f'.workspace_id == "{workspace_id}" or {ours}'
    return Query(
        title="Workspace and external key events at Anthropic",
        command=f"curl -sS {shlex.quote(url)} {ADMIN_HEADERS} "
        f"| jq {shlex.quote(f'.data[] | select({ours})')}",
        needs="The Compliance API enabled before the key in ANTHROPIC_ADMIN_KEY was made; nothing "
        "is recorded while it is off. Newest first; while has_more, add after_id=<last_id>.",
    )


def _zulu(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def evidence_page(workspace_id: str, chain: Chain) -> str:
    """Markdown: a table of the entries, the queries, and the record itself."""
    rows = (
        (
            str(entry.number),
            f"{entry.at:%Y-%m-%d %H:%M:%S %Z}",
            escape(entry.kind),
            escape(entry.subject),
            code(entry.hash[:12]),
        )
        for entry in chain.entries
    )
    parts = [
        f"# Evidence for {code(workspace_id)}",
        _HOW,
        table(("", "when", "what", "on", "hash"), rows),
        *_outside(chain),
        "## The record",
        f"```jsonl\n{chain.dumps()}```",
    ]
    return "\n\n".join(parts)


def record_in(page: str) -> str:
    """The record in a page.

    Raises:
        EvidenceIntegrityError: The page has none, or more than one.
    """
    found = _RECORD.findall(page)
    if len(found) != 1:
        raise EvidenceIntegrityError("the page does not hold exactly one record")
    return str(found[0])


def _outside(chain: Chain) -> list[str]:
    request = _last_request(chain)
    if request is None:
        return []
    parts = ["## Where else to look"]
    queries = queries_of(chain)
    if not queries:
        parts.append(
            f"Entry {request.number}, the last approval request, holds no plan that can be read, "
            "so there are no queries. A record that this product wrote holds one: find out who "
            "changed it."
        )
    for query in queries:
        linked = f" ([open]({query.link}))" if query.link else ""
        parts += [f"**{query.title}**{linked}. {query.needs}", f"```sh\n{query.command}\n```"]
    return parts
