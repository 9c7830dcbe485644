"""What a person can do about a Google problem, by its reason and status.

Source: guide, troubleshooting; https://docs.cloud.google.com/kms/docs/org-policy-constraints,
https://docs.cloud.google.com/organization-policy/domain-restricted-sharing
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cmek.google_problem import GoogleProblem

_MEMBER_CONSTRAINTS: Final = {
    "constraints/iam.allowedPolicyMemberDomains",
    "constraints/iam.managed.allowedPolicyMembers",
}


def advice_for(problem: GoogleProblem) -> str:
    """A sentence or two for the person who reads the error."""
    reason = problem.reason or ""
    if reason in _BY_REASON:
        return _BY_REASON[reason](problem)
    if reason in _MEMBER_CONSTRAINTS:
        return _members(problem)
    if reason.startswith("constraints/"):
        return _constraint(problem)
    if reason.startswith("KEY_"):
        return _version_state(problem)
    if problem.status == "PERMISSION_DENIED":
        return _denied(problem)
    return _BY_STATUS.get(problem.status, "")


def _service_disabled(problem: GoogleProblem) -> str:
    service = problem.metadata.get("service", "cloudkms.googleapis.com")
    project = _project(problem)
    return (
        f"Enable the API (gcloud services enable {service} --project={project}), wait a few "
        "minutes and try again. The project named here may be the caller's quota project rather "
        "than the key's."
    )


def _billing_disabled(problem: GoogleProblem) -> str:
    return (
        f"Link an active billing account to project {_project(problem)} (gcloud billing projects "
        f"link {_project(problem)} --billing-account=ACCOUNT), wait a few minutes and try again."
    )


def _denied(problem: GoogleProblem) -> str:
    if problem.permission is None:
        return "Ask an administrator of the project for the missing right."
    return (
        f"Give the caller a role with {problem.permission} on {problem.resource} "
        "(roles/cloudkms.admin covers the set-up), or check that the name is right: Google gives "
        "the same answer for a resource that does not exist. A new grant takes minutes to work."
    )


def _perimeter(problem: GoogleProblem) -> str:
    uid = problem.metadata.get("uid") or next((v.description for v in problem.violations), "")
    return (
        "VPC Service Controls refused the call: a perimeter administrator finds it by its unique "
        f"id {uid} in the audit log and adds an ingress rule for the caller (and one for "
        "Anthropic's service account, which calls from 160.79.104.0/21)."
    )


def _members(problem: GoogleProblem) -> str:
    offenders = "; ".join(v.description for v in problem.violations if v.description)
    return (
        f"The organization policy {problem.reason} refuses a member of the key's IAM policy: "
        f"{offenders or 'not named'}. Google checks all members again, so it may be an older one. "
        "Allow Anthropic's service account in the policy (or take the older member out)."
    )


def _constraint(problem: GoogleProblem) -> str:
    return (
        f"The organization policy {problem.reason} on {problem.resource} forbids this: choose a "
        "location or protection level that it allows, or ask its administrator for an exception."
    )


def _version_state(problem: GoogleProblem) -> str:
    state = (problem.reason or "").removeprefix("KEY_")
    name = problem.resource or "the key version"
    if state == "DISABLED":
        return f"Enable it: gcloud kms keys versions enable {name}."
    if state == "DESTROY_SCHEDULED":
        return (
            f"Restore it before its destroy time (gcloud kms keys versions restore {name}), then "
            f"enable it (gcloud kms keys versions enable {name}); a restored version is disabled."
        )
    if state.startswith("PENDING"):
        return "The version is still being made: try again in a few seconds."
    return "The version is gone for ever: make another one the primary; its data stays unreadable."


def _misrouted(problem: GoogleProblem) -> str:
    return (
        f"Cloud KMS does not know {problem.resource}: correct the location, for example us-east5 "
        "(gcloud kms locations list shows them all)."
    )


def _project(problem: GoogleProblem) -> str:
    consumer = problem.metadata.get("consumer") or "PROJECT"
    return consumer.removeprefix("projects/")


_BY_REASON: Final[dict[str, Callable[[GoogleProblem], str]]] = {
    "SERVICE_DISABLED": _service_disabled,
    "BILLING_DISABLED": _billing_disabled,
    "IAM_PERMISSION_DENIED": _denied,
    "SECURITY_POLICY_VIOLATED": _perimeter,
    "VPC_SERVICE_CONTROLS": _perimeter,
    "MISROUTED_LOCATION": _misrouted,
    "CONCURRENT_POLICY_CHANGE": lambda _: (
        "Somebody else changed the policy at the same time: read it again and repeat the change."
    ),
    "CONNECTION": lambda _: "Check the endpoint, the network and proxies, then try again.",
    "CREDENTIALS": lambda _: (
        "Check the GcpCredentials of the GoogleKms block, or log in again "
        "(gcloud auth application-default login)."
    ),
    "NOT_GOOGLE": lambda _: "Something between here and Google answered: check proxies.",
}
_BY_STATUS: Final = {
    "UNAUTHENTICATED": (
        "Google did not accept the credentials: check the GcpCredentials of the GoogleKms block "
        "and that its key was not deleted."
    ),
    "NOT_FOUND": "Check project, location and name; the resource may have been deleted.",
    "ALREADY_EXISTS": "The name is taken; Cloud KMS never frees the name of a deleted key.",
    "RESOURCE_EXHAUSTED": (
        "A Cloud KMS quota is used up: wait a minute, or raise it on the project's quota page."
    ),
    "ABORTED": "Somebody else changed it at the same time: read it again and repeat the change.",
    "INVALID_ARGUMENT": "Correct the request; sending it again unchanged will not help.",
    "UNAVAILABLE": "Google is not reachable or overloaded: try again later.",
    "DEADLINE_EXCEEDED": "Google did not answer in time: try again later.",
    "INTERNAL": "Google's side failed: try again later.",
    "UNKNOWN": "Google's side failed: try again later.",
}
