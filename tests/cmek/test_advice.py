"""Each known failure gets its own advice and no other's, chosen by typed facts.

The payloads are as public threads and documentation show them, with other names in them.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import requests
from google.auth import exceptions as auth

from cmek.anthropic.errors import AdminApiError, error_from_exception, error_from_response
from cmek.errors import lost_connection
from cmek.gcp.errors import classify
from tests.support.gcloud import commands_in, needs_gcloud, refused

KEY = "projects/acme-kms-prod/locations/us-east5/keyRings/anthropic-cmek/cryptoKeys/payments"
VERSION = f"{KEY}/cryptoKeyVersions/1"
GONE = "deleted:serviceAccount:old@acme-kms-prod.iam.gserviceaccount.com?uid=104998493554765980505"
API = "https://api.anthropic.com/v1/organizations"


def google(status: str, message: str, *details: dict[str, Any], code: int = 400) -> str:
    """The advice for an error body from Google, with the key as the resource."""
    error = {"code": code, "status": status, "message": message, "details": list(details)}
    return classify(httpx.Response(code, json={"error": error}), resource=KEY).advice


def violation(kind: str, text: str, subject: str = KEY) -> dict[str, Any]:
    line = {"type": kind, "subject": subject, "description": text}
    return {"@type": "type.googleapis.com/google.rpc.PreconditionFailure", "violations": [line]}


def info(reason: str, **metadata: str) -> dict[str, Any]:
    kind = "type.googleapis.com/google.rpc.ErrorInfo"
    return {"@type": kind, "reason": reason, "domain": "googleapis.com", "metadata": metadata}


def denied(message: str, reason: str, **metadata: str) -> str:
    """The advice for a refused permission with this reason."""
    return google("PERMISSION_DENIED", message, info(reason, **metadata), code=403)


def token(text: str, error: str = "invalid_grant") -> str:
    """The advice if google-auth gets no token."""
    body = {"error": error, "error_description": text}
    return classify(auth.RefreshError(f"{error}: {text}", body)).advice  # type: ignore[no-untyped-call]


def anthropic(status: int, path: str, code: str | None = None) -> str:
    """The advice for an error body of the Admin API."""
    details = {"details": {"error_code": code}} if code else {}
    error = {"type": "some_error", "message": "some text", **details}
    request = httpx.Request("GET", f"{API}{path}")
    response = httpx.Response(status, json={"type": "error", "error": error}, request=request)
    return error_from_response(response, effect=False).advice


def certificate(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code = code
    return error


def nested(cause: BaseException) -> httpx.ConnectError:
    """As httpx raises it: its own error above httpcore's above the cause."""
    middle = OSError("All connection attempts failed")
    middle.__cause__ = cause
    error = httpx.ConnectError("failed")
    error.__context__ = middle
    return error


def lost(cause: BaseException) -> str:
    """The advice for a failed connection, which is the same for Anthropic and Google."""
    request = httpx.Request("GET", f"{API}/me")
    ours = error_from_exception(nested(cause), request, effect=False).advice
    assert classify(nested(cause)).advice == ours
    assert classify(requests.ConnectionError(cause)).advice == ours
    assert classify(auth.TransportError(requests.ConnectionError(cause))).advice == ours  # type: ignore[no-untyped-call]
    return ours


@dataclass(frozen=True)
class Row:
    """One payload, and words that are only in its advice."""

    advice: Callable[[], str]
    words: str
    cause: str = ""
    """Set for rows that share a cause, and so an advice."""


