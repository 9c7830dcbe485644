"""What the gateway lets through, and what a signed approval must say: tables of the pure policy."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmek.anthropic.models import ExternalKey, Workspace
from cmek.onboarding.request import data_residency
from cmek.signatures.statement import SignedApproval, Statement
from cmek.signatures.verification import CLOCK_SKEW, Verified
from gateway.rules import (
    Attach,
    Call,
    Create,
    Forward,
    PolicyError,
    Tag,
    approval_problems,
    decide,
    live_problems,
    present,
    tag_problem,
)

KEYS = "/v1/organizations/external_keys"
WORKSPACES = "/v1/organizations/workspaces"
EKEY, OTHER_KEY = "ekey_01SandboxKeyOne", "ekey_01SandboxKeyTwo"
WRKSPC = "wrkspc_01SandboxFreshOne"
KEY_NAME = "projects/acme-kms-prod/locations/us-east5/keyRings/r/cryptoKeys/k"
RUN = "5d0c4b36-6a1f-4f0e-9a53-0d5f3a3b7c21"
HASH = "ab" * 32
NEEDS_HASH = "must hold cmek-evidence with a SHA-256"
NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
REGISTRATION: dict[str, Any] = {
    "display_name": "payments",
    "geo": "us",
    "provider_config": {"type": "gcp", "key_name": KEY_NAME},
}
CREATION: dict[str, Any] = {
    "name": "Fresh",
    "external_key_id": EKEY,
    "tags": {"cmek-run": RUN},
    "data_residency": data_residency("us_only"),
}
ATTACH = Attach(WRKSPC, EKEY)
CREATE = Create("Fresh", EKEY, RUN, data_residency("us_only"))  # type: ignore[arg-type]


PASS: dict[str, Call] = {
    "organization.me": Call("GET", "/v1/organizations/me"),
    "external_keys.list": Call("GET", KEYS, (("limit", "100"), ("page", "p2"))),
    "external_keys.retrieve": Call("GET", f"{KEYS}/{EKEY}"),
    "workspaces.list": Call(
        "GET",
        WORKSPACES,
        (("limit", "1000"), ("include_archived", "true"), ("ids[]", WRKSPC), ("ids[]", "x")),
    ),
    "workspaces.retrieve": Call("GET", f"{WORKSPACES}/{WRKSPC}"),
    "external_keys.create": Call("POST", KEYS, (), REGISTRATION),
    "external_keys.validate": Call("POST", f"{KEYS}/{EKEY}/validate"),
}


@pytest.mark.parametrize(("verb", "call"), PASS.items(), ids=PASS)
def test_the_calls_of_the_product_pass_unchanged(verb: str, call: Call) -> None:
    decision = decide(call)
    assert isinstance(decision, Forward)
    assert (decision.verb, decision.method, decision.path) == (verb, call.method, call.path)
    sent = [
        (name, one)
        for name, value in decision.query.items()
        for one in ([value] if isinstance(value, str) else value)
    ]
    assert sorted(sent) == sorted(call.query)
    assert decision.body == call.body


def test_the_evidence_tag_passes_once_beside_the_tags_that_are_there() -> None:
    def asked(tags: dict[str, str], **before: str) -> str | None:
        body: Any = {"tags": tags}
        decision = decide(Call("POST", f"{WORKSPACES}/{WRKSPC}", (), body))
        assert isinstance(decision, Tag)
        assert decision.call.body == {"tags": tags}
        assert decision.workspace_id == WRKSPC
        return tag_problem(decision, workspace(tags=before))

    ours = {"cmek-evidence": HASH}
    assert asked(ours) is None
    assert asked(ours, team="payments") is None
    assert asked(ours | {"team": "payments"}, team="payments") is None
    assert "not those that it has" in str(asked(ours | {"team": "eve"}, team="payments"))
    assert "not those that it has" in str(asked(ours | {"team": "eve"}))
    assert "written once" in str(asked(ours, **{"cmek-evidence": "x"}))


def test_an_attach_and_a_creation_are_recognised() -> None:
    assert decide(Call("POST", f"{WORKSPACES}/{WRKSPC}", (), {"external_key_id": EKEY})) == ATTACH
    assert decide(Call("POST", WORKSPACES, (), CREATION)) == CREATE


REFUSED: dict[str, tuple[Call, str]] = {
    "a deletion": (Call("DELETE", f"{KEYS}/{EKEY}"), "only GET and POST"),
    "a replacement": (Call("PUT", f"{WORKSPACES}/{WRKSPC}", (), {"tags": {}}), "only GET and POST"),
    "a head": (Call("HEAD", KEYS), "only GET and POST"),
    "an archival": (Call("POST", f"{WORKSPACES}/{WRKSPC}/archive"), "no call that the product"),
    "members": (Call("GET", f"{WORKSPACES}/{WRKSPC}/members"), "no read that the product"),
    "API keys": (Call("GET", "/v1/organizations/api_keys"), "no read that the product"),
    "users": (Call("GET", "/v1/organizations/users"), "no read that the product"),
    "an invitation": (Call("POST", "/v1/organizations/invites", (), {}), "no call that"),
    "a change of an external key": (Call("POST", f"{KEYS}/{EKEY}", (), {}), "no call that"),
    "a message": (Call("POST", "/v1/messages", (), {}), "no call that the product"),
    "the token endpoint": (Call("POST", "/v1/oauth/token", (), {}), "no call that the product"),
    "a path that climbs": (Call("GET", f"{KEYS}/../api_keys"), "no read"),
    "an encoded path": (Call("GET", f"{KEYS}/%2e%2e/api_keys"), "no read"),
    "a final slash": (Call("GET", f"{KEYS}/"), "no read"),
    "a final line break": (Call("GET", f"{KEYS}/{EKEY}\n"), "no read"),
    "another host in the path": (Call("GET", "//evil.example/v1/organizations/me"), "no read"),
    "an unknown query": (Call("GET", KEYS, (("limit", "1"), ("beta", "1"))), "beta"),
    "a query on an object": (Call("GET", f"{KEYS}/{EKEY}", (("limit", "1"),)), "limit"),
    "a query given twice": (Call("GET", KEYS, (("page", "a"), ("page", "b"))), "more than once"),
    "a query on a write": (
        Call("POST", f"{WORKSPACES}/{WRKSPC}", (("x", "1"),), {"external_key_id": EKEY}),
        "no query passes",
    ),
    "a read with a body": (Call("GET", KEYS, (), {"a": 1}), "a read has no body"),
    "a validation with a body": (Call("POST", f"{KEYS}/{EKEY}/validate", (), {}), "has no body"),
    "another provider": (
        Call(
            "POST", KEYS, (), REGISTRATION | {"provider_config": {"type": "aws", "key_name": "k"}}
        ),
        "provider_config.type",
    ),
    "another geography": (Call("POST", KEYS, (), REGISTRATION | {"geo": "eu"}), "geo"),
    "a key version": (
        Call("POST", KEYS, (), REGISTRATION | {
            "provider_config": {"type": "gcp", "key_name": f"{KEY_NAME}/cryptoKeyVersions/1"}
        }),
        "without a version",
    ),
    "more of a registration": (Call("POST", KEYS, (), REGISTRATION | {"x": 1}), "x: there is no"),
    "a foreign tag": (
        Call("POST", f"{WORKSPACES}/{WRKSPC}", (), {"tags": {"team": HASH}}), NEEDS_HASH
    ),
    "the tag of a creation": (
        Call("POST", f"{WORKSPACES}/{WRKSPC}", (), {"tags": {"cmek-run": RUN}}), NEEDS_HASH
    ),
    "a tag that is no hash": (
        Call("POST", f"{WORKSPACES}/{WRKSPC}", (), {"tags": {"cmek-evidence": "x"}}), NEEDS_HASH
    ),
    "a tag with a line break": (
        Call("POST", f"{WORKSPACES}/{WRKSPC}", (), {"tags": {"cmek-evidence": HASH + "\n"}}),
        NEEDS_HASH,
    ),
    "a removed tag": (
        Call("POST", f"{WORKSPACES}/{WRKSPC}", (), {"tags": {"cmek-evidence": None}}), "string"
    ),
    "no tag": (Call("POST", f"{WORKSPACES}/{WRKSPC}", (), {"tags": {}}), NEEDS_HASH),
    "a key beside a tag": (
        Call("POST", f"{WORKSPACES}/{WRKSPC}", (),
             {"tags": {"cmek-evidence": HASH}, "external_key_id": EKEY}),
        "external_key_id: there is no such field",
    ),
    "a name beside a key": (
        Call("POST", f"{WORKSPACES}/{WRKSPC}", (), {"external_key_id": EKEY, "name": "n"}),
        "name: there is no such field",
    ),
    "a renamed workspace": (
        Call("POST", f"{WORKSPACES}/{WRKSPC}", (), {"name": "n"}), "external_key_id: is needed"
    ),
    "a detached key": (
        Call("POST", f"{WORKSPACES}/{WRKSPC}", (), {"external_key_id": None}), "external_key_id"
    ),
    "a list": (Call("POST", f"{WORKSPACES}/{WRKSPC}", (), [{"external_key_id": EKEY}]), "body"),
    "nothing": (Call("POST", f"{WORKSPACES}/{WRKSPC}"), "body"),
    "a new workspace without a key": (
        Call("POST", WORKSPACES, (), {k: v for k, v in CREATION.items() if k != "external_key_id"}),
        "external_key_id: is needed",
    ),
    "a new workspace without its run": (
        Call("POST", WORKSPACES, (), CREATION | {"tags": {}}), "tags must be cmek-run"
    ),
    "a new workspace with another tag": (
        Call("POST", WORKSPACES, (), CREATION | {"tags": {"cmek-run": RUN, "cmek": "x"}}),
        "cmek-run",
    ),
    "a new workspace and more": (
        Call("POST", WORKSPACES, (), CREATION | {"compliance": {}}), "compliance: there is no"
    ),
    "a new workspace without a name": (
        Call("POST", WORKSPACES, (), CREATION | {"name": ""}), "name"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("call", "why"), REFUSED.values(), ids=REFUSED)
def test_everything_else_is_refused_with_the_reason(call: Call, why: str) -> None:
    with pytest.raises(PolicyError) as caught:
        decide(call)
    assert why in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
BODIES: list[dict[str, Any]] = [
    REGISTRATION, CREATION, {"external_key_id": EKEY}, {"tags": {"cmek-evidence": HASH}}
]  # fmt: skip
FIELDS = st.sampled_from(sorted({name for body in BODIES for name in body}))
VALUES = st.sampled_from([value for body in BODIES for value in body.values()])
CALLS = [
    (method, path + end)
    for method in ("POST", "GET", "PUT", "PATCH", "DELETE")
    for path in (KEYS, WORKSPACES, f"{KEYS}/{EKEY}", f"{WORKSPACES}/{WRKSPC}")
    for end in ("", "/", "/validate")
]


@st.composite
def nearly_allowed(draw: st.DrawFn) -> dict[str, Any]:
    """A body that the product sends, or one with a field added, removed or changed."""
    body = dict(draw(st.sampled_from(BODIES)))
    change = draw(st.sampled_from(["none", "without", "with"]))
    if change == "without":
        del body[draw(st.sampled_from(sorted(body)))]
    elif change == "with":
        body[draw(FIELDS)] = draw(VALUES | JSON)
    return body


@given(nearly_allowed())
def test_no_call_is_forwarded_that_could_attach_a_key(body: dict[str, Any]) -> None:
    """A call forwarded without an approval writes nothing of a workspace but its evidence tag."""
    for method, path in CALLS:
        try:
            decision = decide(Call(method, path, (), body))
        except PolicyError:
            continue
        if isinstance(decision, Forward) and decision.path.startswith(WORKSPACES):
            assert decision.method == "GET"
        if isinstance(decision, Tag):
            assert set(decision.call.body or {}) == {"tags"}


def said(**changes: Any) -> Statement:
    """A statement that permits `ATTACH`."""
    statement = Statement(
        approver="grace@example.com",
        approval_request="attach-1-1",
        comment="fine",
        decision="approve",
        expires_at=NOW + timedelta(hours=1),
        external_key_id=EKEY,
        issued_at=NOW - timedelta(minutes=1),
        key_name=KEY_NAME,
        nonce="n",
        plan_digest="d",
        requester="ada@example.com",
        run_id=RUN,
        workspace_id=WRKSPC,
    )
    return statement.model_copy(update=changes)


def creation(**changes: Any) -> Statement:
    """A statement that permits `CREATE`."""
    new = {"workspace_id": None, "workspace_name": "Fresh", "data_residency": "us_only"}
    return said(**(new | changes))


def verified(statement: Statement, key: str | None = None) -> Verified:
    approval = SignedApproval(statement, "signature")
    return Verified(approval, "ED25519", key or f"SHA256:{statement.approver}")


def problems(
    *statements: Statement | Verified, target: Attach | Create = ATTACH, **options: Any
) -> str:
    found = [one if isinstance(one, Verified) else verified(one) for one in statements]
    settings: dict[str, Any] = {"minimum": 1, "requester_excluded": True, "now": NOW}
    return "; ".join(approval_problems(target, found, **(settings | options)))


def test_an_approval_for_exactly_this_permits_it() -> None:
    assert problems(said()) == ""
    assert problems(creation(), target=CREATE) == ""


KATHERINE = "katherine@example.com"
LONGEST = timedelta(days=30)
FLAWS: dict[str, tuple[Statement, str]] = {
    "another workspace": (said(workspace_id="wrkspc_01SandboxOther"), "another workspace"),
    "a new workspace": (creation(), "another workspace"),
    "a name beside the id": (said(workspace_name="Fresh"), "another workspace"),
    "another external key": (said(external_key_id=OTHER_KEY), "another external key"),
    "a rejection": (said(decision="reject"), "another decision"),
    "expired": (said(expires_at=NOW - timedelta(seconds=1)), "expired at"),
    "from the future": (
        said(issued_at=NOW + CLOCK_SKEW + timedelta(seconds=1)), "signed in the future"
    ),
    "for years": (
        said(expires_at=NOW - timedelta(minutes=1) + LONGEST + CLOCK_SKEW + timedelta(seconds=1)),
        "30 days at most",
    ),
    "the requester's own": (said(approver="ada@example.com"), "is the requester"),
    "the requester's in other letters": (said(approver="ADA@example.com"), "is the requester"),
}  # fmt: skip


@pytest.mark.parametrize(("statement", "why"), FLAWS.values(), ids=FLAWS)
def test_an_approval_with_one_flaw_permits_nothing(statement: Statement, why: str) -> None:
    assert why in problems(statement)
    # a good approval beside it does not help
    beside = said(approver=KATHERINE)
    assert problems(beside, statement)
    assert problems(statement, beside)


def test_the_limits_of_time_belong_to_the_approval() -> None:
    assert problems(said(expires_at=NOW)) == ""
    assert problems(said(issued_at=NOW + CLOCK_SKEW)) == ""
    assert problems(said(issued_at=NOW, expires_at=NOW + LONGEST + CLOCK_SKEW)) == ""


CREATION_FLAWS: dict[str, tuple[Statement, str]] = {
    "another name": (creation(workspace_name="Other"), "another workspace"),
    "an id": (creation(workspace_id=WRKSPC, workspace_name=None), "another workspace"),
    "another run": (creation(run_id="another"), "another run"),
    "another residency": (creation(data_residency="unrestricted"), "another data residency"),
    "no residency": (creation(data_residency=None), "another data residency"),
}


@pytest.mark.parametrize(("statement", "why"), CREATION_FLAWS.values(), ids=CREATION_FLAWS)
def test_a_creation_needs_an_approval_of_name_run_and_residency(
    statement: Statement, why: str
) -> None:
    assert why in problems(statement, target=CREATE)


def test_the_requester_may_sign_where_the_administrator_says_so() -> None:
    assert problems(said(approver="ada@example.com"), requester_excluded=False) == ""


def test_the_number_of_approvers_is_the_minimum() -> None:
    assert problems() == "0 of 1 required signatures"
    assert problems(minimum=2) == "0 of 2 required signatures"
    assert problems(said(), minimum=2) == "1 of 2 required signatures"
    assert problems(said(), said(approver=KATHERINE), minimum=2) == ""


def test_an_approver_and_a_key_count_once() -> None:
    again = problems(said(), said(comment="again"), minimum=2)
    assert "has signed more than once" in again
    one_key = problems(verified(said(), "K"), verified(said(approver=KATHERINE), "K"), minimum=2)
    assert "one key has signed in more than one name" in one_key


SHARED: dict[str, Any] = {
    "acknowledged_warnings": ("a",),
    "approval_request": "attach-1-2",
    "data_residency": "us_only",
    "expires_at": NOW + timedelta(hours=2),
    "external_key_id": OTHER_KEY,
    "imported_versions": ("1",),
    "key_name": KEY_NAME + "2",
    "nonce": "m",
    "other_decrypters": ("user:eve@example.com",),
    "other_workspaces": ("wrkspc_01SandboxOther",),
    "plan_digest": "e",
    "requester": "eve@example.com",
    "run_id": "r",
    "workspace_id": "wrkspc_01SandboxOther",
    "workspace_name": "Fresh",
}
OWN = {"approver", "comment", "decision", "issued_at"}


def test_every_field_of_a_statement_is_either_shared_or_an_approvers_own() -> None:
    """A new field of a statement must be added to one of the two."""
    assert OWN | set(SHARED) == set(Statement.model_fields)


@pytest.mark.parametrize("name", SHARED)
def test_approvers_who_signed_different_things_permit_nothing(name: str) -> None:
    other = said(approver=KATHERINE, **{name: SHARED[name]})
    assert f"have signed another {name}" in problems(said(), other, minimum=2)


def external_key(**changes: Any) -> ExternalKey:
    fields = {
        "id": EKEY,
        "attachment": {"type": "unattached"},
        "provider_config": {"type": "gcp", "key_name": KEY_NAME},
    }
    return ExternalKey.model_validate(fields | changes)


def workspace(**changes: Any) -> Workspace:
    fields = {"id": WRKSPC, "name": "Fresh", "archived_at": None, "external_key_id": None}
    return Workspace.model_validate(fields | changes)


def live(*workspaces: Workspace, key: ExternalKey | None = None, creates: bool = False) -> str:
    target, signed = (CREATE, creation()) if creates else (ATTACH, said())
    return "; ".join(live_problems(target, signed, key or external_key(), workspaces))


def test_a_free_workspace_and_the_signed_key_are_in_order() -> None:
    assert live(workspace()) == ""
    assert live(workspace(name="Other"), creates=True) == ""


def test_what_the_gateway_reads_itself_can_forbid_an_attach() -> None:
    registered = {"provider_config": {"type": "gcp", "key_name": KEY_NAME + "2"}}
    assert "is registered for" in live(workspace(), key=external_key(**registered))
    assert "is registered for" in live(workspace(), key=external_key(id=OTHER_KEY))
    aws = {"provider_config": {"type": "aws"}}
    assert "is registered for None" in live(workspace(), key=external_key(**aws))
    assert "is archived" in live(workspace(archived_at=NOW))
    assert f"has the key {OTHER_KEY}" in live(workspace(external_key_id=OTHER_KEY))


def test_a_taken_name_forbids_a_creation() -> None:
    assert "exists" in live(workspace(), creates=True)
    assert "exists" in live(workspace(name="FRESH"), creates=True)
    assert live(workspace(archived_at=NOW), creates=True) == ""
    # another workspace with a key does not prevent a new one
    assert live(workspace(name="Other", external_key_id=OTHER_KEY), creates=True) == ""


def test_an_attach_that_took_effect_is_recognised_by_a_read() -> None:
    done = workspace(external_key_id=EKEY)
    assert present(ATTACH, [done]) == done
    assert present(ATTACH, [workspace()]) is None
    assert present(ATTACH, [workspace(external_key_id=OTHER_KEY)]) is None
    ours = workspace(external_key_id=EKEY, tags={"cmek-run": RUN})
    assert present(CREATE, [workspace(), ours]) == ours
    assert present(CREATE, [done]) is None
    assert present(replace(CREATE, run_id="another"), [ours]) is None


def test_the_tag_is_forwarded_as_one_update_of_tags() -> None:
    """Only the tags that were checked are forwarded."""
    path = f"{WORKSPACES}/{WRKSPC}"
    tags: dict[str, Any] = {"cmek-evidence": HASH, "team": "payments"}
    assert decide(Call("POST", path, (), {"tags": tags})) == Tag(
        Forward("workspaces.update", "POST", path, {}, {"tags": tags}),
        WRKSPC,
        {"team": "payments"},
    )


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            Call("POST", KEYS, (), {"geo": "eu", "provider_config": {"type": "gcp"}}),
            f"POST {KEYS}: geo: Input should be 'us'; provider_config.key_name: is needed",
        ),
        (
            Call("POST", KEYS, (), ["geo"]),
            f"POST {KEYS}: body: wanted are named fields (in JSON an object, in TOML a table)",
        ),
        (
            Call("GET", KEYS, (("z", "1"), ("a", "2"), ("a", "3"))),
            f"GET {KEYS}: the query a, z does not pass",
        ),
        (
            Call("POST", KEYS, (), dict.fromkeys("abcd", 1)),
            (f"POST {KEYS}: geo: is needed; provider_config: is needed; a: there is no such field"),
        ),
    ],
)
def test_a_refusal_names_fields_and_never_their_values(call: Call, said: str) -> None:
    """It names at most three fields; anybody on the machine may get the answer."""
    with pytest.raises(PolicyError) as refused:
        decide(call)
    assert str(refused.value) == said
