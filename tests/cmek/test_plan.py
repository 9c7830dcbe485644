"""The digest changes with every covered fact and with nothing else."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from cli.deploy import PROJECT
from cmek.anthropic_identity import ENCRYPTER_DECRYPTER, ROLES, VIEWER
from cmek.keys.prerequisites import CATALOGUE
from cmek.keys.verdicts import CheckReport
from cmek.names import organization_label
from cmek.onboarding.plan import (
    ADOPTION_TITLE,
    WARNING_TITLES,
    Difference,
    ExistingResources,
    LiveFacts,
    Plan,
    PlanWarning,
    Step,
    build_plan,
    differences,
    preview,
    preview_text,
)
from tests.support import facts as make

OTHER = UUID("00000000-0000-4000-8000-000000000000")

COVERED: dict[str, Any] = {
    "organization_id": {
        "organization_id": OTHER,
        "key": make.key(labels=dict([organization_label(OTHER)])),
    },
    "workspace_name": {"workspace_name": "Other"},
    "workspace_is_default": {"workspace_is_default": True},
    "key_name": {"key": make.key(name=make.KEY_NAME + "2")},
    "purpose": {"key": make.key(purpose="MAC")},
    "algorithm": {"key": make.key(algorithm="AES_256_GCM")},
    "protection_level": {"key": make.key(protection_level="SOFTWARE")},
    "import_only": {"key": make.key(import_only=True)},
    "key_access_justifications": {"key": make.key(justifications_policy=())},
    "organization_label": {"key": make.key(labels={})},
    "encrypter_decrypter_grant": {"granted_roles": frozenset({"roles/cloudkms.viewer"})},
    "viewer_grant": {"granted_roles": frozenset({"roles/cloudkms.cryptoKeyEncrypterDecrypter"})},
    "external_key_id": {"external_key_id": "ekey_01Another"},
    "external_key_name": {"external_key_name": None},
    "other_workspaces": {"other_workspaces": ("wrkspc_01Another",)},
    "imported_versions": {
        "versions": (make.version().model_copy(update={"import_job": "projects/…/importJobs/1"}),)
    },
    "admin_base_url": {"admin_base_url": "https://elsewhere.example"},
    "kms_endpoint": {"kms_endpoint": "elsewhere.example:443"},
    "checks_endpoint": {"checks_endpoint": "https://elsewhere.example"},
    "token_endpoints": {"token_endpoints": ("https://elsewhere.example/token",)},
}


@pytest.mark.parametrize("field", COVERED)
def test_each_covered_fact_changes_the_digest_and_is_named(field: str) -> None:
    """Each fact that the approver saw is bound by the digest."""
    changed = make.plan(make.facts(**COVERED[field]))
    assert changed.digest != make.plan().digest
    assert [one.field for one in differences(make.plan(), changed)] == [field]


@pytest.mark.parametrize("held", [frozenset(), {VIEWER}, {ENCRYPTER_DECRYPTER}, frozenset(ROLES)])
def test_a_grant_is_said_to_be_there_when_it_is(held: frozenset[str]) -> None:
    plan = make.plan(make.facts(granted_roles=frozenset(held)))
    shown = (plan.viewer_grant, plan.encrypter_decrypter_grant)
    assert shown == (VIEWER in held, ENCRYPTER_DECRYPTER in held)


@pytest.mark.parametrize("kind", [Plan, Difference])
def test_what_is_under_a_digest_can_not_be_changed(kind: type[BaseModel]) -> None:
    assert kind.model_config["frozen"]


def test_every_field_of_a_plan_is_tried_here() -> None:
    elsewhere = {"request", "workspace_id", "adopts_key", *FROM_CHECKS}
    assert set(Plan.model_fields) == COVERED.keys() | elsewhere


def test_an_adoption_has_one_digest_before_and_after_label_and_grants_are_written() -> None:
    """It is not that of a plan for a key of ours, and its warning must be acknowledged."""
    before = make.facts(key=make.key(labels={}), granted_roles=frozenset())
    first, second = (
        build_plan(facts, make.REQUEST, CheckReport(checks=()), adopting=True)
        for facts in (before, make.facts())
    )
    assert first.digest == second.digest
    ours = build_plan(make.facts(), make.REQUEST, CheckReport(checks=()))
    assert {one.field for one in differences(ours, first)} == {"adopts_key", "warnings"}
    assert first.to_acknowledge == (ADOPTION_TITLE,)


FROM_CHECKS: dict[str, Any] = {
    "project_number": "1",
    "warnings": ("billing",),
    "other_decrypters": ("user:eve@example.com (roles/owner on projects/acme-kms-prod)",),
    "unread_policies": ("projects/acme-kms-prod",),
}


@pytest.mark.parametrize("field", FROM_CHECKS)
def test_what_the_checks_saw_is_covered_and_named(field: str) -> None:
    """A decrypter who was added while a run waited needs a new approval."""
    changed = make.plan(**{field: FROM_CHECKS[field]})
    (named,) = differences(make.plan(), changed)
    assert named.field == field
    if field != "project_number":
        assert str(named) == f"{field.replace('_', ' ')}: new: {FROM_CHECKS[field][0]}"
    assert changed.digest != make.plan().digest


def test_the_wording_of_a_warning_may_change_by_itself_its_title_may_not() -> None:
    """A time in a check's evidence does not void an approval; another title does."""
    changes: list[dict[str, Any]] = [{}, {"evidence": "at 12:00"}, {"remedy": "gcloud billing"}]
    digests = {make.plan(checks=(make.warning("billing", **one),)).digest for one in changes}
    assert len(digests) == 1
    other = make.plan(checks=(make.warning("billing", title="Another"),))
    assert other.digest not in digests


