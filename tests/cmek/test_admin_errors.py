"""From answers to typed errors: every documented status and code, and any other answer."""

from __future__ import annotations

import pickle
import traceback

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmek.anthropic import errors as admin_errors
from cmek.anthropic.errors import (
    AdminApiError,
    AdminResponseError,
    AdminStatusError,
    error_from_response,
    retry_after,
)
from tests.support.clients import Rig

CANARY = "sk-ant-admin01-FAKE-CANARY"
REQUEST = httpx.Request(
    "POST",
    "https://api.anthropic.com/v1/organizations/workspaces/wrkspc_01?x=y",
    headers={"x-api-key": CANARY},
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner),
    max_leaves=8,
)


def answer(status: int, body: object, **headers: str) -> AdminApiError:
    response = httpx.Response(
        status, json=body, headers={"request-id": "req_1"} | headers, request=REQUEST
    )
    return error_from_response(response, effect=True)


def documented(status: int, code: str | None = None) -> AdminApiError:
    details = {"details": {"error_code": code}} if code else {}
    error = {"type": "some_error", "message": "some text", **details}
    return answer(status, {"type": "error", "error": error, "request_id": "req_1"})


@pytest.mark.parametrize(
    ("status", "code", "name"),
    [
        (400, None, "BadRequestError"),
        (401, None, "AuthenticationError"),
        (402, None, "BillingError"),
        (403, None, "PermissionDeniedError"),
        (404, None, "NotFoundError"),
        (409, None, "ConflictError"),
        (413, None, "AdminStatusError"),
        (429, None, "RateLimitError"),
        (500, None, "InternalServerError"),
        (503, None, "InternalServerError"),
        (504, None, "InternalServerError"),
        (529, None, "InternalServerError"),
        (400, "external_key_validation_failed", "ExternalKeyValidationFailedError"),
        (400, "external_key_validation_timed_out", "ExternalKeyValidationTimeoutError"),
        (409, "external_key_changed", "ExternalKeyChangedError"),
        (400, "workspace_policy_violation", "WorkspacePolicyViolationError"),
        (400, "key_profile_mismatch", "KeyProfileMismatchError"),
        (400, "external_key_in_workspace_policy", "BadRequestError"),
        (403, "sandbox_egress_restricted", "PermissionDeniedError"),
        (400, "a_code_of_next_year", "BadRequestError"),
    ],
)
def test_status_and_code_choose_the_class(status: int, code: str | None, name: str) -> None:
    """The documented pairs have their class; for an unknown code the status decides."""
    error = documented(status, code)
    assert type(error) is getattr(admin_errors, name)
    assert (error.status, error.error_code, error.request_id) == (status, code, "req_1")
    assert error.ambiguous is (status >= 500)


def test_the_text_names_the_call_the_error_and_the_remedy() -> None:
    """Method, address without query, status, code, the service's text, request id, advice."""
    text = str(documented(400, "workspace_policy_violation"))
    assert text.startswith(
        "POST https://api.anthropic.com/v1/organizations/workspaces/wrkspc_01: "
        "400 some_error workspace_policy_violation: some text (request-id req_1)."
    )
    assert "Workspace Policy" in text
    assert "x=y" not in text


@pytest.mark.parametrize("status", [400, 403, 404, 409, 500, 529])
def test_every_status_has_advice(status: int) -> None:
    assert len(documented(status).advice) > 20


def test_a_lenient_body_is_enough() -> None:
    error = answer(403, {"error": {"type": "permission_error", "message": "no"}})
    assert isinstance(error, admin_errors.PermissionDeniedError)


def test_errors_survive_pickling() -> None:
    """Prefect persists exceptions by pickling them."""
    error = documented(400, "external_key_validation_failed")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.failure == error.failure


@given(
    status=st.integers(300, 599),
    body=st.binary(max_size=40) | json_values.map(lambda v: httpx.Response(200, json=v).content),
)
def test_any_other_answer_is_a_typed_error_too(status: int, body: bytes) -> None:
    """For any answer the caller gets an AdminApiError with a text and without a secret."""
    response = httpx.Response(status, content=body, request=REQUEST)
    error = error_from_response(response, effect=True)
    assert isinstance(error, AdminStatusError | AdminResponseError)
    assert error.status == status
    assert CANARY not in f"{error} {error!r}"


@given(error=json_values, status=st.integers(400, 599))
def test_any_error_object_is_read_leniently(error: object, status: int) -> None:
    for body in ({"error": error}, {"error": {"message": error, "type": error, "details": error}}):
        assert str(answer(status, body))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "7", "retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(headers: dict[str, str], seconds: float | None) -> None:
    """Both documented forms are read; an invalid value is treated as absent."""
    assert retry_after(httpx.Headers(headers)) == seconds


@given(text=st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=40))
def test_retry_after_never_fails(text: str) -> None:
    found = retry_after(httpx.Headers({"retry-after": text}))
    assert found is None or found >= 0


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["error", "reset", "truncate", "html"])
async def test_no_error_holds_the_credential(rig: Rig, kind: str) -> None:
    """Neither traceback, repr, attributes nor pickle of the error holds the admin key."""
    rig.control.fault("*", kind=kind, times=9)
    async with rig.admin() as api:
        with pytest.raises(AdminApiError) as caught:
            await api.organization.me()
    error = caught.value
    everything = "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))
    assert rig.sandbox.admin_key not in everything
    assert rig.sandbox.admin_key.encode() not in pickle.dumps(error)
    assert error.__cause__ is None
    assert error.__context__ is None
