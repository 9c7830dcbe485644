"""What people read: the plan before the approval, the report after the attach, tables of checks.

What attaching a key means for a workspace is shown to the approver in every plan. Pure Markdown.

Source: https://platform.claude.com/docs/en/manage-claude/cmek and
…/cmek-coverage-claude-platform, …/cmek-key-lifecycle
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from cmek.keys.verdicts import Check, CheckReport
from cmek.markdown import code, escape, table
from cmek.names import short_hash, slug
from cmek.onboarding.approval import ApprovalRequest, ApprovalResponse
from cmek.onboarding.plan import LiveFacts, Plan
from cmek.signatures.statement import signing_text

if TYPE_CHECKING:
    from cmek.keys.rules import Cause

IRREVERSIBLE_EFFECTS: Final = (
    "The key of this workspace can never be removed or replaced.",
    "Data sealed under a destroyed key or version is lost for good: nobody keeps a copy.",
    "Every version must stay enabled after a rotation: stored data is never re-encrypted.",
    "The workspace must retain data, and its retention setting is locked from then on.",
)

IRREVERSIBLE_CREATE: Final = (
    "A workspace can never be deleted, only archived; where it lives can't be changed.",
)
"""Of a new workspace, besides."""

STOPS_WORKING: Final = (
    "Console Playground is off in this workspace.",
    "Structured outputs are off for some models.",
    "Organization webhooks are off when the default workspace has a key.",
)

TAKES_EFFECT: Final = (
    "A new workspace is covered from its first request; one in use may take up to a day.",
    "Data stored before that stays under Anthropic's own keys.",
)

NEXT_STEPS: Final = (
    "Send the first request only now: data from before is not covered.",
    "Keep every key version enabled; never schedule one for destruction.",
    "Let the revalidation deployment watch the key.",
    "Put the key under Terraform with the import blocks of this run.",
)

STATUS_SIGNS: Final = {
    "pass": "✅ pass",
    "warn": "⚠ warn",
    "fail": "❌ **fail**",
    "unknown": "❓ unknown",
}
CAUSE_SIGNS: Final = {"proved": "❌ **proved**", "open": "❓ open", "excluded": "✅ excluded"}
_WORST_FIRST: Final = ("fail", "unknown", "warn", "pass")


def checks_table(report: CheckReport) -> str:
    """All checks, the worst first; outside text is escaped."""
    rows = (
        (STATUS_SIGNS[one.status], escape(one.title), escape(one.evidence), _next(one))
        for one in _worst_first(report)
    )
    return table(("", "Check", "Found", "What to do"), rows)


def checks_list(report: CheckReport) -> str:
    """What is not a pass, the worst first, a line each: one of Prefect's UIs cuts wide tables."""
    return bullets(
        f"{STATUS_SIGNS[one.status]}: **{escape(one.title)}.** {escape(one.evidence)} {_next(one)}"
        for one in _worst_first(report)
        if one.status != "pass"
    )


def summary(report: CheckReport) -> str:
    """One line: how many of each."""
    counts = {status: sum(one.status == status for one in report.checks) for status in _WORST_FIRST}
    return ", ".join(f"{STATUS_SIGNS[status]} {count}" for status, count in counts.items() if count)


def _worst_first(report: CheckReport) -> list[Check]:
    return sorted(report.checks, key=lambda one: _WORST_FIRST.index(one.status))


def causes_table(causes: tuple[Cause, ...]) -> str:
    """All causes in their order; outside text is escaped."""
    rows = (
        (CAUSE_SIGNS[one.verdict], escape(one.title), escape(one.why), code(one.command))
        for one in causes
    )
    return table(("", "Cause", "Why", "What to do"), rows)


def _next(check: Check) -> str:
    parts = [code(check.remedy)] if check.remedy else []
    parts += [f"who can tell: {escape(check.who_can_tell)}"] if check.who_can_tell else []
    return "; ".join(parts)


def artifact_key(kind: str, subject: str) -> str:
    """A key that Prefect accepts (`a-z0-9-`) and that no two subjects share.

    Two ids may differ in case only, so a hash stands behind the readable part.
    """
    return f"cmek-{kind}-{slug(subject.lower(), 40)}-{short_hash(subject)}"


def approval_page(approval_request: ApprovalRequest, report: CheckReport) -> str:
    """The plan as the approver sees it, with everything that the form asks for."""
    plan = approval_request.plan
    name = escape(plan.workspace_name)
    again, expires = approval_request.reapproval_reasons, approval_request.expires_at
    shown = CheckReport(
        checks=(*report.warnings, *report.unknown), project_number=report.project_number
    )
    requester = f"{escape(plan.request.requested_by)} (unverified)"
    typed = "workspace id" if plan.workspace_id else "name of the new workspace"
    parts = [
        f"## Attach a key to {name}" if plan.workspace_id else f"## Create {name} with its key",
        f"**This can never be undone.** {requester} requests to {_action(plan)}.",
        *(["### Why you are asked again", bullets(map(escape, again))] if again else []),
        "### Facts",
        facts_table(plan),
        "### What cannot be undone",
        bullets(IRREVERSIBLE_EFFECTS + (() if plan.workspace_id else IRREVERSIBLE_CREATE)),
        "### What stops working",
        bullets(STOPS_WORKING),
        "### When it takes effect",
        bullets(TAKES_EFFECT),
        *(["### Warnings to acknowledge", checks_list(shown)] if shown.checks else []),
        "### To respond",
        f"Type the {typed}, and copy the plan digest: {code(approval_request.digest)}",
        *signing_text(approval_request),
        f"It expires at {expires:%Y-%m-%d %H:%M %Z}. After that no approval counts.",
    ]
    return "\n\n".join(parts)


