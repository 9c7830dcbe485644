"""Texts for people: the plan before the approval, the report after the attach, tables of checks.

Every plan shows the approver what an attach means for the workspace. Pure; Markdown.

Source: https://platform.claude.com/docs/en/manage-claude/cmek and
…/cmek-coverage-claude-platform, …/cmek-key-lifecycle
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cmek.addresses import GOOGLE_APIS
from cmek.keys.verdicts import Check, CheckReport
from cmek.names import is_custom_role
from cmek.onboarding.approval import ApprovalRequest, ApprovalResponse
from cmek.onboarding.plan import GOOGLE_TOKENS, LiveFacts, Plan, PlanWarning
from cmek.onboarding.policy import DEFAULT_POLICY, shown_value
from cmek.plain_text import code, escape, plain, table
from cmek.signatures.statement import signing_text

if TYPE_CHECKING:
    from cmek.keys.rules import Cause

IRREVERSIBLE_EFFECTS: Final = (
    "The workspace's key can never be removed or replaced.",
    "Data under a destroyed key or version is lost for good: nobody keeps a copy.",
    "Old versions must stay enabled: nothing is re-encrypted.",
    "The workspace must retain data from then on.",
)

IRREVERSIBLE_CREATE: Final = (
    "A workspace can never be deleted, only archived; where it lives can't be changed.",
)
"""In addition, for a new workspace."""

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


EFFECTS: Final = ("features", "effect_time")
"""Ids of the warnings about changes in the workspace."""
_SHOWN: Final = 8
"""Most lines of a section on the first screen."""
_LONG: Final = 320
"""Most characters of a warning on the first screen; a longer one is shown in full at the end."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a section: a statement, more about it, and a command. Not escaped yet."""

    title: str
    text: str = ""
    command: str = ""

    @property
    def is_long(self) -> bool:
        """Whether its full text is shown only at the end."""
        return len(self.text) > _LONG or len(self.command) > _LONG


@dataclass(frozen=True, slots=True)
class PlanView:
    """An approval request in reading order; page, form and terminal all show this.

    No text is escaped: each medium escapes in its own way.
    """

    approval_request: ApprovalRequest
    headline: str
    sections: tuple[tuple[str, tuple[Line, ...]], ...]
    """Titles and lines, the most important first, without empty sections."""
    facts: tuple[tuple[str, str], ...]
    request: tuple[tuple[str, str], ...]
    """Settings that differ from the guide's recommendation, and who decided that."""

    def sentence(self, mark: Callable[[str], str], text: Callable[[object], str]) -> str:
        """One sentence: who requests what.

        Args:
            mark: Formats a name that a person compares or copies.
            text: Escapes other text from outside.
        """
        plan = self.approval_request.plan
        who = f"{text(plan.request.requested_by)} (unverified) requests to"
        if plan.workspace_id is None:
            named = mark(plan.workspace_name)
            return f"{who} create workspace {named} with {mark(plan.key_name)}."
        return f"{who} attach {mark(plan.key_name)} to workspace {mark(plan.workspace_id)}."

    def first_screen(self) -> Iterator[tuple[str, list[Line], int]]:
        """Each section: its title, the lines on the first screen, and how many more there are."""
        for title, lines in self.sections:
            shown = [
                Line(one.title, "In full at the end of the plan's artifact.")
                if one.is_long
                else one
                for one in lines[:_SHOWN]
            ]
            yield title, shown, max(0, len(lines) - _SHOWN)

    def in_full(self) -> list[Line]:
        """The lines that the first screen shortens or leaves out."""
        return [
            one
            for _, lines in self.sections
            for at, one in enumerate(lines)
            if one.is_long or at >= _SHOWN
        ]


_DEFAULT_WORKSPACE: Final = Line(
    "It is the default workspace: all data of API keys without a workspace will be under this key."
)


