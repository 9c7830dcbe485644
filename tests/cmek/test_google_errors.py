"""`classify` gives one result for gRPC exceptions, REST exceptions and JSON bodies."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import requests
from google.api_core import exceptions as core
from google.auth import exceptions as auth
from google.cloud import kms_v1
from google.iam.v1 import iam_policy_pb2, policy_pb2
from hypothesis import given
from hypothesis import strategies as st

from cmek.anthropic_identity import MEMBER, ROLES, SERVICE_ACCOUNT
from cmek.gcp.errors import GoogleApiError, GoogleProblem, classify
from tests.support.clients import Rig
from tests.support.google import Call, Client, by_grpc, by_http, by_rest, grpc_client

PROJECT = "projects/acme-kms-prod"
RING = f"{PROJECT}/locations/us-east5/keyRings/classified"
KEY = f"{RING}/cryptoKeys/key"
VERSION = f"{KEY}/cryptoKeyVersions/1"
NUMBER = "projects/123456789012"
OPTIONS: dict[str, Any] = {"retry": None, "timeout": 5}

Raised = Callable[[Rig, Call], Exception | httpx.Response]
TYPE = "type.googleapis.com/google.rpc."


@dataclass(frozen=True)
class Case:
    """One failure, and the expected result of `classify`."""

    call: Call
    arrange: Callable[[Rig], object] | None
    status: str
    reason: str | None = None
    resource: str | None = None
    advice: tuple[str, ...] = ()
    transient: bool = False
    more: Callable[[GoogleProblem], bool] = lambda problem: True


def get_ring(client: Client) -> object:
    return client.get_key_ring(name=RING, **OPTIONS)


def get_missing(client: Client) -> object:
    return client.get_crypto_key(name=f"{KEY}-missing", **OPTIONS)


def get_elsewhere(client: Client) -> object:
    """Read a ring in a mistyped location."""
    return client.get_key_ring(name=RING.replace("us-east5", "us-east55"), **OPTIONS)


def create_ring(client: Client) -> object:
    """Create a ring that exists."""
    parent = f"{PROJECT}/locations/us-east5"
    return client.create_key_ring(parent=parent, key_ring_id="classified", **OPTIONS)


def create_key(client: Client, key_id: str = "another") -> object:
    template = kms_v1.CryptoKeyVersionTemplate(protection_level="SOFTWARE")
    key = kms_v1.CryptoKey(purpose="ENCRYPT_DECRYPT", version_template=template)
    return client.create_crypto_key(parent=RING, crypto_key_id=key_id, crypto_key=key, **OPTIONS)


def encrypt(client: Client) -> object:
    return client.encrypt(name=KEY, plaintext=b"x", **OPTIONS)


def grant(client: Client, etag: bytes = b"") -> object:
    bindings = [policy_pb2.Binding(role=role, members=[MEMBER]) for role in ROLES]
    policy = policy_pb2.Policy(version=3, bindings=bindings, etag=etag)
    request = iam_policy_pb2.SetIamPolicyRequest(resource=KEY, policy=policy)
    return client.set_iam_policy(request, **OPTIONS)


def fault(call: str, **answer: Any) -> Callable[[Rig], object]:
    return lambda rig: rig.control.fault(call, **answer)


def constrained(**constraints: Any) -> Callable[[Rig], object]:
    return lambda rig: rig.control.constraints(**constraints)


def of_version(state: str, *advice: str, transient: bool = False) -> Case:
    """`KEY_<STATE>` in a violation, as Cloud KMS reports an unusable version."""
    violation = {"type": f"KEY_{state}", "subject": VERSION, "description": ""}
    detail = {"@type": f"{TYPE}PreconditionFailure", "violations": [violation]}
    text = f"{VERSION} is not enabled, current state is: {state}."
    status = "FAILED_PRECONDITION"
    arrange = fault("Encrypt", status=status, message=text, details=[detail])
    return Case(encrypt, arrange, status, f"KEY_{state}", VERSION, advice, transient)


def of_constraint(name: str, **constraint: Any) -> Case:
    advice = (name, NUMBER)
    return Case(create_key, constrained(**constraint), "FAILED_PRECONDITION", name, advice=advice)


QUOTA = [
    {"@type": f"{TYPE}RetryInfo", "retryDelay": "7.500s"},
    {
        "@type": f"{TYPE}QuotaFailure",
        "violations": [{"subject": "project:1", "description": "read_usage is used up"}],
    },
]
MEMBERS = "constraints/iam.allowedPolicyMemberDomains"
CASES = {
    "API off": Case(
        get_ring,
        lambda rig: rig.control.switches(kms_api_enabled=False),
        "PERMISSION_DENIED",
        "SERVICE_DISABLED",
        NUMBER,
        ("services enable cloudkms.googleapis.com --project=123456789012",),
    ),
    "no billing": Case(
        get_ring,
        lambda rig: rig.control.switches(billing_enabled=False),
        "PERMISSION_DENIED",
        "BILLING_DISABLED",
        advice=("billing projects link 123456789012",),
    ),
    "no permission": Case(  # read from the text: ErrorInfo may be absent
        get_ring,
        lambda rig: rig.sandbox.world.identities.administrator.deny("cloudkms.keyRings.get"),
        "PERMISSION_DENIED",
        "IAM_PERMISSION_DENIED",
        RING,
        ("cloudkms.keyRings.get", RING),
        more=lambda problem: problem.permission == "cloudkms.keyRings.get",
    ),
    "member domains": Case(  # all members are checked again: the offender may be an older one
        grant,
        constrained(allowed_policy_member_domains=["C0sandbox"]),
        "FAILED_PRECONDITION",
        MEMBERS,
        advice=(SERVICE_ACCOUNT,),
        more=lambda problem: SERVICE_ACCOUNT in problem.violations[0].description,
    ),
    "locations": of_constraint(
        "constraints/gcp.resourceLocations", resource_locations=["europe-west1"]
    ),
    "levels": of_constraint(
        "constraints/cloudkms.allowedProtectionLevels", allowed_protection_levels=["HSM"]
    ),
    "perimeter": Case(  # the unique id is what its administrator searches for
        get_ring,
        constrained(perimeter_blocks="everybody"),
        "PERMISSION_DENIED",
        "SECURITY_POLICY_VIOLATED",
        more=lambda problem: bool(uid := problem.metadata["uid"]) and uid in problem.advice,
    ),
    "disabled": of_version("DISABLED", "versions enable"),
    "scheduled": of_version("DESTROY_SCHEDULED", "versions restore"),
    "destroyed": of_version("DESTROYED", "gone for ever"),
    "pending": of_version("PENDING_GENERATION", "a few seconds", transient=True),
    # REST raises one and the same class for the next two
    "lost race": Case(
        lambda client: grant(client, b"stale"), None, "ABORTED", "CONCURRENT_POLICY_CHANGE"
    ),
    "taken name": Case(create_ring, None, "ALREADY_EXISTS"),
    "missing": Case(get_missing, None, "NOT_FOUND"),
    "mistyped location": Case(
        get_elsewhere, None, "NOT_FOUND", "MISROUTED_LOCATION", advice=("us-east55",)
    ),
    "quota": Case(
        get_ring,
        fault("GetKeyRing", status="RESOURCE_EXHAUSTED", details=QUOTA),
        "RESOURCE_EXHAUSTED",
        advice=("quota",),
        transient=True,
        more=lambda problem: (
            (problem.retry_after, problem.violations[0].description)
            == (7.5, "read_usage is used up")
        ),
    ),
    **{
        status: Case(get_ring, fault("GetKeyRing", status=status), status, transient=True)
        for status in ("UNAVAILABLE", "INTERNAL", "DEADLINE_EXCEEDED")
    },
}


@pytest.fixture
def state(rig: Rig) -> Iterator[Rig]:
    """The rig with the ring and the key of the calls; the caller has all permissions."""
    if RING not in rig.sandbox.world.kms.key_rings:
        client = grpc_client(rig)
        create_ring(client)
        create_key(client, "key")
        client.transport.close()  # type: ignore[no-untyped-call]
    yield rig
    rig.sandbox.world.identities.administrator.denied.clear()


@pytest.mark.parametrize("raised", [by_grpc, by_rest, by_http])
@pytest.mark.parametrize("name", CASES)
def test_a_failure_is_classified_alike_on_every_transport(
    state: Rig, raised: Raised, name: str
) -> None:
    """It has status, reason, resource, and an advice that says what to do."""
    case = CASES[name]
    if case.arrange:
        case.arrange(state)
    problem = classify(raised(state, case.call))
    assert (problem.status, problem.transient) == (case.status, case.transient)
    if case.reason or case.status in {"ALREADY_EXISTS", "NOT_FOUND"}:
        assert problem.reason == case.reason
    assert case.resource in (None, problem.resource)
    assert all(text in problem.advice for text in case.advice)
    assert case.more(problem)


def test_a_permission_is_read_from_the_text_alone() -> None:
    """It is likely but not verified that a plain IAM denial has an ErrorInfo."""
    text = f"Permission 'cloudkms.cryptoKeys.get' denied on resource '{KEY}' (or it may not exist)."
    problem = classify(body(403, "PERMISSION_DENIED", text))
    assert (problem.reason, problem.permission) == (
        "IAM_PERMISSION_DENIED",
        "cloudkms.cryptoKeys.get",
    )
    assert problem.resource == KEY


@pytest.mark.parametrize(
    "lost",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        requests.exceptions.ConnectionError("refused"),
        core.RetryError("late", cause=requests.exceptions.ConnectionError("refused")),  # type: ignore[no-untyped-call]
        TimeoutError(),
        ConnectionResetError(),
    ],
    ids=lambda lost: type(lost).__name__,
)
def test_a_lost_connection_is_transient_in_every_library(lost: Exception) -> None:
    problem = classify(lost)
    assert (problem.status, problem.reason, problem.transient) == (
        "UNAVAILABLE",
        "CONNECTION",
        True,
    )


@pytest.mark.parametrize(
    ("failure", "transient"),
    [
        (auth.DefaultCredentialsError("none"), False),  # type: ignore[no-untyped-call]
        (auth.RefreshError("revoked"), False),  # type: ignore[no-untyped-call]
        (auth.RefreshError("busy", retryable=True), True),  # type: ignore[no-untyped-call]
        (auth.TransportError("unreachable"), True),  # type: ignore[no-untyped-call]
    ],
    ids=["default", "refresh", "busy", "transport"],
)
def test_missing_credentials_say_how_to_log_in(failure: Exception, transient: bool) -> None:
    """A retry helps only if the token endpoint was not reached."""
    problem = classify(failure)
    assert (problem.status, problem.reason) == ("UNAUTHENTICATED", "CREDENTIALS")
    assert "application-default login" in problem.advice
    assert problem.transient is transient


@pytest.mark.parametrize(
    ("code", "transient"), [(404, False), (403, False), (502, True), (429, True)]
)
def test_a_page_of_a_proxy_is_not_google(code: int, transient: bool) -> None:
    problem = classify(httpx.Response(code, html="<html>proxy</html>"))
    assert problem.reason == "NOT_GOOGLE"
    assert problem.status != "NOT_FOUND"
    assert problem.transient is transient


def test_a_bug_is_not_a_google_problem() -> None:
    with pytest.raises(KeyError):
        classify(KeyError("x"))


def test_the_error_has_a_full_text_and_survives_pickling() -> None:
    """Call, resource, status, text, advice; Prefect persists exceptions by pickling them."""
    problem = classify(
        body(404, "NOT_FOUND", f"CryptoKey {KEY} not found."), call="GetCryptoKey", resource=KEY
    )
    error = GoogleApiError(problem)
    assert str(error).startswith(f"GetCryptoKey {KEY}: NOT_FOUND: CryptoKey {KEY} not found. Check")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert isinstance(again, GoogleApiError)
    assert again.problem == problem


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner),
    max_leaves=8,
)
details = st.lists(
    st.fixed_dictionaries(
        {
            "@type": st.sampled_from(
                [
                    f"type.googleapis.com/google.rpc.{kind}"
                    for kind in ("ErrorInfo", "PreconditionFailure", "RetryInfo", "Other")
                ]
            )
        },
        optional={
            "reason": json_values,
            "metadata": json_values,
            "violations": json_values,
            "retryDelay": json_values,
        },
    )
    | json_values,
    max_size=3,
)


@given(
    code=st.integers(300, 599),
    content=st.binary(max_size=40)
    | json_values.map(lambda value: httpx.Response(200, json=value).content)
    | details.map(lambda d: httpx.Response(200, json={"error": {"details": d}}).content),
)
def test_any_answer_is_classified(code: int, content: bytes) -> None:
    """No body can break the classification, and every problem has a text."""
    problem = classify(httpx.Response(code, content=content))
    assert isinstance(problem, GoogleProblem)
    assert str(GoogleApiError(problem))
    assert GoogleProblem.model_validate_json(problem.model_dump_json()) == problem


def body(code: int, status: str, message: str) -> httpx.Response:
    return httpx.Response(
        code, json={"error": {"code": code, "status": status, "message": message}}
    )


@pytest.mark.parametrize(
    "error",
    [
        {"details": [{"@type": "x/google.rpc.PreconditionFailure", "violations": [
            {"type": "VPC_SERVICE_CONTROLS", "subject": "s", "description": "d"}]}]},
        {"message": "Request is prohibited. vpcServiceControlsUniqueIdentifier: abc"},
        {"details": [{"@type": "x/google.rpc.ErrorInfo", "reason": "SECURITY_POLICY_VIOLATED"}]},
    ],
)  # fmt: skip
def test_a_refusal_by_a_perimeter_has_one_reason_in_every_form(error: dict[str, Any]) -> None:
    """What comes without details would else be called a missing right."""
    problem = classify(httpx.Response(403, json={"error": {"status": "PERMISSION_DENIED"} | error}))
    assert problem.reason == "SECURITY_POLICY_VIOLATED"
    assert "perimeter" in problem.advice.lower() or "VPC Service Controls" in problem.advice