def approval_summary(approval_request: ApprovalRequest) -> str:
    """The request in three sentences for the form itself.

    Prefect's first UI squeezes the text above a form to nothing on a small screen; a field's
    description always shows. Its second UI shows that without Markdown, so code spans are all.
    """
    plan = approval_request.plan
    named = f", named {code(plan.workspace_name)}" if plan.workspace_id else ""
    return (
        f"{code(plan.request.requested_by)} (unverified) requests to {_action(plan)}{named}. "
        "This can never be undone. Read the whole plan first, among the Artifacts of this run. "
        f"The approval request expires at {approval_request.expires_at:%Y-%m-%d %H:%M %Z}."
    )


def facts_table(plan: Plan) -> str:
    """Every fact that the digest covers, the request in rows of its own."""
    fields = plan.model_dump(mode="json", exclude={"request", "warnings"})
    rows = [(name.replace("_", " "), _value(value)) for name, value in fields.items()]
    requested = plan.request.model_dump(mode="json")
    rows += [
        (f"asked: {name.replace('_', ' ')}", _value(value)) for name, value in requested.items()
    ]
    return table(("fact", "value"), ((escape(name), value) for name, value in rows))


def final_report(
    approval_request: ApprovalRequest,
    response: ApprovalResponse,
    signers: Sequence[str],
    report: CheckReport,
    attached: Sequence[tuple[str, str]],
) -> str:
    """The report of an onboarding that ended with the key attached.

    Args:
        approval_request: The approved one.
        response: The approval.
        signers: Whose signatures were verified.
        report: The prerequisites at the attach.
        attached: Rows (what, value) about the attach and its read-back; escaped here.
    """
    requested = f"{approval_request.requested_at:%Y-%m-%d %H:%M:%S %Z}, {approval_request.key}"
    approval = (
        ("approver" if signers else "approver (unverified)", escape(response.approver)),
        ("signed by", escape(", ".join(signers) or "nobody")),
        ("comment", escape(response.comment)),
        ("plan digest", code(approval_request.digest)),
        ("requested", requested),
    )
    parts = [
        f"# {escape(approval_request.plan.workspace_name)} has its key",
        table(("attach", ""), ((escape(what), escape(value)) for what, value in attached)),
        "## Approval",
        table(("", ""), approval),
        "## What to do next",
        bullets(NEXT_STEPS),
        "## The approved plan",
        facts_table(approval_request.plan),
        "## Prerequisites at the attach",
        checks_table(report),
    ]
    return "\n\n".join(parts)


def refused_report(
    approval_request: ApprovalRequest, report: CheckReport, headline: str, reasons: Iterable[str]
) -> str:
    """The report of an approval request that ended without an attach."""
    plan = approval_request.plan
    nothing = "nothing was attached" if plan.workspace_id else "no workspace was created"
    parts = [
        f"# {escape(headline)}: {nothing}",
        bullets(map(escape, reasons)),
        "## The plan of the approval request",
        facts_table(plan),
        "## Prerequisites at the approval request",
        checks_table(report),
    ]
    return "\n\n".join(parts)


def already_attached_report(facts: LiveFacts, report: CheckReport, *, repaired: bool) -> str:
    """The report of a run that found the key attached already."""
    rows = (
        ("key", code(facts.key.name)),
        ("external key", code(facts.external_key_id)),
        ("primary", escape(facts.primary_state)),
        ("organization label", "yes" if facts.has_organization_label else "no"),
        ("grants", escape(", ".join(sorted(facts.granted_roles)) or "none")),
    )
    parts = [
        f"# {escape(facts.workspace_name)} has its key already",
        "Validated. " + ("Label or grants were put back." if repaired else "Nothing was written."),
        table(("fact", "value"), rows),
        checks_table(report),
    ]
    return "\n\n".join(parts)


def bullets(lines: Iterable[str]) -> str:
    """A Markdown list; outside text in it must be escaped already."""
    return "\n".join(f"- {line}" for line in lines)


def _action(plan: Plan) -> str:
    """What an approval would do."""
    if plan.workspace_id is None:
        return f"create workspace {code(plan.workspace_name)} with {code(plan.key_name)}"
    return f"attach {code(plan.key_name)} to workspace {code(plan.workspace_id)}"


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else escape(value)