def plan_view(approval_request: ApprovalRequest) -> PlanView:
    """The view of an approval request: irreversible effects come first, facts and settings last."""
    plan = approval_request.plan
    new = plan.workspace_id is None
    name = plan.workspace_name
    lines = {one.id: _warning(one, plan) for one in plan.warnings}
    effects = tuple(lines.pop(one) for one in EFFECTS if one in lines)
    if plan.workspace_is_default:
        effects = (_DEFAULT_WORKSPACE, *effects)
    others = f"Other warnings ({len(lines)})" if effects else f"Warnings ({len(lines)})"
    sections = (
        ("Why you are asked again", tuple(map(Line, approval_request.reapproval_reasons))),
        (
            "What can never be undone",
            tuple(map(Line, IRREVERSIBLE_EFFECTS + (IRREVERSIBLE_CREATE if new else ()))),
        ),
        ("What changes in the workspace", effects),
        ("Who else can use the key", tuple(_other_users(plan)) or (_NOBODY,)),
        (others, tuple(lines.values())),
    )
    return PlanView(
        approval_request,
        f"Create {name} with its key" if new else f"Attach a key to {name}",
        tuple(section for section in sections if section[1]),
        tuple(_facts(plan)),
        tuple(_request(plan)),
    )


def _warning(warning: PlanWarning, plan: Plan) -> Line:
    said = f" Accepted by policy {plan.request.policy}." if warning.accepted else ""
    return Line(warning.title, (warning.text + said).strip(), warning.remedy or "")


_NOBODY: Final = Line("Nobody, by the policies of the key and above.")


def _other_users(plan: Plan) -> Iterator[Line]:
    """Other users of the key; members last: they can be many, and only a few lines fit."""
    yield from (Line(f"Workspace {one} has the same key.") for one in plan.other_workspaces)
    for one in plan.imported_versions:
        yield Line(f"Version {one} was imported: whoever made it may have a copy.")
    if plan.unread_policies:
        yield Line(f"Not checked, since it could not be read: {', '.join(plan.unread_policies)}")
    yield from (Line(_may_decrypt(one)) for one in plan.other_decrypters)


def _may_decrypt(member: str) -> str:
    # `rules_iam.other_decrypters` writes it as MEMBER (ROLE on RESOURCE)
    if is_custom_role(member.rpartition(" (")[2]):
        return f"{member} may be able to decrypt: what the custom role allows was not read."
    return f"{member} can decrypt."


def _facts(plan: Plan) -> Iterator[tuple[str, str]]:
    """The facts; with the sections and the settings they are everything that the digest covers."""
    workspace = plan.workspace_id or "to be created"
    project = plan.request.project_id
    same = plan.external_key_name == plan.key_name
    origin = "import only" if plan.import_only else "made in Cloud KMS"
    if plan.imported_versions:
        origin = f"imported: version {', '.join(plan.imported_versions)}"
    reasons = plan.key_access_justifications
    yield "workspace", f"{workspace}, named {plan.workspace_name}"
    yield "organization", str(plan.organization_id)
    yield "project", f"{project}, number {plan.project_number or 'not readable'}"
    yield "key", f"{plan.protection_level}, {plan.purpose}, {plan.algorithm}"
    yield "key material", origin
    crypto, view = _yes(plan.encrypter_decrypter_grant), _yes(plan.viewer_grant)
    label = _yes(plan.organization_label)
    yield "Anthropic may", f"encrypt and decrypt: {crypto}, view: {view}; label: {label}"
    yield (
        "external key",
        f"{plan.external_key_id} of {'this key' if same else plan.external_key_name}",
    )
    yield "justifications", "no policy" if reasons is None else ", ".join(reasons) or "none allowed"
    yield "Admin API", plan.admin_base_url
    yield "Cloud KMS", plan.kms_endpoint
    if plan.checks_endpoint != GOOGLE_APIS:
        yield "Google checks", plan.checks_endpoint
    if other := [one for one in plan.token_endpoints if one != GOOGLE_TOKENS]:
        yield "Google tokens", ", ".join(other)


