"""The pure part of discovery: exclusions, key names, epochs and payloads."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from cmek.anthropic.models import Workspace
from cmek.discovery.request import (
    Announcement,
    DiscoveryRequest,
    MalformedEventError,
    read_announcement,
)
from cmek.discovery.rules import (
    Action,
    DiscoveryDecision,
    EarlierRun,
    blocking_run,
    complete,
    finished_run_count,
    idempotency_key,
    ineligible_reason,
    onboarding_for,
    opt_in_missing_reason,
    page,
    request_differences,
)
from cmek.names import KMS_ID_PATTERN, WORKSPACE_ID
from cmek.onboarding.policy import RECOMMENDED, SETTINGS, UnnameableKeyError, key_id
from cmek.onboarding.request import resolve
from tests.support.requests import LENIENT

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
DAY = timedelta(days=1)
PROJECT = "acme-kms-prod"
A_PERSON_DECIDES = {
    "adopt_existing_key",
    "allow_default_workspace",
    "repair",
    "plan_only",
    "four_eyes",
    "signatures",
}


def workspace(name: str = "payments", **fields: Any) -> Workspace:
    base = {"id": "wrkspc_01Payments", "archived_at": None, "external_key_id": None}
    return Workspace.model_validate(base | {"name": name} | fields)


def asked(**fields: Any) -> DiscoveryRequest:
    return DiscoveryRequest.model_validate({"project_id": PROJECT} | fields)


def run(state: str, *, finished: bool = True, ended: datetime | None = NOW) -> EarlierRun:
    completed = finished and state not in {"Failed", "Crashed", "Cancelled"}
    return EarlierRun(
        id=uuid4(), name="one", state=state, finished=finished, completed=completed, ended_at=ended
    )


@pytest.mark.parametrize(
    ("one", "request_fields", "why"),
    [
        (workspace(archived_at="2026-01-01T00:00:00Z"), {}, "archived"),
        (workspace(external_key_id="ekey_01Other"), {}, "has a key"),
        (workspace("Default"), {}, "default workspace"),
        (workspace("Claude Code"), {}, "excluded by 'Claude Code'"),
        (workspace("scratch-7"), {"exclude": ["scratch-*"]}, "excluded by 'scratch-*'"),
        (workspace(), {"exclude": ["wrkspc_01Payments"]}, "excluded by"),
        (workspace("[legacy] payments"), {"exclude": ["[legacy] payments"]}, "excluded by"),
        (workspace("[legacy] payments"), {"exclude": ["[legacy]*"]}, "excluded by"),
        (workspace("prod-e"), {"exclude": ["prod-[eu]"]}, None),
        (workspace(tags={"cmek": "never"}), {"opt_in": "all"}, "tagged cmek=never"),
        (workspace(tags={"key": "never"}), {"opt_in_tag": "key"}, "tagged key=never"),
        (workspace(), {}, None),
    ],
)
def test_an_ineligible_workspace_has_a_reason(
    one: Workspace, request_fields: dict[str, Any], why: str | None
) -> None:
    found = ineligible_reason(one, asked(**request_fields), is_default=False)
    assert found is None if why is None else why in str(found)


@pytest.mark.parametrize(
    ("one", "request_fields", "wanted"),
    [
        (workspace(), {}, False),
        (workspace(tags={"cmek": "onboard"}), {}, True),
        (workspace(tags={"cmek": "Onboard"}), {}, False),
        (workspace(tags={"team-cmek": "onboard"}), {"opt_in_tag": "team-cmek"}, True),
        (workspace("pay-prod"), {"opt_in": "name", "name_patterns": ["*-prod"]}, True),
        (workspace("pay-PROD"), {"opt_in": "name", "name_patterns": ["*-prod"]}, False),
        (workspace("[new] a"), {"opt_in": "name", "name_patterns": ["[new] ?"]}, True),
        (workspace(tags={"cmek": "onboard"}), {"opt_in": "name", "name_patterns": ["a"]}, False),
        (workspace(), {"opt_in": "all"}, True),
    ],
)
def test_opt_in_is_by_exactly_what_the_request_says(
    one: Workspace, request_fields: dict[str, Any], *, wanted: bool
) -> None:
    """A tag does not opt in to a rule by name, and a name does not opt in to a rule by tag."""
    assert (opt_in_missing_reason(one, asked(**request_fields)) is None) is wanted


@given(name=st.text(max_size=20), patterns=st.lists(st.text(max_size=20), min_size=1, max_size=3))
@example(name="[a]", patterns=["[a]"])
@example(name="[!a]", patterns=["[!a]"])
def test_a_name_without_wildcards_is_a_pattern_for_itself_alone(
    name: str, patterns: list[str]
) -> None:
    plain = [one for one in patterns if not set(one) & set("*?")]
    request = DiscoveryRequest.model_construct(opt_in="name", name_patterns=tuple(plain))
    assert (opt_in_missing_reason(workspace(name), request) is None) is (name in plain)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"opt_in": "name"}, "needs at least one of name_patterns"),
        ({"name_patterns": ["*-prod"]}, "ignored with opt_in tag"),
        ({"opt_in": "all", "name_patterns": ["*-prod"]}, "ignored with opt_in all"),
    ],
)
def test_name_patterns_that_decide_nothing_are_refused(fields: dict[str, Any], named: str) -> None:
    """With `all`, every workspace would be onboarded, not only those that were meant."""
    with pytest.raises(ValidationError, match=named):
        asked(**fields)


def test_what_may_be_the_default_workspace_is_ineligible() -> None:
    assert "default" in str(ineligible_reason(workspace(), asked(), is_default=True))


@given(
    st.text(max_size=120),
    st.from_regex(f"^{WORKSPACE_ID}$", fullmatch=True),
    st.sampled_from(["{workspace_id}", "{workspace_name}-{workspace_id}", "a-{workspace_id}-b"]),
)
def test_own_keys_have_names_that_cloud_kms_accepts_and_that_never_collide(
    name: str, workspace_id: str, template: str
) -> None:
    """The name holds the whole workspace id, whatever the workspace's name."""
    try:
        key = key_id(template, workspace_id=workspace_id, workspace_name=name)
    except UnnameableKeyError:
        assert len(template.replace("{workspace_name}", "")) - 14 + len(workspace_id) > 63
    else:
        assert re.fullmatch(KMS_ID_PATTERN, key)
        assert workspace_id in key


