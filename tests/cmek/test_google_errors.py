"""One classify for gRPC exceptions, REST exceptions and JSON bodies."""

from __future__ import annotations

import pickle
from collections.abc import Callable
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
OPTIONS: dict[str, Any] = {"retry": None, "timeout": 5}

each_transport = pytest.mark.parametrize("raised", [by_grpc, by_rest, by_http])
Raised = Callable[[Rig, Call], Exception | httpx.Response]


def get_ring(client: Client) -> object:
    return client.get_key_ring(name=RING, **OPTIONS)


def get_missing(client: Client) -> object:
    return client.get_crypto_key(name=f"{KEY}-missing", **OPTIONS)


def get_elsewhere(client: Client) -> object:
    return client.get_key_ring(name=RING.replace("us-east5", "us-east55"), **OPTIONS)


def create_ring(client: Client) -> object:
    parent = f"{PROJECT}/locations/us-east5"
    return client.create_key_ring(parent=parent, key_ring_id="classified", **OPTIONS)


def create_key(client: Client, key_id: str = "key") -> object:
    template = kms_v1.CryptoKeyVersionTemplate(protection_level="SOFTWARE")
    key = kms_v1.CryptoKey(purpose="ENCRYPT_DECRYPT", version_template=template)
    return client.create_crypto_key(parent=RING, crypto_key_id=key_id, crypto_key=key, **OPTIONS)


def create_another_key(client: Client) -> object:
    return create_key(client, "another")


def encrypt(client: Client) -> object:
    return client.encrypt(name=KEY, plaintext=b"x", **OPTIONS)


def grant(client: Client, etag: bytes = b"") -> object:
    bindings = [policy_pb2.Binding(role=role, members=[MEMBER]) for role in ROLES]
    policy = policy_pb2.Policy(version=3, bindings=bindings, etag=etag)
    request = iam_policy_pb2.SetIamPolicyRequest(resource=KEY, policy=policy)
    return client.set_iam_policy(request, **OPTIONS)


def grant_late(client: Client) -> object:
    return grant(client, b"stale")


@pytest.fixture
def state(rig: Rig) -> Rig:
    if RING not in rig.sandbox.world.kms.key_rings:
        client = grpc_client(rig)
        create_ring(client)
        create_key(client)
        client.transport.close()
    return rig


@each_transport
def test_a_disabled_api_is_named_with_the_command_that_enables_it(
    state: Rig, raised: Raised
) -> None:
    """Reason, project and what to do, the same on every transport."""
    state.control.switches(kms_api_enabled=False)
    problem = classify(raised(state, get_ring))
    assert (problem.status, problem.reason) == ("PERMISSION_DENIED", "SERVICE_DISABLED")
    assert problem.resource == "projects/123456789012"
    assert "services enable cloudkms.googleapis.com --project=123456789012" in problem.advice
    assert not problem.transient


@each_transport
def test_missing_billing_is_named(state: Rig, raised: Raised) -> None:
    state.control.switches(billing_enabled=False)
    problem = classify(raised(state, get_ring))
    assert problem.reason == "BILLING_DISABLED"
    assert "billing projects link 123456789012" in problem.advice


@each_transport
def test_a_missing_permission_is_named_with_its_resource(state: Rig, raised: Raised) -> None:
    """Read from the text, which is all that is certain."""
    world = state.sandbox.world
    world.identities.administrator.deny("cloudkms.keyRings.get")
    try:
        problem = classify(raised(state, get_ring))
    finally:
        world.identities.administrator.denied.clear()
    assert (problem.status, problem.reason) == ("PERMISSION_DENIED", "IAM_PERMISSION_DENIED")
    assert (problem.permission, problem.resource) == ("cloudkms.keyRings.get", RING)
    assert "cloudkms.keyRings.get" in problem.advice
    assert RING in problem.advice


def test_a_permission_is_read_from_the_text_alone() -> None:
    """ErrorInfo on plain IAM denials is likely and not certain."""
    text = f"Permission 'cloudkms.cryptoKeys.get' denied on resource '{KEY}' (or it may not exist)."
    problem = classify(body(403, "PERMISSION_DENIED", text))
    assert (problem.reason, problem.permission) == (
        "IAM_PERMISSION_DENIED",
        "cloudkms.cryptoKeys.get",
    )
    assert problem.resource == KEY


@each_transport
def test_domain_restricted_sharing_names_the_offender(state: Rig, raised: Raised) -> None:
    """All members of the policy are checked again, so the offender may be an older one."""
    state.control.constraints(allowed_policy_member_domains=["C0sandbox"])
    problem = classify(raised(state, grant))
    assert problem.status == "FAILED_PRECONDITION"
    assert problem.reason == "constraints/iam.allowedPolicyMemberDomains"
    assert SERVICE_ACCOUNT in problem.advice
    assert SERVICE_ACCOUNT in problem.violations[0].description


@each_transport
@pytest.mark.parametrize(
    ("constraint", "name"),
    [
        ({"resource_locations": ["europe-west1"]}, "constraints/gcp.resourceLocations"),
        ({"allowed_protection_levels": ["HSM"]}, "constraints/cloudkms.allowedProtectionLevels"),
    ],
    ids=["locations", "levels"],
)
def test_an_organization_policy_is_named(
    state: Rig, raised: Raised, constraint: dict[str, Any], name: str
) -> None:
    state.control.constraints(**constraint)
    problem = classify(raised(state, create_another_key))
    assert (problem.status, problem.reason) == ("FAILED_PRECONDITION", name)
    assert name in problem.advice
    assert "projects/123456789012" in problem.advice


