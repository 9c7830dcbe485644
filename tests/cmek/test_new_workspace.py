"""A workspace that is still to be created: its name, its key's id, and equal names."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.utilities.callables import parameter_schema
from pydantic import ValidationError

from cmek.anthropic.models import ExternalKey, Workspace
from cmek.models import refusals as reasons
from cmek.models import whole
from cmek.names import KMS_ID_PATTERN, WORKSPACE_NAME, look_alike
from cmek.onboarding.approval_request import exactly
from cmek.onboarding.eligibility import WorkspaceNotEligibleError, find_created
from cmek.onboarding.policy import key_id_for
from cmek.onboarding.request import OnboardingForm, OnboardingRequest, same_name_workspaces
from cmek.plain_text import code
from cmek.tags import CREATED_BY_TAG
from flows.onboard import onboard_workspace
from tests.support.texts import similar

RUN = "5d0c4b36-6a1f-4f0e-9a53-0d5f3a3b7c21"
ID = "wrkspc_01BornOne"
GIVEN = {"project_id": "acme-kms-prod", "requested_by": "ada@example.com"}
REQUEST = OnboardingRequest.model_validate(GIVEN | {"create_workspace": "payments"})


def workspace(number: int = 1, **changes: Any) -> Workspace:
    facts = {"id": f"wrkspc_0{number}Some", "name": "other", "archived_at": None}
    return Workspace.model_validate(facts | {"external_key_id": None} | changes)


def key(name: str) -> ExternalKey:
    config = {"type": "gcp", "key_name": name}
    return ExternalKey.model_validate(
        {"id": "ekey_01Some", "attachment": {"type": "attached"}, "provider_config": config}
    )


def refusals(request: dict[str, Any]) -> list[str]:
    """The refusals of these fields by Prefect's schema check and by the request itself."""
    said = []
    schema = parameter_schema(onboard_workspace).model_dump_for_openapi()
    try:
        jsonschema.validate({"request": GIVEN | request}, schema)
    except jsonschema.ValidationError as error:
        said.append(f"{error.json_path}: {error.message}")
    try:
        OnboardingForm.model_validate(GIVEN | request)
    except ValidationError as error:
        said += reasons(error)
    return said


NEW = {"new_workspace": True}


@pytest.mark.parametrize("request_", [{"workspace": ID}, {"workspace": "payments"} | NEW])
def test_a_request_names_one_workspace(request_: dict[str, Any]) -> None:
    assert refusals(request_) == []


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({}, ["'workspace' is a required property", "workspace: is needed"]),
        ({"workspace": "payments"}, ["payments.*a workspace's id, such as wrkspc_"] * 2),
        ({"workspace": ID} | NEW, [f"{ID}.*name of a workspace to create"] * 2),
        ({"workspace": " payments"} | NEW, [" payments.*single spaces inside"] * 2),
        ({"workspace": "pay`ments"} | NEW, ["pay`ments.*single spaces inside"] * 2),
        ({"workspace": "pay\u200bments"} | NEW, ["pay.*ments", "ZERO WIDTH SPACE"]),
        ({"workspace": "cafe\u0301"} | NEW, ["cafe", "COMBINING ACUTE ACCENT"]),
        ({"workspace": "p" * 256} | NEW, ["too long", "characters"]),
        (
            {"workspace": ID, "overrides": {"data_residency": "us_only"}},
            ["overrides.data_residency: 'us_only': .*keeps its own"],
        ),
        ({"workspace": ID, "location": "us-west1"}, ["overrides.location"] * 2),
        ({"workspace_id": ID}, ["workspace", "workspace_id is called workspace"]),
        ({"workspace": ID, "overrides": {"location": "us"}}, ["'us'.*us-east5"] * 2),
        ({"workspace": ID, "overrides": {"colour": 1}}, ["colour.*location", "no colour here"]),
        ({"workspace": ID, "overrides": {"key_ring": "a b"}}, ["a b.*anthropic-cmek"] * 2),
        ({"workspace": ID, "project_id": "A"}, ["'A'.*such as acme-kms-prod"] * 2),
        ({"workspace": ID, "requested_by": "x"}, ["'x'.*such as ada@example.com"] * 2),
        ({"workspace": ID, "policy": "My"}, ["'My'.*a block's name"] * 2),
    ],
)
def test_a_request_that_does_not_is_refused_with_field_value_and_remedy(
    request_: dict[str, Any], words: list[str]
) -> None:
    """The form's schema refuses it as far as it can express the rule, the request always."""
    said = refusals(request_)
    assert len(said) == len(words), said
    for one, wanted in zip(said, words, strict=True):
        assert re.search(wanted, one), one
        assert not re.search(r"\[a-z|\(\?|match|pattern", one), "no regular expression is shown"