@pytest.mark.parametrize("name", SETTINGS)
def test_what_a_policy_decides_is_no_parameter_of_a_discovery(name: str) -> None:
    """The message says who decides it."""
    with pytest.raises(ValidationError, match=f"{name} is decided by the policy"):
        asked(**{name: "anything"})


def test_a_discovery_never_asks_for_what_a_person_decides() -> None:
    made = resolve(onboarding_for(workspace(), asked()), RECOMMENDED)
    for name in A_PERSON_DECIDES & set(SETTINGS):
        assert getattr(made, name) == getattr(RECOMMENDED, name)
    assert (made.plan_only, made.adopt_existing_key) == (False, False)
    assert not A_PERSON_DECIDES & set(DiscoveryRequest.model_fields)
    assert not A_PERSON_DECIDES & set(Announcement.model_fields)


def test_what_is_announced_wins_over_what_the_policy_says() -> None:
    """Each setting by itself, as far as the policy lets a request override it."""
    announced = Announcement(
        workspace_id="wrkspc_01Payments", overrides={"crypto_key": "k", "location": "us-west1"}
    )
    made = resolve(onboarding_for(workspace(), asked(), announced), LENIENT)
    assert str(made.key_name) == (
        f"projects/{PROJECT}/locations/us-west1/keyRings/anthropic-cmek/cryptoKeys/k"
    )


@pytest.mark.parametrize(
    ("runs", "why"),
    [
        ([], None),
        ([run("Suspended", finished=False)], "is Suspended"),
        ([run("Rejected", ended=NOW - 999 * DAY)], "a person rejected"),
        ([run("Rejected"), run("Failed", ended=NOW - 99 * DAY)], "a person rejected"),
        ([run("Attached")], "ended as Attached"),
        ([run("Failed", ended=NOW - DAY / 2)], "not again before"),
        ([run("Cancelled", ended=NOW - DAY / 2)], "not again before"),
        ([run("Crashed", ended=None)], "not again before"),
        ([run("Failed", ended=NOW - 2 * DAY)], None),
        ([run("Failed", ended=NOW - 2 * DAY), run("Failed", ended=NOW)], "not again before"),
        ([run("Duplicate"), run("Planned"), run("Prerequisites fail")], None),
    ],
)
def test_earlier_runs_may_block_another_one(runs: list[EarlierRun], why: str | None) -> None:
    for order in (runs, runs[::-1]):
        found = blocking_run(order, now=NOW, try_again_after=DAY)
        assert found is None if why is None else why in str(found)


@given(st.lists(st.booleans()))
def test_the_epoch_grows_with_each_end_and_with_nothing_else(ends: list[bool]) -> None:
    """A start during a run returns that run; a start after its end makes a new one."""
    runs = [run("Failed" if end else "Running", finished=end) for end in ends]
    assert (
        idempotency_key("wrkspc_01P", finished_run_count(runs)) == f"onboard:wrkspc_01P:{sum(ends)}"
    )


@given(st.dictionaries(st.text(), st.integers()), st.dictionaries(st.text(), st.integers()))
def test_a_requested_field_that_is_missing_or_different_is_a_difference(
    wanted: dict[str, int], found: dict[str, int]
) -> None:
    same = all(name in found and found[name] == value for name, value in wanted.items())
    assert (request_differences(wanted, found) == ()) is same


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        ({}, {"policy": "default"}, []),
        ({}, {"policy": "strict"}, ["policy: 'default' instead of 'strict'"]),
        ({"plan_only": True}, {}, ["plan_only: True instead of False"]),
        ({"bogus": 1}, {"bogus": 1}, []),
    ],
)
def test_a_field_that_is_left_out_has_its_default_on_both_sides(
    first: dict[str, Any], second: dict[str, Any], named: list[str]
) -> None:
    """Two bodies that ask for the same do not differ; one that asks for less does."""
    base = {"workspace": "wrkspc_01P00000", "project_id": PROJECT, "requested_by": "a@example.com"}
    assert list(request_differences(complete(base | second), complete(base | first))) == named


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists) | st.text())
def test_a_payload_that_is_no_announcement_is_refused(value: object) -> None:
    for payload in (json.dumps(value), str(value)):
        with pytest.raises(MalformedEventError):
            read_announcement(payload)


@given(st.sampled_from(sorted(A_PERSON_DECIDES)))
def test_an_event_that_asks_for_what_a_person_decides_is_refused(field: str) -> None:
    for sent in ({field: True}, {"overrides": {field: True}}):
        payload = json.dumps({"workspace_id": "wrkspc_01Payments"} | sent)
        with pytest.raises(MalformedEventError, match=f"{field}.*workspace_id"):
            read_announcement(payload)


def decision(action: Action) -> DiscoveryDecision:
    return DiscoveryDecision(
        workspace_id="wrkspc_01P", workspace_name="a|<b>", action=action, why="|"
    )


def test_names_of_workspaces_cannot_draw_in_the_page() -> None:
    row = page([decision(Action.LEFT_OUT)]).splitlines()[-1]
    assert "<b>" not in row
    assert len(re.findall(r"(?<!\\)\|", row)) == 6
