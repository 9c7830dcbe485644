"""What an approver reads: the plan, and what an attach means for the workspace, in reading order.

Page, form, terminal and labels are all made from one view. Pure.

Source: https://platform.claude.com/docs/en/manage-claude/cmek and
…/cmek-coverage-claude-platform, …/cmek-key-lifecycle
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from cmek.addresses import GOOGLE_APIS
from cmek.names import is_custom_role
from cmek.onboarding.approval_request import ApprovalRequest
from cmek.onboarding.plan import GOOGLE_TOKENS, Plan, PlanWarning
from cmek.onboarding.policy import DEFAULT_POLICY, shown_value
from cmek.plain_text import bullets, code, escape, plain, table
from cmek.signatures.statement import signing_text

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
