"""The ready-made queries, the marks, and the kinds of entries."""

from __future__ import annotations

import re
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from hypothesis import example, given
from hypothesis import strategies as st

from cmek.evidence.events import with_evidence_tag
from cmek.evidence.record import Chain, Event, loads
from cmek.evidence.report import (
    ACTIVITY_TYPES,
    evidence_page,
    key_pattern,
    queries,
    queries_of,
    record_in,
    threats_filter,
)
from cmek.names import KeyName, in_use_label
from cmek.tags import EVIDENCE_TAG

KEY = KeyName("acme-kms-prod", "us-east5", "anthropic-cmek", "payments")
SINCE = datetime(2026, 11, 24, 12, tzinfo=UTC)
THREATS, USES, ACTIVITIES = queries(KEY, "wrkspc_01abcdef", "ekey_01abcdef", SINCE)


PLAN = {
    "workspace_id": "wrkspc_01abcdef",
    "key_name": str(KEY),
    "external_key_id": "ekey_01abcdef",
}
ODD = st.none() | st.integers(0, 9) | st.sampled_from(["", "x", "ekey_01\n```\n", *PLAN.values()])
PLANS = st.fixed_dictionaries({}, optional=dict.fromkeys(PLAN, ODD)) | ODD


def asked(*bodies: Any, attached: str | None = None) -> Chain:
    """A record with these approval requests, which anybody may have written."""
    chain = Chain()
    for number, body in enumerate(bodies):
        event = Event(kind="approval_request", subject=f"attach-1-{number}", body=body)
        chain.append(event, run="run-1", at=SINCE)
    if attached is not None:
        chain.append(Event(kind="attached", subject=attached, body=None), run="run-1", at=SINCE)
    return loads(chain.dumps())


@given(st.none() | st.fixed_dictionaries({}, optional={"plan": PLANS}), ODD.map(str) | st.none())
@example({"plan": PLAN | {"key_name": "foo"}}, None)
@example({"plan": PLAN | {"workspace_id": None}}, "x\n```\n")
def test_whatever_a_sealed_request_holds_the_page_is_made_and_holds_the_record(
    body: Any, attached: str | None
) -> None:
    """A page without queries says so; a workspace's later onboardings continue the same record."""
    chain = asked(body, attached=attached)
    page = evidence_page("wrkspc_01abcdef", chain)
    assert record_in(page) == chain.dumps()
    assert bool(queries_of(chain)) is not ("there are no queries" in page)
    again = asked(body, {"plan": PLAN}, attached=attached)
    assert queries_of(again) == (THREATS, USES, ACTIVITIES)


def test_the_pattern_fits_the_key_and_its_versions_and_no_other_key() -> None:
    """A key whose name only begins the same is another key; project number and id both match."""
    pattern = re.compile(key_pattern(KEY))
    assert pattern.search(str(KEY))
    assert pattern.search(f"{KEY}/cryptoKeyVersions/12")
    assert pattern.search(str(KEY).replace("acme-kms-prod", "123456789012"))
    assert not pattern.search(f"{KEY}-2")
    assert not pattern.search(f"{KEY}-2/cryptoKeyVersions/1")
    assert not pattern.search(KEY.key_ring_name)


def test_commands_survive_a_shell() -> None:
    """Each log query is one argument, and holds the whole filter and the start time."""
    for query in (THREATS, USES):
        words = shlex.split(query.command)
        assert words[:3] == ["gcloud", "logging", "read"]
        assert words[4:] == ["--project=acme-kms-prod", "--format=json"]
        assert 'timestamp>="2026-11-24T12:00:00Z"' in words[3]
    assert shlex.split(THREATS.command)[3].startswith(threats_filter(KEY).replace("\n", " "))


def test_links_ask_the_same_as_the_commands() -> None:
    """The console page's query is the filter of the command."""
    for query in (THREATS, USES):
        assert query.link is not None
        asked = unquote(query.link.split(";query=")[1].split("?")[0])
        assert " ".join(asked.splitlines()) == shlex.split(query.command)[3]


def test_the_activity_query_asks_for_workspace_and_external_key_events() -> None:
    """It has the documented parameters; the credential is a shell variable, never a value."""
    words = shlex.split(ACTIVITIES.command)
    url = next(word for word in words if word.startswith("https://"))
    asked = parse_qs(urlsplit(url).query)
    assert asked["activity_types[]"] == list(ACTIVITY_TYPES)
    assert asked["created_at.gte"] == ["2026-11-24T12:00:00Z"]
    assert "x-api-key: $ANTHROPIC_ADMIN_KEY" in words


@given(st.from_regex(r"wrkspc_[a-zA-Z0-9]{6,64}", fullmatch=True))
def test_the_label_is_one_that_cloud_kms_accepts(workspace_id: str) -> None:
    """Lower case, at most 63 characters, whatever the workspace's id."""
    key, value = in_use_label(workspace_id)
    assert re.fullmatch(r"cmek-workspace-[0-9a-f]{12}", key)
    assert value == "attached"


def test_the_tag_keeps_the_others_and_is_written_once() -> None:
    """The update contains all other tags; an existing evidence tag is never replaced."""
    assert with_evidence_tag({"team": "payments"}, "ab") == {"team": "payments", EVIDENCE_TAG: "ab"}
    assert with_evidence_tag({EVIDENCE_TAG: "ab"}, "cd") is None


def test_every_kind_of_entry_is_explained() -> None:
    """The page on evidence has a row for each kind that the code makes, and no other."""
    root = Path(__file__).parents[2]
    sources = [*root.glob("cmek/evidence/*.py"), *root.glob("tasks/*.py")]
    made = {kind for one in sources for kind in re.findall(r'kind="([\w ]+)"', one.read_text())}
    explained = re.findall(r"^\| `([\w ]+)` \|", (root / "docs/evidence.md").read_text(), re.M)
    assert sorted(made) == sorted(explained)
