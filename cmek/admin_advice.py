"""What a person can do about an error of the Admin API, by error code and status.

Source: https://platform.claude.com/docs/en/api/errors and
https://platform.claude.com/docs/en/manage-claude/cmek-troubleshooting
"""

from __future__ import annotations

from typing import Final

TOKEN_PATH: Final = "/v1/oauth/token"  # noqa: S105 - a path

_BY_CODE: Final = {
    "external_key_validation_failed": (
        "Anthropic could not use the Cloud KMS key: check the organization label, both grants on "
        "the key, the state of its primary version and VPC Service Controls, then validate again."
    ),
    "external_key_validation_timed_out": "Nothing was attached. Wait a few minutes and try again.",
    "external_key_changed": (
        "Nothing was attached: someone edited the external key meanwhile. Read it and try again."
    ),
    "external_key_in_workspace_policy": (
        "Take the key out of the organization's Workspace Policy in the Console first."
    ),
    "workspace_policy_violation": (
        "The organization's Workspace Policy does not allow this key for this workspace: an "
        "organization admin can change the policy in the Console."
    ),
    "key_profile_mismatch": (
        "Use a key and a workspace of the same user profile, or of none: register the key anew."
    ),
    "sandbox_egress_restricted": "Make the call from outside Claude's own sandbox.",
    "organization_on_hold": "Ask Anthropic's account team why the organization is on hold.",
    "organization_type_not_supported": "This kind of organization cannot do this; ask Anthropic.",
}
_BY_STATUS: Final = {
    400: "Correct the request; sending it again unchanged will not help.",
    401: (
        "The credential is missing, malformed, revoked or expired: put a current one into the "
        "AnthropicAdmin block. Workspace keys (sk-ant-api…) do not work here."
    ),
    402: "Check the payment details in the Console.",
    403: (
        "The credential lacks the right: it must be an Admin API key or an org:admin token, and "
        "customer-managed keys must be enabled for the organization by Anthropic's account team."
    ),
    404: "Check the id, and that the credential belongs to the same organization.",
    409: "Read the resource: it is in another state than expected, or the value is in use.",
    429: "Wait and try again; if it does not pass, look at the monthly spend limit.",
}


_FEDERATION: Final = (
    "Anthropic did not take the Google identity: compare issuer, sub, email and audience of the "
    "federation rule (Console, history of the rule) and the ids in the AnthropicAdmin block."
)


def advice_for(url: str, status: int | None, error_code: str | None) -> str:
    """A sentence or two; the code knows more than the status."""
    if url.endswith(TOKEN_PATH) and status in {400, 401, 403}:
        return _FEDERATION
    if error_code in _BY_CODE:
        return _BY_CODE[error_code]
    if status is None:
        return "Check the base URL, the network, proxies and TLS inspection, then try again."
    if status >= 500:
        return "Anthropic's side failed or is overloaded: try again later."
    return _BY_STATUS.get(status, "Check the base URL and proxies between here and Anthropic.")