@given(st.from_regex(re.compile(WORKSPACE_NAME), fullmatch=True))
def test_every_allowed_name_can_be_read_typed_and_matched(name: str) -> None:
    assert name.isprintable()
    assert unicodedata.normalize("NFC", name) == name
    assert code(name) == f"`{name}`"
    pattern = whole(exactly(name))
    assert re.search(pattern, name)
    assert not re.search(pattern, f"{name} ")
    assert not re.search(pattern, f"x{name}")


@given(st.text(max_size=300).flatmap(similar))
def test_every_name_has_its_own_key_id_that_cloud_kms_accepts(two: tuple[str, str]) -> None:
    """Two names that differ only in case, spaces or punctuation have different ids."""
    one, other = two
    assert re.fullmatch(KMS_ID_PATTERN, key_id_for(one))
    assert (key_id_for(one) == key_id_for(other)) is (one == other)


@pytest.mark.parametrize(
    "name",
    [
        *("payments", "Payments", "ｐayments", "pay\u200bments", "pay ments", "pay\u00a0ments"),
        *("pay\u034fments", "payments\ufe0f", "pay\u3164ments", "\u2800payments"),
        *("рayments", "раymеnts", "paymеnts", "payrnents", "𝐩𝐚𝐲𝐦𝐞𝐧𝐭𝐬"),
    ],
)
def test_names_that_look_alike_are_treated_as_one(name: str) -> None:
    """An archived workspace does not reserve its name."""
    assert same_name_workspaces([workspace(name=name)], "payments")
    gone = workspace(name=name, archived_at=datetime.now(UTC).isoformat())
    assert not same_name_workspaces([gone], "payments")


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("Payments-I", "payments-l", True),
        ("mail", "mall", False),
        ("café", "cafe", False),
        ("prod-1", "prod-2", False),
        ("支払い", "支払", False),
        ("0rders", "Orders", True),
    ],
)
def test_names_that_a_reader_can_distinguish_are_not(one: str, other: str, alike: bool) -> None:
    assert look_alike(one, other) is look_alike(other, one) is alike


@given(st.text(max_size=20))
def test_every_name_looks_like_itself_in_any_case_and_normal_form(name: str) -> None:
    for form in (name, name.casefold(), unicodedata.normalize("NFD", name), f" {name}\u200b"):
        assert look_alike(name, form), form


def test_what_this_run_created_is_found_whatever_happened_to_it() -> None:
    """It is found even if renamed or archived, so nothing is created again."""
    ours = workspace(
        2,
        name="renamed",
        archived_at="2026-11-24T10:00:00Z",
        external_key_id="ekey_01Some",
        tags={CREATED_BY_TAG: RUN},
    )
    assert find_created(REQUEST, [workspace(), ours], {}, RUN) == ours
    assert find_created(REQUEST, [workspace(), ours], {}, "another run") is None


def test_two_that_this_run_created_or_one_without_a_key_stop_it() -> None:
    """This code makes neither; a person must look."""
    ours: dict[str, Any] = {"name": "payments", "tags": {CREATED_BY_TAG: RUN}}
    with pytest.raises(WorkspaceNotEligibleError, match="without its key"):
        find_created(REQUEST, [workspace(**ours)], {}, RUN)
    keyed = ours | {"external_key_id": "ekey_01Some"}
    with pytest.raises(WorkspaceNotEligibleError, match="twice"):
        find_created(REQUEST, [workspace(1, **keyed), workspace(2, **keyed)], {}, RUN)


def test_another_of_the_name_is_refused_unless_it_has_the_same_key() -> None:
    """If it has the requested key, an earlier run has done the work of this one."""
    taken = workspace(name="payments", external_key_id="ekey_01Some")
    done = {"ekey_01Some": key(str(REQUEST.key_name))}
    assert find_created(REQUEST, [taken], done, RUN) == taken
    with pytest.raises(WorkspaceNotEligibleError, match=taken.id):
        find_created(REQUEST, [taken], {"ekey_01Some": key("another")}, RUN)
    with pytest.raises(WorkspaceNotEligibleError, match=taken.id):
        find_created(REQUEST, [workspace(name="Payments")], {}, RUN)


def test_with_its_id_the_request_is_for_the_same_key() -> None:
    now = REQUEST.for_existing(ID)
    assert OnboardingRequest.model_validate(now.model_dump()) == now
    assert now.key_name == REQUEST.key_name
    assert (now.subject, REQUEST.subject) == (ID, "new:payments")
