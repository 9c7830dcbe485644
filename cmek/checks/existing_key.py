"""Can a key that exists already serve? What can't be changed about it is refused, never changed.

Source: guide step 2; https://docs.cloud.google.com/kms/docs/key-states,
https://docs.cloud.google.com/assured-workloads/key-access-justifications/docs
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from cmek.checks.commands import new_primary, on_key, on_version
from cmek.checks.findings import Findings
from cmek.checks.model import Check, Prerequisite
from cmek.checks.outcome import Answer, Refused
from cmek.kms_models import CUSTOMER_INITIATED, SYMMETRIC, CryptoKey
from cmek.request import OnboardingRequest

WHO: Final = "whoever has cloudkms.cryptoKeys.get on the key (roles/cloudkms.viewer)"
GET_KEY: Final = ("cloudkms GetCryptoKey",)

PURPOSE: Final = Prerequisite(
    "key_purpose",
    "Existing key encrypts symmetrically",
    GET_KEY,
    WHO,
    "Anthropic needs ENCRYPT_DECRYPT with Google's symmetric algorithm; neither can be changed.",
)
PROTECTION: Final = Prerequisite(
    "key_protection",
    "Existing key has the protection level asked for",
    GET_KEY,
    WHO,
    "A protection level can't be changed.",
)
ORIGIN: Final = Prerequisite(
    "key_origin",
    "Existing key's material was made in Cloud KMS and lies there",
    GET_KEY,
    WHO,
    "External key managers add a point of failure; import-only keys can't rotate by themselves.",
)
PRIMARY: Final = Prerequisite(
    "key_primary",
    "Existing key's primary version is enabled",
    GET_KEY,
    WHO,
    "Nothing can be encrypted without an enabled primary version.",
)
JUSTIFICATIONS: Final = Prerequisite(
    "key_justifications",
    "Key Access Justifications policy lets customer-initiated access through",
    GET_KEY,
    WHO,
    "A key whose policy allows no reason refuses every call.",
)
SHARED: Final = Prerequisite(
    "key_shared",
    "Existing key protects no other systems",
    ("kmsinventory…cryptoKeys.getProtectedResourcesSummary",),
    "whoever has cloudkms.protectedResources.search on the organization "
    "(roles/cloudkms.protectedResourcesViewer), with the KMS Inventory API on",
    "Who switches a shared key off, for whatever reason, switches Anthropic's data off too.",
)


def check_existing_key(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """Six checks of an existing key; with none, there is nothing that could be wrong."""
    read = findings.kms.key
    for prerequisite, judge in _RULES:
        if isinstance(read, Refused):
            yield prerequisite.unknown(read)
        elif read.value is None:
            yield prerequisite.passed(f"{request.key_name} does not exist yet")
        else:
            yield judge(request, findings, read.value)


def _purpose(request: OnboardingRequest, _: Findings, key: CryptoKey) -> Check:
    found = f"{key.purpose}, {key.algorithm}"
    if (key.purpose, key.algorithm) == ("ENCRYPT_DECRYPT", SYMMETRIC):
        return PURPOSE.passed(found)
    return PURPOSE.failed(found, _another_key(request))


def _protection(request: OnboardingRequest, _: Findings, key: CryptoKey) -> Check:
    found = f"{key.protection_level}, asked for {request.protection_level}"
    if key.protection_level == request.protection_level:
        return PROTECTION.passed(found)
    return PROTECTION.failed(found, _another_key(request))


def _origin(request: OnboardingRequest, _: Findings, key: CryptoKey) -> Check:
    if key.protection_level.startswith("EXTERNAL") or key.crypto_key_backend:
        where = key.crypto_key_backend or "an external key manager"
        return ORIGIN.failed(f"{key.protection_level}: lies in {where}", _another_key(request))
    if key.import_only:
        return ORIGIN.failed("import-only: its material comes from outside", _another_key(request))
    return ORIGIN.passed("made in Cloud KMS")


def _primary(request: OnboardingRequest, _: Findings, key: CryptoKey) -> Check:
    if key.primary is None:
        return PRIMARY.failed("there is no primary version", new_primary(request.key_name))
    version, state = key.primary.id, key.primary.state
    found = f"primary version {version} is {state}"
    if state == "ENABLED":
        return PRIMARY.passed(found)
    return PRIMARY.failed(found, mend_version(request, version, state))


def mend_version(request: OnboardingRequest, version: str, state: str) -> str:
    """What brings a primary version back to work, or puts another one in its place."""
    key = request.key_name
    enable = on_version(key, "enable", version)
    if state == "DISABLED":
        return enable
    if state == "DESTROY_SCHEDULED":
        return f"{on_version(key, 'restore', version)} && {enable}"
    if state.startswith("PENDING"):
        return f"{on_version(key, 'describe', version)} (wait until it is ENABLED)"
    create = new_primary(key)
    return f"{create} (what version {version} sealed is lost)" if state == "DESTROYED" else create


def _justifications(request: OnboardingRequest, _: Findings, key: CryptoKey) -> Check:
    allowed = key.justifications_policy
    remedy = on_key(
        request.key_name, "update", "--allowed-access-reasons=customer-initiated-access"
    )
    if allowed is None:
        return JUSTIFICATIONS.passed("no policy: every reason is allowed")
    if not allowed:
        return JUSTIFICATIONS.failed("the policy allows no reason: every call is refused", remedy)
    found = f"allowed reasons: {', '.join(allowed)}"
    if CUSTOMER_INITIATED in allowed:
        return JUSTIFICATIONS.passed(found)
    return JUSTIFICATIONS.warned(f"{found}; {CUSTOMER_INITIATED} is not among them", remedy)


def _shared(_: OnboardingRequest, findings: Findings, __: CryptoKey) -> Check:
    read = findings.kms.protected
    if not isinstance(read, Answer):
        return SHARED.unknown(read or "not read")
    used = read.value
    if used.resource_count:
        products = ", ".join(f"{name} {count}" for name, count in used.cloud_products.items())
        return SHARED.warned(
            f"protects {used.resource_count} resources in {used.project_count} projects"
            f"{': ' + products if products else ''}",
            "take a key of its own for Anthropic",
        )
    if used.warnings:
        return SHARED.unknown("Google could not look everywhere for resources under this key")
    return SHARED.passed("no Google Cloud resource is under it (Anthropic's data never shows)")


def _another_key(request: OnboardingRequest) -> str:
    return f"ask for another key name than {request.key_name.crypto_key}, so that one is made"


_RULES: Final[
    tuple[tuple[Prerequisite, Callable[[OnboardingRequest, Findings, CryptoKey], Check]], ...]
] = (
    (PURPOSE, _purpose),
    (PROTECTION, _protection),
    (ORIGIN, _origin),
    (PRIMARY, _primary),
    (JUSTIFICATIONS, _justifications),
    (SHARED, _shared),
)

PREREQUISITES: Final = tuple(prerequisite for prerequisite, _ in _RULES)
"""All six."""
