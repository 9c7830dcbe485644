"""Classify a failed Google call, over any transport, and say what a person can do about it.

`classify` gives one kind of result for gRPC exceptions, REST exceptions, JSON bodies and lost
connections. The exception classes of the client library differ between transports, and a REST
exception has the canonical status only in its body. So the result depends on status, details and
documented texts, never on the class.

Source: guide, troubleshooting; https://docs.cloud.google.com/kms/docs/org-policy-constraints,
https://docs.cloud.google.com/organization-policy/domain-restricted-sharing
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import httpx
import requests
from google.api_core import exceptions as core
from google.auth import exceptions as auth
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from pydantic import Field

from cmek.anthropic.errors import retry_after
from cmek.anthropic_identity import SERVICE_ACCOUNT
from cmek.errors import LOST, SET_CLOCK, CmekError, lost_connection
from cmek.gcp.gcloud import key_in, policy_of, revoke
from cmek.models import FrozenModel


class Violation(FrozenModel):
    """One violation of a precondition or quota failure: the rule, and what violates it."""

    type: str = ""
    subject: str = ""
    description: str = ""


class GoogleProblem(FrozenModel):
    """A failed Google call, classified."""

    status: str
    """Canonical name, such as `PERMISSION_DENIED`."""
    reason: str | None = None
    """Google's (`SERVICE_DISABLED`, `KEY_DISABLED`, `constraints/…`), or one of ours: those in
    `_TEXTS` and `_GRANTS`, those of `lost_connection`, `MISROUTED_LOCATION` and `NOT_GOOGLE`.
    """
    permission: str | None = None
    resource: str | None = None
    violations: tuple[Violation, ...] = ()
    metadata: dict[str, str] = Field(default_factory=dict)
    message: str = ""
    request_id: str | None = None
    retry_after: float | None = None
    """Seconds to wait, as requested by the server."""
    transient: bool = False
    """Whether the same call may succeed when it is soon sent again."""
    advice: str = ""
    """What a person can do."""
    call: str = ""
    """The name of the call, if it was given to `classify`."""

    @property
    def offenders(self) -> str:
        """The descriptions of all violations."""
        return "; ".join(one.description for one in self.violations if one.description)


class GoogleApiError(CmekError):
    """A Google call failed; `problem` says why. It holds no request and can be pickled."""

    def __init__(self, problem: GoogleProblem) -> None:
        super().__init__(problem)
        self.problem = problem

    @property
    def resource(self) -> str | None:
        """The full name of the Google resource, if the call is about one."""
        return self.problem.resource or None

    @property
    def advice(self) -> str:
        """What a person can do about it."""
        return self.problem.advice

    def _message(self) -> str:
        problem = self.problem
        what = " ".join(part for part in (problem.call, problem.resource) if part)
        reason = f" {problem.reason}" if problem.reason else ""
        offenders = problem.offenders
        parts = (
            f"{what}: " if what else "",
            f"{problem.status}{reason}: {problem.message}",
            f" [{offenders}]" if offenders and offenders not in problem.message else "",
            f" {problem.advice}" if problem.advice else "",
        )
        return "".join(parts)


_TRANSIENT: Final = {
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "INTERNAL",
    "UNKNOWN",
}
_DENIED: Final = re.compile(r"[Pp]ermission '([\w.]+)' denied (?:on|for) resource '?([^'\s]+)'?")
_NO_QUOTA_PROJECT: Final = re.compile("requires a quota project")
_MISROUTED: Final = re.compile(r"request concerns location '([^']*)'")
_NOT_FOUND: Final = re.compile(r"\b(projects/\S+?) (?:not found|does not exist|already exists)")
_CONSTRAINT: Final = re.compile(r"\b(?:customC|c)onstraints/[\w.]+")
_TEXTS: Final = (
    ("CONCURRENT_POLICY_CHANGE", re.compile("concurrent policy changes")),
    (
        "POLICY_TOO_LARGE",
        re.compile(
            r"number of members in the policy \((?P<members>[\d,]+)\) .*?(?P<limit>[\d,]+)\.?$"
        ),
    ),
    (
        "DELETED_MEMBER",
        re.compile(r"(?i)representation of deleted member: '(?P<member>[^']+)'"),
    ),
    (
        "DELETED_MEMBER",
        re.compile(
            r"(?:[Ss]ervice account|User|Group|Principal) (?P<member>\S+@\S+) does not exist"
        ),
    ),
    ("DOMAIN_RESTRICTED", re.compile("permitted customer|permitted organization")),
    ("BILLING_DISABLED", re.compile("[Bb]illing is disabled|requires billing to be enabled")),
    ("SECURITY_POLICY_VIOLATED", re.compile("vpcServiceControlsUniqueIdentifier")),
)
"""Refusals without details, recognized by their text: our reason for each, and facts as groups."""
_GRANTS: Final = (
    (
        "CLOCK",
        re.compile("reasonable timeframe|Check your iat and exp|Token used too (?:early|late)"),
    ),
    ("KEY_OF_ACCOUNT", re.compile("Invalid JWT Signature|Invalid signature for token")),
    (
        "ACCOUNT_GONE",
        re.compile("account not found|Account has been (?:deleted|disabled)|disabled_client"),
    ),
    ("LOGIN_OVER", re.compile("invalid_rapt|expired or revoked|[Rr]eauth")),
    ("POOL_REFUSES", re.compile("rejected by the attribute condition")),
)
"""The same for refused token requests (`invalid_grant`)."""
_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)s")


def classify(
    failure: Exception | httpx.Response, *, call: str = "", resource: str | None = None
) -> GoogleProblem:
    """Find out what failed, for which resource, and what a person can do.

    Args:
        failure: A `google.api_core` exception of either transport, a `google.auth` exception, a
            lost connection (requests, httpx), or an httpx response other than 2xx.
        call: The name of the call, for the message.
        resource: What the call was about, in case the response does not say.

    Raises:
        Exception: `failure` itself, when it is none of these.
    """
    body = _body(failure)
    info = next(_details(body, "ErrorInfo"), {})
    metadata = info.get("metadata")
    metadata = {str(k): str(v) for k, v in metadata.items()} if isinstance(metadata, dict) else {}
    denied = _DENIED.search(body.message)
    violations = tuple(_violations(body))
    reason = _reason(body, info, violations, denied is not None)
    metadata |= _facts(body, reason)
    problem = GoogleProblem(
        status=body.status,
        reason=reason,
        permission=denied[1] if denied else metadata.get("permission"),
        resource=_resource(body, denied, metadata, violations) or resource,
        violations=violations,
        metadata=metadata,
        message=body.message,
        request_id=next((_text(d, "requestId") for d in _details(body, "RequestInfo")), None),
        retry_after=_retry_after(body),
        transient=_is_transient(body, reason),
        call=call,
    )
    return problem.model_copy(update={"advice": _advice(problem)})


def _reason(
    body: _ErrorBody, info: dict[str, Any], violations: tuple[Violation, ...], denied: bool
) -> str | None:
    # a mistyped location is a NOT_FOUND too: only its text differs from that of a missing resource
    if _MISROUTED.search(body.message):
        return "MISROUTED_LOCATION"
    # before the details: they say that an API is disabled, but in Google's own project for gcloud
    if _NO_QUOTA_PROJECT.search(body.message):
        return "NO_QUOTA_PROJECT"
    if given := body.reason or _text(info, "reason"):
        return given
    if kinds := [violation.type for violation in violations if violation.type]:
        return "SECURITY_POLICY_VIOLATED" if kinds[0] == "VPC_SERVICE_CONTROLS" else kinds[0]
    # over gRPC a constraint or a concurrent change may be named in the text only
    if named := _CONSTRAINT.search(body.message):
        return named[0]
    by_text = next((reason for reason, text in _TEXTS if text.search(body.message)), None)
    return by_text or ("IAM_PERMISSION_DENIED" if denied else None)


def _facts(body: _ErrorBody, reason: str | None) -> dict[str, str]:
    """Facts in the text, besides the reason: a member, numbers."""
    found = (text.search(body.message) for name, text in _TEXTS if name == reason)
    return {name: fact for match in found if match for name, fact in match.groupdict().items()}


def _resource(
    body: _ErrorBody,
    denied: re.Match[str] | None,
    metadata: dict[str, str],
    violations: tuple[Violation, ...],
) -> str | None:
    if denied:
        return denied[2]
    if named := metadata.get("resource") or metadata.get("consumer"):
        return named
    if subjects := [violation.subject for violation in violations if violation.subject]:
        return subjects[0]
    if location := _MISROUTED.search(body.message):
        return f"locations/{location[1]}"
    missing = _NOT_FOUND.search(body.message)
    return missing[1] if missing else None


def _is_transient(body: _ErrorBody, reason: str | None) -> bool:
    if body.transient is not None:
        return body.transient
    return body.status in _TRANSIENT or reason == "KEY_PENDING_GENERATION"


def _violations(body: _ErrorBody) -> Iterator[Violation]:
    for kind in ("PreconditionFailure", "QuotaFailure"):
        for detail in _details(body, kind):
            lines = detail.get("violations")
            for line in lines if isinstance(lines, list) else []:
                if isinstance(line, dict):
                    yield Violation(**{n: _text(line, n) or "" for n in Violation.model_fields})


def _retry_after(body: _ErrorBody) -> float | None:
    if body.retry_after is not None:
        return body.retry_after
    for detail in _details(body, "RetryInfo"):
        if match := _DURATION.fullmatch(_text(detail, "retryDelay") or ""):
            return float(match[1])
    return None


def _details(body: _ErrorBody, kind: str) -> Iterator[dict[str, Any]]:
    wanted = f"google.rpc.{kind}"
    return (d for d in body.details if str(d.get("@type", "")).endswith(wanted))


def _text(detail: dict[str, Any], name: str) -> str | None:
    value = detail.get(name)
    return value if isinstance(value, str) else None


_STATUS_OF_HTTP: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


@dataclass(frozen=True, slots=True)
class _ErrorBody:
    """Status, text and details of a failure, before they are interpreted."""

    status: str
    message: str
    details: list[dict[str, Any]] = field(default_factory=list)
    reason: str | None = None
    """Our reason, when Google did not respond."""
    retry_after: float | None = None
    transient: bool | None = None
    """None: decided by the status."""


def _body(failure: Exception | httpx.Response) -> _ErrorBody:
    """Read any kind of failure that a Google client raises.

    Raises:
        Exception: `failure` itself, when it is no such failure: a bug is not a Google problem.
    """
    if isinstance(failure, httpx.Response):
        return _http_body(failure.status_code, _json(failure), retry_after(failure.headers))
    if isinstance(failure, core.RetryError) and isinstance(failure.cause, Exception):
        return _body(failure.cause)
    if isinstance(failure, core.GoogleAPICallError):
        return _call_error(failure)
    if isinstance(failure, grpc.aio.AioRpcError):
        return _call_error(core.from_grpc_error(failure))  # type: ignore[no-untyped-call]
    if isinstance(failure, auth.GoogleAuthError):
        return _auth_error(failure)
    lost = httpx.TransportError | requests.RequestException | core.RetryError | TimeoutError
    if isinstance(failure, lost | ConnectionError):
        message = f"no answer ({type(failure).__name__}: {failure})"
        return _ErrorBody("UNAVAILABLE", message, reason=lost_connection(failure)[0])
    raise failure


def _call_error(error: core.GoogleAPICallError) -> _ErrorBody:
    code = error.grpc_status_code
    if code is None:
        response = error.response
        payload = _json(response) if hasattr(response, "json") else None
        wait = retry_after(httpx.Headers(response.headers)) if response is not None else None
        return _http_body(int(error.code) if error.code else 500, payload, wait)
    message = error.message or ""
    if message.startswith("Getting metadata from plugin failed"):
        # the transport reports every failure to get a token as UNAVAILABLE, also a refused one
        offline = "TransportError" in message or "Failed to establish" in message
        return _ErrorBody("UNAUTHENTICATED", message, reason=_grant(message), transient=offline)
    return _ErrorBody(code.name, message, [_detail(detail) for detail in error.details])


def _auth_error(error: auth.GoogleAuthError) -> _ErrorBody:
    offline = isinstance(error, auth.TransportError)
    # some errors have their cause as a second argument: `str` would show a tuple
    message = (
        f"no Google credentials ({type(error).__name__}: {error.args[0] if error.args else ''})"
    )
    transient = offline or bool(getattr(error, "retryable", False))
    # an OSError (those of requests are too) means that no token server was reached
    reached = not any(isinstance(one, OSError) for one in error.args)
    reason = _grant(message) if reached else lost_connection(error)[0]
    return _ErrorBody("UNAUTHENTICATED", message, reason=reason, transient=transient)


def _grant(message: str) -> str:
    """Why Google gave no token, as far as its text says."""
    return next((reason for reason, text in _GRANTS if text.search(message)), "CREDENTIALS")


def _http_body(code: int, payload: object, wait: float | None) -> _ErrorBody:
    """From a JSON error body; a 4xx without one comes from a proxy or another service."""
    # some responses wrap the error in a list
    payload = payload[0] if isinstance(payload, list) and payload else payload
    error = payload.get("error") if isinstance(payload, dict) else None
    status = _STATUS_OF_HTTP.get(code, "UNKNOWN")
    if not isinstance(error, dict):
        refused = code < 500 and code not in {408, 429}
        text = f"HTTP {code} without an error body of Google's"
        status = "UNKNOWN" if refused else status
        return _ErrorBody(status, text, [], "NOT_GOOGLE", wait, False if refused else None)
    details = error.get("details")
    return _ErrorBody(
        status=str(error.get("status") or status),
        message=str(error.get("message") or ""),
        details=[d for d in details if isinstance(d, dict)] if isinstance(details, list) else [],
        retry_after=wait,
    )


def _detail(detail: object) -> dict[str, Any]:
    if isinstance(detail, dict):
        return detail
    if not isinstance(detail, Message) or detail.DESCRIPTOR.full_name == "google.protobuf.Any":
        return {}
    name = detail.DESCRIPTOR.full_name
    return {"@type": f"type.googleapis.com/{name}", **MessageToDict(detail)}


def _json(response: Any) -> object:  # noqa: ANN401 - of httpx or of requests
    try:
        return response.json()
    except (ValueError, RecursionError):
        return None


_MEMBERS: Final = (
    "The organization policy {reason} refuses a member of the key's IAM policy: "
    "{offenders}. Google checks all members again, so it may be an older one. "
    "Allow Anthropic's service account in the policy (or take the older member out)."
)
_DOMAINS: Final = (
    "An organization policy refuses a member of the IAM policy by its domain. Google names neither "
    "policy nor member: it is iam.allowedPolicyMemberDomains, iam.managed.allowedPolicyMembers or "
    "a custom constraint, and the check `Domain restricted sharing` tells which. Allow "
    f"{SERVICE_ACCOUNT} in it. "
    "Google checks all members again, so it may be an older one (see {policy})."
)
_PERIMETER: Final = (
    "VPC Service Controls refused the call: a perimeter administrator finds it by its unique "
    "id {uid} in the audit log and adds an ingress rule for the caller (and one for "
    "Anthropic's service account, which calls from 160.79.104.0/21), or takes the project out of "
    "the perimeter. docs/guide.md has the commands of both."
)
_DENIED_ADVICE: Final = (
    "Give the caller a role with {permission} on {resource} "
    "(roles/cloudkms.admin covers the set-up), or check that the name is right: Google gives "
    "the same answer for a resource that does not exist. A new grant takes minutes to work."
)
_ACCOUNT_GONE: Final = (
    "The service account of these credentials was deleted or disabled: have it enabled, or put "
    "those of another one into the GcpCredentials of the GoogleKms block."
)
_BY_REASON: Final[dict[str, str]] = {
    "SERVICE_DISABLED": (
        "Enable the API (gcloud services enable {service} --project={project}), wait a few "
        "minutes and try again. The project named here may be the caller's quota project rather "
        "than the key's."
    ),
    "NO_QUOTA_PROJECT": (
        "This is a person's login, which has no project of its own: set the quota project in the "
        "GoogleKms block (or gcloud auth application-default set-quota-project PROJECT) to one in "
        "which the API is on."
    ),
    "USER_PROJECT_DENIED": (
        "The caller may not use the quota of project {project}: give it "
        "roles/serviceusage.serviceUsageConsumer there, or name another quota project in the "
        "GoogleKms block."
    ),
    "CONSUMER_INVALID": (
        "There is no project {project}, or it was deleted: check the project of the request and "
        "the quota project of the GoogleKms block."
    ),
    "CONSUMER_SUSPENDED": (
        "Google has suspended project {project}, and has told its owners why; Google Cloud's "
        "support ends that."
    ),
    "ACCESS_TOKEN_SCOPE_INSUFFICIENT": (
        "It is not IAM: the credentials' own scopes leave this out. Give the machine the scope "
        "cloud-platform (of a virtual machine: stop it, then gcloud compute instances "
        "set-service-account INSTANCE --zone=ZONE --scopes=cloud-platform --project=PROJECT), or "
        "log in again with it."
    ),
    "ORG_RESTRICTION_VIOLATION": (
        "A proxy of your company's lets calls reach some Google Cloud organizations only: its "
        "administrator allows the one of the key's project."
    ),
    "BILLING_DISABLED": (
        "Link an active billing account to project {project} (gcloud billing projects "
        "link {project} --billing-account=ACCOUNT), wait a few minutes and try again."
    ),
    "SECURITY_POLICY_VIOLATED": _PERIMETER,
    "constraints/iam.allowedPolicyMemberDomains": _MEMBERS,
    "constraints/iam.managed.allowedPolicyMembers": _MEMBERS,
    "DOMAIN_RESTRICTED": _DOMAINS,
    "POLICY_TOO_LARGE": (
        "An IAM policy holds {limit} members at most, and with this grant it would have {members}; "
        "a member counts once in each binding. Nothing was changed. Take out who needs it no more, "
        "or give a role to a group instead of its members (see {policy})."
    ),
    "DELETED_MEMBER": (
        "Google refuses the whole policy because {member} was deleted or does not exist; it is a "
        "member from before. Nothing was changed. Find its role ({policy}), take it out "
        "({revoke}), and try again."
    ),
    "KEY_DISABLED": "Enable it: gcloud kms keys versions enable {version} --project={project}.",
    "KEY_DESTROY_SCHEDULED": (
        "Restore it before its destroy time (gcloud kms keys versions restore {version} "
        "--project={project}), then enable it (gcloud kms keys versions enable {version} "
        "--project={project}); a restored version is disabled."
    ),
    "MISROUTED_LOCATION": (
        "Cloud KMS does not know {resource}: correct the location, for example us-east5 "
        "(see gcloud kms locations list --project={project})."
    ),
    "CONCURRENT_POLICY_CHANGE": (
        "Another caller changed the policy at the same time: read it again and repeat the change."
    ),
    **LOST,
    "CLOCK": (
        f"The clock of this machine is wrong: Google refuses tokens of another time. {SET_CLOCK}"
    ),
    "CREDENTIALS": (
        "Check the GcpCredentials of the GoogleKms block and the file that "
        "GOOGLE_APPLICATION_CREDENTIALS names, or log in again "
        "(gcloud auth application-default login)."
    ),
    "KEY_OF_ACCOUNT": (
        "The service-account key in the GcpCredentials of the GoogleKms block was deleted at "
        "Google, or is another account's: put in a current one."
    ),
    "ACCOUNT_GONE": _ACCOUNT_GONE,
    "ACCOUNT_STATE_INVALID": _ACCOUNT_GONE,
    "POOL_REFUSES": (
        "The workload identity pool refuses this workload by its attribute condition: compare that "
        "with the claims of the workload's token."
    ),
    "LOGIN_OVER": "The login has ended: log in again (gcloud auth application-default login).",
    "NOT_GOOGLE": "Something between here and Google answered: check proxies.",
}
_BY_PREFIX: Final = {
    "customConstraints/": (
        "The custom constraint {reason} of the organization forbids this: its administrator can "
        "tell what it demands, or make an exception."
    ),
    "constraints/": (
        "The organization policy {reason} on {resource} forbids this: choose a "
        "location or protection level that it allows, or ask its administrator for an exception."
    ),
    "KEY_PENDING": "The version is still being made: try again in a few seconds.",
    "KEY_": (
        "The version is gone for ever: make another one the primary; its data stays unreadable."
    ),
}
_NOT_KNOWN: Final = (
    "Google says no more than this, so the cause is not known here; sending it again unchanged "
    "will not help."
)
_BY_STATUS: Final = {
    "UNAUTHENTICATED": (
        "Google did not accept the credentials: check the GcpCredentials of the GoogleKms block "
        "and that its key was not deleted."
    ),
    "NOT_FOUND": "Check project, location and name; the resource may have been deleted.",
    "ALREADY_EXISTS": (
        "The name is taken, also where nothing of that name is found: Cloud KMS never frees the "
        "name of a deleted crypto key. Request another name."
    ),
    "RESOURCE_EXHAUSTED": (
        "A quota of Google's is used up: wait a minute, or raise it on the project's quota page."
    ),
    "ABORTED": "Another caller changed it at the same time: read it again and repeat the change.",
    "UNAVAILABLE": "Google is not reachable or overloaded: try again later.",
    "DEADLINE_EXCEEDED": "Google did not answer in time: try again later.",
    "INTERNAL": "Google's side failed: try again later.",
    "UNKNOWN": "Google's side failed: try again later.",
}


_RING_RACE: Final = (
    "Another caller made or deletes a ring of this name at the same time: try again in a moment. "
    "(A ring's name is free again once it is deleted.)"
)


def _advice(problem: GoogleProblem) -> str:
    """One or two sentences; the reason says more than the status, so it is tried first."""
    return _advice_template(problem).format(
        reason=problem.reason,
        resource=problem.resource,
        version=problem.resource or "VERSION --key=KEY --keyring=RING --location=LOCATION",
        permission=problem.permission,
        project=_project(problem),
        service=problem.metadata.get("service", "cloudkms.googleapis.com"),
        uid=problem.metadata.get("uid") or next((v.description for v in problem.violations), ""),
        offenders=problem.offenders or "one that Google does not name",
        **_policy(problem),
    )


def _project(problem: GoogleProblem) -> str:
    """The project for the commands: the one that Google names, else that of the resource."""
    named = problem.metadata.get("consumer") or problem.resource or ""
    parts = named.split("/")
    return parts[1] if parts[0] == "projects" and len(parts) > 1 else "PROJECT"


def _policy(problem: GoogleProblem) -> dict[str, str]:
    """For a refused IAM policy: facts from the text, and commands."""
    facts = {
        name: problem.metadata.get(name, name.upper()) for name in ("member", "members", "limit")
    }
    key = key_in(problem.resource or "")
    if key is None:
        shown = taken_out = "the policy of " + (problem.resource or "the resource")
    else:
        shown, taken_out = policy_of(key), revoke(str(key), facts["member"], "ROLE")
    return facts | {"policy": shown, "revoke": taken_out}


def _advice_template(problem: GoogleProblem) -> str:
    reason = problem.reason or ""
    # unlike a crypto key's, a ring's name is free again after it is deleted
    if problem.status == "ALREADY_EXISTS" and "/cryptoKeys/" not in (problem.resource or ""):
        return _RING_RACE
    if reason in _BY_REASON:
        return _BY_REASON[reason]
    by_prefix = next((text for start, text in _BY_PREFIX.items() if reason.startswith(start)), None)
    if by_prefix or (problem.status != "PERMISSION_DENIED" and reason != "IAM_PERMISSION_DENIED"):
        return by_prefix or _BY_STATUS.get(problem.status, _NOT_KNOWN)
    if problem.permission is None:
        return "Ask an administrator of the project for the missing right."
    return _DENIED_ADVICE