def _request(plan: Plan) -> Iterator[tuple[str, str]]:
    """Settings that differ from the guide's recommendation, and who decided that."""
    request = plan.request
    if request.adopt_existing_key:
        yield "adopt existing key", "yes"
    if request.policy != DEFAULT_POLICY:
        yield "policy", request.policy
    for one in request.deviations:
        by = "the request" if one.field in request.overrides else f"policy {request.policy}"
        value, usual = shown_value(one.value), shown_value(one.recommended)
        yield one.field.replace("_", " "), f"{value} (recommended: {usual}; set by {by})"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def approval_page(approval_request: ApprovalRequest) -> str:
    """The plan for form and artifact, with everything that the approver has to type."""
    view, plan = plan_view(approval_request), approval_request.plan
    expires = f"{approval_request.expires_at:%Y-%m-%d %H:%M %Z}"
    digest = code(approval_request.digest)
    typed = "workspace id" if plan.workspace_id else "name of the new workspace"
    parts = [
        f"## {escape(view.headline)}",
        f"{view.sentence(code, escape)} **This can never be undone.**",
    ]
    parts += [
        bullets(one for section in view.first_screen() for one in _markdown_section(*section)),
        table(("fact", ""), ((escape(name), code(value)) for name, value in view.facts)),
        f"Type the {typed}. The plan's digest is {digest}. The request expires at {expires}.",
        *signing_text(approval_request),
    ]
    if view.request:
        rows = ((escape(name), escape(value)) for name, value in view.request)
        parts += ["**Not as the guide recommends**", table(("setting", ""), rows)]
    if view.in_full():
        parts += ["**In full**", bullets(map(_markdown_line, view.in_full()))]
    return "\n\n".join(parts)


def _markdown_section(title: str, lines: list[Line], more: int) -> Iterator[str]:
    """One bullet for a section of titles only, else a bullet for each line: it fits one screen."""
    if any(line.text or line.command for line in lines):
        yield from map(_markdown_line, lines)
    else:
        yield f"**{escape(title)}:** " + " ".join(_markdown_line(line) for line in lines)
    if more:
        yield f"and {more} more, at the end"


def _markdown_line(line: Line) -> str:
    if not line.text and not line.command:
        return escape(line.title)
    what_to_do = f" {code(line.command)}" if line.command else ""
    return f"**{escape(line.title)}.** {escape(line.text)}{what_to_do}"


def approval_summary(approval_request: ApprovalRequest) -> str:
    """The request in a few sentences, for the form's field that shows no Markdown."""
    view = plan_view(approval_request)
    expires = f"{approval_request.expires_at:%Y-%m-%d %H:%M %Z}"
    return (
        f"{view.sentence(plain, plain)} This can never be undone. "
        f"Read the plan above first. It expires at {expires}."
    )


TITLES_APART: Final = " | "
"""Separates the titles of a plan's warnings in a label."""


def plan_labels(approval_request: ApprovalRequest) -> dict[str, str | int | float | bool]:
    """The plan's summary as labels of the run; a notification is filled from them.

    Anyone who may write to Prefect's API can change labels. So a notification shows only those
    values that have the form of a key's name, hex digits, a number, or a known title.
    """
    plan = approval_request.plan
    others = len(plan.other_decrypters) + len(plan.other_workspaces)
    return {
        "cmek-plan-key": plan.key_name,
        "cmek-plan-digest": approval_request.digest,
        # -1: not known, since a policy could not be read
        "cmek-plan-other-users": -1 if plan.unread_policies else others,
        "cmek-plan-warnings": TITLES_APART.join(plan.warning_titles),
    }


def facts_table(plan: Plan) -> str:
    """The facts of the plan, and the settings that differ from the guide's recommendation."""
    rows = (*_facts(plan), *_request(plan))
    return table(("fact", ""), ((escape(name), escape(value)) for name, value in rows))


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


def bullets(lines: Iterable[str]) -> str:
    """A Markdown list; text from outside must be escaped already."""
    return "\n".join(f"- {line}" for line in lines)