@each_transport
def test_a_perimeter_is_named_with_its_unique_id(state: Rig, raised: Raised) -> None:
    """The id is what its administrator searches for."""
    state.control.constraints(perimeter_blocks="everybody")
    problem = classify(raised(state, get_ring))
    assert problem.reason == "SECURITY_POLICY_VIOLATED"
    uid = problem.metadata["uid"]
    assert uid
    assert uid in problem.advice


@each_transport
@pytest.mark.parametrize(
    ("version_state", "command"),
    [
        ("DISABLED", "versions enable"),
        ("DESTROY_SCHEDULED", "versions restore"),
        ("DESTROYED", "gone for ever"),
        ("PENDING_GENERATION", "a few seconds"),
    ],
)
def test_an_unusable_version_is_named_with_its_way_back(
    state: Rig, raised: Raised, version_state: str, command: str
) -> None:
    violation = {"type": f"KEY_{version_state}", "subject": VERSION, "description": ""}
    detail = {
        "@type": "type.googleapis.com/google.rpc.PreconditionFailure",
        "violations": [violation],
    }
    text = f"{VERSION} is not enabled, current state is: {version_state}."
    state.control.fault("Encrypt", status="FAILED_PRECONDITION", message=text, details=[detail])
    problem = classify(raised(state, encrypt))
    assert (problem.status, problem.reason) == ("FAILED_PRECONDITION", f"KEY_{version_state}")
    assert problem.resource == VERSION
    assert command in problem.advice
    assert problem.transient is (version_state == "PENDING_GENERATION")


@each_transport
def test_a_lost_race_is_told_apart_from_an_existing_name(state: Rig, raised: Raised) -> None:
    """REST raises one and the same class for both."""
    late = classify(raised(state, grant_late))
    assert (late.status, late.reason) == ("ABORTED", "CONCURRENT_POLICY_CHANGE")
    taken = classify(raised(state, create_ring))
    assert (taken.status, taken.reason) == ("ALREADY_EXISTS", None)
    assert not late.transient
    assert not taken.transient


@each_transport
def test_a_missing_resource_is_told_apart_from_a_mistyped_location(
    state: Rig, raised: Raised
) -> None:
    missing = classify(raised(state, get_missing))
    assert (missing.status, missing.reason) == ("NOT_FOUND", None)
    elsewhere = classify(raised(state, get_elsewhere))
    assert (elsewhere.status, elsewhere.reason) == ("NOT_FOUND", "MISROUTED_LOCATION")
    assert "us-east55" in elsewhere.advice


@each_transport
def test_a_quota_says_how_long_to_wait(state: Rig, raised: Raised) -> None:
    """RetryInfo in the details becomes seconds."""
    details = [
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7.500s"},
        {
            "@type": "type.googleapis.com/google.rpc.QuotaFailure",
            "violations": [{"subject": "project:1", "description": "read_usage is used up"}],
        },
    ]
    state.control.fault("GetKeyRing", status="RESOURCE_EXHAUSTED", details=details)
    problem = classify(raised(state, get_ring))
    assert (problem.status, problem.retry_after, problem.transient) == (
        "RESOURCE_EXHAUSTED",
        7.5,
        True,
    )
    assert "quota" in problem.advice
    assert problem.violations[0].description == "read_usage is used up"


@each_transport
@pytest.mark.parametrize("status", ["UNAVAILABLE", "INTERNAL", "DEADLINE_EXCEEDED"])
def test_what_may_pass_is_transient(state: Rig, raised: Raised, status: str) -> None:
    state.control.fault("GetKeyRing", status=status)
    problem = classify(raised(state, get_ring))
    assert (problem.status, problem.transient) == (status, True)


@pytest.mark.parametrize(
    "lost",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        requests.exceptions.ConnectionError("refused"),
        core.RetryError("late", cause=requests.exceptions.ConnectionError("refused")),
        TimeoutError(),
        ConnectionResetError(),
    ],
    ids=lambda lost: type(lost).__name__,
)
def test_a_lost_connection_is_transient_whoever_lost_it(lost: Exception) -> None:
    problem = classify(lost)
    assert (problem.status, problem.reason, problem.transient) == (
        "UNAVAILABLE",
        "CONNECTION",
        True,
    )


@pytest.mark.parametrize(
    ("failure", "transient"),
    [
        (auth.DefaultCredentialsError("none"), False),
        (auth.RefreshError("revoked"), False),
        (auth.RefreshError("busy", retryable=True), True),
        (auth.TransportError("unreachable"), True),
    ],
    ids=["default", "refresh", "busy", "transport"],
)
def test_missing_credentials_say_how_to_log_in(failure: Exception, transient: bool) -> None:
    """And are worth a repeat only when the token endpoint was not reached."""
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


def test_the_error_reads_well_and_survives_pickling() -> None:
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
    """No body can break the reading, and every text is printable."""
    problem = classify(httpx.Response(code, content=content))
    assert isinstance(problem, GoogleProblem)
    assert str(GoogleApiError(problem))
    assert GoogleProblem.model_validate_json(problem.model_dump_json()) == problem


def body(code: int, status: str, message: str) -> httpx.Response:
    return httpx.Response(
        code, json={"error": {"code": code, "status": status, "message": message}}
    )