WARNS = set(re.findall(r"\| `(\w+)` \| ⚠", (PROJECT / "docs/troubleshooting.md").read_text()))
"""Ids of the checks that warn in a documented situation."""


def test_every_check_that_can_warn_has_a_title_that_says_what_is_so() -> None:
    """A check's own title names the desired state, which is wrong for a warning."""
    assert WARNS
    assert WARNS <= WARNING_TITLES.keys() <= {one.id for one in CATALOGUE}
    for prerequisite in CATALOGUE:
        assert PlanWarning.of(prerequisite.unknown("seen")).title.startswith("Not checked: ")


@pytest.mark.parametrize("field", sorted(type(make.REQUEST).model_fields))
def test_each_field_of_the_request_is_covered(field: str) -> None:
    """The digest covers everything that was requested, and by whom."""
    current = getattr(make.REQUEST, field)
    if isinstance(current, bool):
        other: Any = not current
    elif isinstance(current, int):
        other = current + 1
    else:
        other = OTHER if field == "expected_organization" else "changed"
    changed = make.REQUEST.model_copy(update={field: other})
    named = differences(make.plan(), make.plan(request=changed))
    assert [one.field for one in named] == [f"request.{field}"]


@pytest.mark.parametrize(
    "change",
    [
        {"key": make.key(primary=make.version(2))},
        {"versions": (make.version(1), make.version(2))},
        {"key": make.key(labels=dict(make.key().labels) | {"team": "data"})},
    ],
)
def test_what_may_change_by_itself_does_not_void_an_approval(change: dict[str, Any]) -> None:
    """A rotation, a second version and other labels change nothing."""
    assert make.plan(make.facts(**change)).digest == make.plan().digest


def test_a_plan_survives_being_stored() -> None:
    plan = make.plan(warnings=("ä",))
    assert Plan.model_validate_json(plan.model_dump_json()).digest == plan.digest


NOTHING_YET = ExistingResources(
    ring_exists=False,
    key=None,
    key_is_ours=False,
    granted_roles=frozenset(),
    external_key_id=None,
    attached=False,
)
RING = str(make.REQUEST.key_name.key_ring_name)


def test_a_preview_names_each_write_and_its_resource() -> None:
    """Nothing exists yet, so it names all of them."""
    assert preview(make.REQUEST, NOTHING_YET) == (
        Step(1, "Key ring", "create", RING),
        Step(2, "Crypto key", "create", make.KEY_NAME),
        Step(3, "Grants", "grant", make.KEY_NAME),
        Step(5, "External key", "register", make.KEY_NAME),
        Step(7, "Attach", "approve and attach", make.WORKSPACE),
    )


def test_a_preview_of_a_finished_onboarding_writes_nothing() -> None:
    done = ExistingResources(
        ring_exists=True,
        key=make.key(),
        key_is_ours=True,
        granted_roles=frozenset(ROLES),
        external_key_id="ekey_1",
        attached=True,
    )
    assert preview(make.REQUEST, done) == (
        Step(1, "Key ring", "nothing", RING),
        Step(2, "Crypto key", "nothing", make.KEY_NAME),
        Step(3, "Grants", "nothing", make.KEY_NAME),
        Step(5, "External key", "nothing", "ekey_1"),
        Step(7, "Attach", "nothing", make.WORKSPACE),
    )