SKEW = (
    "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. "
    "Check your iat and exp values in the JWT claim."
)
DOMAINS = "constraints/iam.allowedPolicyMemberDomains"
ROWS = {
    "clock: the token's times": Row(lambda: token(SKEW), "refuses tokens of another time"),
    "clock: google-auth's own check": Row(
        lambda: token("Token used too early, 1700000000 < 1700000300.", "invalid"),
        "refuses tokens of another time",
        "clock: the token's times",
    ),
    "clock: a certificate of the future": Row(lambda: lost(certificate(9)), "certificate's time"),
    "clock: a certificate of the past": Row(
        lambda: lost(certificate(10)), "certificate's time", "clock: a certificate of the future"
    ),
    "TLS inspection": Row(lambda: lost(certificate(20)), "SSL_CERT_FILE"),
    "TLS inspection, self-signed": Row(
        lambda: lost(certificate(19)), "SSL_CERT_FILE", "TLS inspection"
    ),
    "another host's certificate": Row(lambda: lost(certificate(62)), "is another host's"),
    "unknown host": Row(lambda: lost(socket.gaierror(-2, "Name not known")), "name is not known"),
    "nothing listens": Row(lambda: lost(ConnectionRefusedError(111, "refused")), "Nothing listens"),
    "lost for no known reason": Row(lambda: lost(ConnectionResetError()), "Check the address, the"),
    "service-account key deleted": Row(
        lambda: token("Invalid JWT Signature."), "was deleted at Google, or is another account's"
    ),
    "service account deleted": Row(
        lambda: token("Invalid grant: account not found"), "was deleted or disabled: have it"
    ),
    "login over": Row(lambda: token("Token has been expired or revoked."), "login has ended"),
    "reauthentication": Row(
        lambda: token("reauth related error (invalid_rapt)"), "login has ended", "login over"
    ),
    "no token for no known reason": Row(lambda: token("Bad Request"), "Check the GcpCredentials"),
    "member domains, with details": Row(
        lambda: google(
            "FAILED_PRECONDITION",
            "One or more users named in the policy do not belong to a permitted customer.",
            violation(DOMAINS, "User old@example.com is not in permitted organization."),
        ),
        "refuses a member of the key's IAM policy: User old@example.com",
    ),
    "member domains, without details": Row(
        lambda: google(
            "FAILED_PRECONDITION",
            "One or more users named in the policy do not belong to a permitted customer, perhaps "
            "due to an organization policy.",
        ),
        "refuses a member of the IAM policy by its domain. Google names neither",
    ),
    "member domains, old code": Row(
        lambda: google("INVALID_ARGUMENT", "User x@example.com is not in permitted organization."),
        "refuses a member of the IAM policy by its domain. Google names neither",
        "member domains, without details",
    ),
    "managed constraint in the text": Row(
        lambda: google(
            "PERMISSION_DENIED",
            "Operation denied by org policy on resource 'projects/1': "
            '["constraints/iam.managed.allowedPolicyMembers": "not allowed"].',
            code=403,
        ),
        "constraints/iam.managed.allowedPolicyMembers refuses a member",
    ),
    "custom constraint": Row(
        lambda: google(
            "FAILED_PRECONDITION",
            "Operation denied by custom org policy on resource 'x': "
            '["customConstraints/custom.noOutsiders": "ask security"].',
        ),
        "customConstraints/custom.noOutsiders of the organization forbids",
    ),
    "a person's login without a quota project": Row(
        lambda: denied(
            "Your application is authenticating by using local Application Default Credentials. "
            "The cloudkms.googleapis.com API requires a quota project, which is not set by default",
            "SERVICE_DISABLED",
            consumer="projects/764086051850",
        ),
        "a person's login, which has no project of its own",
    ),
    "API off": Row(
        lambda: denied(
            "Cloud Key Management Service (KMS) API has not been used in project 123 before",
            "SERVICE_DISABLED",
            consumer="projects/123",
            service="cloudkms.googleapis.com",
        ),
        "gcloud services enable cloudkms.googleapis.com --project=123",
    ),
    "quota project of others": Row(
        lambda: denied(
            "Caller does not have required permission to use project acme-kms-prod.",
            "USER_PROJECT_DENIED",
            consumer="projects/acme-kms-prod",
        ),
        "may not use the quota of project acme-kms-prod",
    ),
    "no such project": Row(
        lambda: denied(
            "Permission denied on resource project acme-kms-pord.",
            "CONSUMER_INVALID",
            consumer="projects/acme-kms-pord",
        ),
        "There is no project acme-kms-pord",
    ),
    "project suspended": Row(
        lambda: denied(
            "Permission denied: Consumer 'project:acme-kms-prod' has been suspended.",
            "CONSUMER_SUSPENDED",
            consumer="projects/acme-kms-prod",
        ),
        "has suspended project acme-kms-prod",
    ),
    "scopes": Row(
        lambda: denied(
            "Request had insufficient authentication scopes.",
            "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
            service="cloudkms.googleapis.com",
        ),
        "It is not IAM: the credentials' own scopes",
    ),
    "company's proxy": Row(
        lambda: denied("Access denied by organization restriction.", "ORG_RESTRICTION_VIOLATION"),
        "A proxy of your company's",
    ),
    "billing, in the text": Row(
        lambda: google("FAILED_PRECONDITION", "Billing is disabled for project 123."),
        "Link an active billing account",
    ),
    "account disabled": Row(
        lambda: google(
            "UNAUTHENTICATED",
            "Request had invalid authentication credentials.",
            info("ACCOUNT_STATE_INVALID", email="old@acme-kms-prod.iam.gserviceaccount.com"),
            code=401,
        ),
        "was deleted or disabled: have it enabled",
        "service account deleted",
    ),
    "pool refuses": Row(
        lambda: token(
            "The given credential is rejected by the attribute condition.", "unauthorized_client"
        ),
        "by its attribute condition",
    ),
    "precondition for no known reason": Row(
        lambda: google("FAILED_PRECONDITION", "Precondition check failed."),
        "Google says no more than this",
        "refused for no known reason",
    ),
    "policy too large": Row(
        lambda: google(
            "INVALID_ARGUMENT",
            "The number of members in the policy (1,501) is larger than the maximum allowed size "
            "1,500.",
        ),
        "holds 1,500 members at most, and with this grant it would have 1,501",
    ),
    "deleted member, both forms": Row(
        lambda: google(
            "INVALID_ARGUMENT",
            f"Inconsistent representation of deleted member: '{GONE}' and 'serviceAccount:old@x'",
        ),
        f"because {GONE} was deleted",
    ),
    "deleted member, unknown": Row(
        lambda: google("INVALID_ARGUMENT", "Service account old@acme.example does not exist."),
        "because old@acme.example was deleted",
    ),
    "refused for no known reason": Row(
        lambda: google("INVALID_ARGUMENT", "Request contains an invalid argument."),
        "Google says no more than this",
    ),
    "version disabled": Row(
        lambda: google(
            "FAILED_PRECONDITION", "not enabled", violation("KEY_DISABLED", "", VERSION)
        ),
        f"Enable it: gcloud kms keys versions enable {VERSION} --project=acme-kms-prod",
    ),
    "version scheduled": Row(
        lambda: google(
            "FAILED_PRECONDITION", "no", violation("KEY_DESTROY_SCHEDULED", "", VERSION)
        ),
        f"gcloud kms keys versions restore {VERSION} --project=acme-kms-prod",
    ),
    "name taken": Row(
        lambda: google("ALREADY_EXISTS", "taken", code=409), "name of a deleted crypto key"
    ),
    "keys not enabled": Row(lambda: anthropic(403, "/external_keys"), "has not enabled"),
    "no right": Row(lambda: anthropic(403, "/me"), "of this organization"),
    "no such id": Row(lambda: anthropic(404, "/workspaces/wrkspc_01Some"), "Check the id"),
    "no such API": Row(lambda: anthropic(404, "/me"), "This part of the Admin API is not there"),
    "bad credential": Row(lambda: anthropic(401, "/me"), "malformed, revoked or expired"),
    "refused by Anthropic": Row(lambda: anthropic(400, "/workspaces"), "Anthropic says no more"),
    "key unusable": Row(
        lambda: anthropic(400, "/workspaces", "external_key_validation_failed"),
        "could not use the Cloud KMS key",
    ),
    "workspace policy": Row(
        lambda: anthropic(400, "/workspaces", "workspace_policy_violation"), "can change the policy"
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_failure_has_its_one_right_advice(name: str) -> None:
    """It has the words of its own cause, and those of no other row."""
    row = ROWS[name]
    advice = row.advice()
    assert row.words in advice, advice
    ours = row.cause or name
    others = {other: ROWS[other] for other in ROWS if (ROWS[other].cause or other) != ours}
    assert [other for other, each in others.items() if each.words in advice] == [], advice
    assert not re.search(r"\b(?:None|not named)\b|[{}]", advice), advice
    assert len(advice) < 900


@needs_gcloud
def test_every_command_of_an_advice_is_valid_for_gcloud() -> None:
    advices = [row.advice() for row in ROWS.values()]
    commands = [command for advice in advices for command in commands_in(advice)]
    assert len(commands) >= 8
    assert refused(commands) == []


def test_an_error_that_knows_more_says_it_once() -> None:
    """The extra advice is once in its text, which a run's state shows."""
    request = httpx.Request("GET", f"{API}/me")
    error = error_from_exception(nested(certificate(9)), request, effect=False)
    assert isinstance(error, AdminApiError)
    assert str(error).count("certificate's time") == 1
    assert lost_connection(ValueError())[0] == "CONNECTION"
