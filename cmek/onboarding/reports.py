"""Reports for people: tables of checks and causes, and how an onboarding ended. Pure; Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from cmek.keys.verdicts import Check, CheckReport
from cmek.onboarding.approval_page import facts_table
from cmek.onboarding.approval_request import ApprovalRequest, ApprovalResponse
from cmek.onboarding.plan import LiveFacts
from cmek.plain_text import bullets, code, escape, table

if TYPE_CHECKING:
    from cmek.keys.rules import Cause

NEXT_STEPS: Final = (
    "Send the first request only now: data from before is not covered.",
    "Keep every key version enabled; never schedule one for destruction.",
    "Let the revalidation deployment watch the key: `cmek status`.",
    "Put the key under Terraform: `cmek terraform {workspace} --out DIRECTORY`.",
    "Keep the evidence: `cmek evidence export {workspace} --out FILE`.",
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
    """All checks, the worst first; text from outside is escaped."""
    rows = (
        (STATUS_SIGNS[one.status], escape(one.title), escape(one.evidence), _next(one))
        for one in _worst_first(report)
    )
    return table(("", "Check", "Found", "What to do"), rows)


def checks_list(report: CheckReport) -> str:
    """Checks that did not pass, worst first; a list, since a UI of Prefect cuts wide tables."""
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
    """All causes in their order; text from outside is escaped."""
    rows = (
        (CAUSE_SIGNS[one.verdict], escape(one.title), escape(one.why), code(one.command))
        for one in causes
    )
    return table(("", "Cause", "Why", "What to do"), rows)


def _next(check: Check) -> str:
    parts = [code(check.remedy)] if check.remedy else []
    parts += [f"who can tell: {escape(check.who_can_tell)}"] if check.who_can_tell else []
    return "; ".join(parts)


def final_report(  # noqa: PLR0913 - one argument a part of the report
    approval_request: ApprovalRequest,
    response: ApprovalResponse,
    signers: Sequence[str],
    report: CheckReport,
    attached: Sequence[tuple[str, str]],
    *,
    workspace_id: str,
) -> str:
    """The report of an onboarding that attached the key: result and next steps first.

    Args:
        approval_request: The approval request that was approved.
        response: The approval.
        signers: Approvers whose signatures were verified.
        report: The prerequisites at the time of the attach.
        attached: Rows (what, value) about the attach and its read-back; escaped here.
        workspace_id: Of the workspace, existing or newly created.
    """
    plan = approval_request.plan
    who = ", ".join(signers) or f"{response.approver} (unverified)"
    requested = f"{approval_request.requested_at:%Y-%m-%d %H:%M:%S %Z}, {approval_request.key}"
    approval = (
        ("approver" if signers else "approver (unverified)", escape(response.approver)),
        ("signed by", escape(", ".join(signers) or "nobody")),
        ("comment", escape(response.comment)),
        ("plan digest", code(approval_request.digest)),
        ("requested", requested),
    )
    parts = [
        f"# {escape(plan.workspace_name)} has its key",
        f"{code(plan.key_name)} is attached to {code(workspace_id)}, approved by {escape(who)}.",
        "## What to do next",
        bullets(one.format(workspace=workspace_id) for one in NEXT_STEPS),
        "## Attach",
        table(("attach", ""), ((escape(what), escape(value)) for what, value in attached)),
        "## Approval",
        table(("", ""), approval),
        "## The approved plan",
        facts_table(plan),
        "## Prerequisites at the attach",
        checks_table(report),
    ]
    return "\n\n".join(parts)


def refused_report(
    approval_request: ApprovalRequest, report: CheckReport, headline: str, reasons: Iterable[str]
) -> str:
    """The report of an approval request that ended without an attach."""
    plan = approval_request.plan
    parts = [
        f"# {escape(headline)}",
        bullets(map(escape, reasons)),
        "## What to do next",
        bullets(
            (
                "Settle the reason, then start a new onboarding: it finds what exists already.",
                "Key ring, key, grants and external key stay as they are.",
                "`cmek leftovers` lists what nothing uses. An older key may protect other data.",
            )
        ),
        "## The plan of the approval request",
        facts_table(plan),
        "## Prerequisites at the approval request",
        checks_table(report),
    ]
    return "\n\n".join(parts)


def already_attached_report(facts: LiveFacts, report: CheckReport, *, repaired: bool) -> str:
    """The report of a run that found the key already attached."""
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