def test_a_preview_says_that_a_key_of_others_is_adopted_and_a_workspace_is_made() -> None:
    """With one of the two grants the preview still names the grant step."""
    new = make.REQUEST.model_copy(update={"workspace_id": None, "create_workspace": "Fresh"})
    found = replace(NOTHING_YET, key=make.key(), granted_roles=frozenset({VIEWER}))
    _, key, grants, _, last = preview(new, found)
    assert (key.action, grants.action) == ("adopt", "grant")
    assert last == Step(7, "New workspace", "approve and create", "Fresh")


def test_a_preview_is_a_table() -> None:
    assert preview_text((Step(1, "Key ring", "create", "projects/p"),)).splitlines() == [
        "| step |  | would | on |",
        "| --- | --- | --- | --- |",
        "| 1 | Key ring | create | `projects/p` |",
    ]


@pytest.mark.parametrize(
    ("changes", "title"),
    [
        ({}, "Other systems depend on this key"),
        ({"status": "unknown", "title": "Who uses it"}, "Not checked: Who uses it"),
        ({"status": "fail", "title": "Nobody uses it"}, "Fails: Nobody uses it"),
    ],
)
def test_a_warning_says_what_is_so_who_can_tell_and_what_ends_it(
    changes: dict[str, Any], title: str
) -> None:
    """Only a warning can be accepted by the policy."""
    fields = {"evidence": "2 users.", "who_can_tell": "the owner", "remedy": "ask"} | changes
    shown = PlanWarning.of(make.warning("key_shared", **fields), {"key_shared"})
    assert shown == PlanWarning(
        id="key_shared",
        title=title,
        text="2 users. Who can tell: the owner.",
        remedy="ask",
        accepted=not changes,
    )
    assert not PlanWarning.of(make.warning("key_shared")).accepted
    assert PlanWarning.of(make.warning("key_shared")).text == "seen."
    assert PlanWarning.of(make.warning("unheard of")).title == "unheard of"


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (
            make.facts(key=make.key(labels={}), granted_roles=frozenset()),
            "Nothing is written to it before the approval.",
        ),
        (make.facts(granted_roles=frozenset()), "On it already: the organization label."),
        (
            make.facts(),
            f"On it already: the organization label, {ENCRYPTER_DECRYPTER}, {VIEWER}.",
        ),
    ],
    ids=["none", "label", "both"],
)
def test_an_adoption_is_a_warning_of_its_own(facts: LiveFacts, said: str) -> None:
    """It says what an earlier approval, or somebody else, has put on the key."""
    plan = build_plan(facts, make.REQUEST, CheckReport(checks=()), adopting=True)
    assert plan.warnings == (
        PlanWarning(
            id="adopts_key",
            title="This key existed before: the approval also allows label and grants on it",
            text="It is not proved that an onboarding of this organization made "
            f"{make.KEY_NAME}, so it may protect other data. {said} Who can decrypt with it is "
            "above.",
            remedy="if that is not what you want: reject, and request a key of another name",
        ),
    )


@pytest.mark.parametrize("accepted", [(), tuple(one.id for one in CATALOGUE), ("adopts_key",)])
@pytest.mark.parametrize("adopting", [False, True])
def test_what_the_policy_has_accepted_follows_from_what_the_digest_binds(
    accepted: tuple[str, ...], adopting: bool
) -> None:
    """This is true for each check that warns, fails or is unknown, and for an adoption."""
    request = make.REQUEST.model_copy(update={"accepted_warnings": accepted})
    for found in ("warned", "unknown", "failed"):
        more = ("-",) if found == "failed" else ()
        checks = tuple(getattr(one, found)("seen", *more) for one in CATALOGUE)
        report = CheckReport(checks=checks)
        plan = build_plan(make.facts(), request, report, adopting=adopting)
        flags = [(one.id, one.accepted) for one in plan.warnings]
        changed = tuple(
            one.model_copy(update={"text": "x", "remedy": "x", "accepted": not one.accepted})
            for one in plan.warnings
        )
        for bound in (plan.bound, plan.model_copy(update={"warnings": changed}).bound):
            assert [(one.id, one.accepted) for one in bound.warnings] == flags
            assert {(one.text, one.remedy) for one in bound.warnings} == {("", None)}
            assert bound.digest == plan.digest


def test_a_difference_of_lists_names_what_was_added_and_removed() -> None:
    changed = Difference(field="other_workspaces", was=["a", "b"], now=["b", "c"])
    assert str(changed) == "other workspaces: new: c; no longer: a"
    assert str(Difference(field="x", was=["a"], now="b")) == "x: was ['a'], is 'b'"
