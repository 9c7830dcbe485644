"""Causes that lie in the crypto key itself: its existence, name, label, state and kind."""

from __future__ import annotations

from typing import Final

from cmek.checks.commands import key_flags, new_primary, on_key
from cmek.checks.existing_key import mend_version
from cmek.checks.outcome import Refused, value_of
from cmek.diagnosis.model import Cause, DiagnosisFacts, KnownCause, Rule
from cmek.kms_models import CUSTOMER_INITIATED, SYMMETRIC
from cmek.names import RECOMMENDED_REGIONS, is_us_single_region

GET_KEY: Final = "GetCryptoKey"

KEY_DELETED: Final = KnownCause("key_deleted", "The crypto key does not exist", GET_KEY)
OTHER_NAME: Final = KnownCause(
    "other_key_name", "The external key names another crypto key", "external_keys.retrieve"
)
EXTERNAL_GONE: Final = KnownCause(
    "external_key_gone", "The external key does not exist", "external_keys.retrieve"
)
PURPOSE: Final = KnownCause("wrong_purpose", "Wrong purpose or algorithm", GET_KEY)
LOCATION: Final = KnownCause("wrong_location", "Multi-region, or not in the US", "the key's name")
JUSTIFICATIONS: Final = KnownCause(
    "justifications", "Key Access Justifications refuse the access", GET_KEY
)
OUTSIDE: Final = KnownCause("outside_backend", "The key's backend outside Cloud KMS fails", GET_KEY)


def key_deleted(facts: DiagnosisFacts) -> Cause:
    """A genuine NOT_FOUND; a refused read proves nothing."""
    name = facts.request.key_name
    command = f"gcloud kms keys list {key_flags(name)} (a deleted name can't be used again: "
    command += "make a key of another name and register it)"
    if facts.key_is_gone:
        return KEY_DELETED.proved(f"Cloud KMS has no {name}", command)
    if isinstance(facts.findings.kms.key, Refused):
        return KEY_DELETED.open(str(facts.findings.kms.key), command)
    return KEY_DELETED.excluded(f"{name} exists")


def other_key_name(facts: DiagnosisFacts) -> Cause:
    """What was registered is not what we look at; it can never be changed, only made anew."""
    name, read = str(facts.request.key_name), facts.external_key
    command = f"register {name} as a new external key; a key name can never be changed"
    if read is None:
        return OTHER_NAME.excluded("nothing is registered yet")
    if isinstance(read, Refused):
        return OTHER_NAME.open(str(read), command)
    found = read.value.gcp_key_name
    if found == name:
        return OTHER_NAME.excluded(f"{read.value.id} names this key")
    project = value_of(facts.findings.google.project)
    if project and found == name.replace(f"projects/{project.project_id}", project.name, 1):
        return OTHER_NAME.excluded(f"{read.value.id} names this key by the project's number")
    return OTHER_NAME.proved(f"{read.value.id} names {found or 'no Google Cloud key'}", command)


def external_key_gone(facts: DiagnosisFacts) -> Cause:
    """Somebody deleted Anthropic's record meanwhile."""
    read = facts.external_key
    command = f"run the onboarding of {facts.request.workspace} again: it registers the key"
    if isinstance(read, Refused) and read.status == "404":
        return EXTERNAL_GONE.proved(f"{facts.external_key_id}: {read}", command)
    if isinstance(read, Refused):
        return EXTERNAL_GONE.open(str(read), command)
    return EXTERNAL_GONE.excluded(
        f"{facts.external_key_id} can be read" if read else "nothing is registered yet"
    )


def wrong_purpose(facts: DiagnosisFacts) -> Cause:
    """Anthropic needs symmetric encryption and decryption; neither can be changed."""
    key, command = facts.key, _another_key(facts)
    if key is None:
        return without_key(facts, PURPOSE, command)
    found = f"{key.purpose}, {key.algorithm}"
    if (key.purpose, key.algorithm) == ("ENCRYPT_DECRYPT", SYMMETRIC):
        return PURPOSE.excluded(found)
    return PURPOSE.proved(found, command)


def wrong_location(facts: DiagnosisFacts) -> Cause:
    """`us`, `global`, `nam4` and the rest of the world are not supported."""
    location = facts.request.key_name.location
    if is_us_single_region(location):
        return LOCATION.excluded(f"{location} is one US region")
    regions = ", ".join(RECOMMENDED_REGIONS)
    return LOCATION.proved(
        f"{location} is not one US region", f"make a key in one of {regions}; none can be moved"
    )


def justifications(facts: DiagnosisFacts) -> Cause:
    """An empty policy refuses everybody; one without customer-initiated access is suspicious."""
    key = facts.key
    command = on_key(
        facts.request.key_name, "update", "--allowed-access-reasons=customer-initiated-access"
    )
    if key is None:
        return without_key(facts, JUSTIFICATIONS, command)
    allowed = key.justifications_policy
    if allowed is None:
        return JUSTIFICATIONS.excluded("the key has no such policy")
    if not allowed:
        return JUSTIFICATIONS.proved("the key's policy allows no reason at all", command)
    found = f"allowed: {', '.join(allowed)}"
    if CUSTOMER_INITIATED in allowed:
        return JUSTIFICATIONS.excluded(found)
    return JUSTIFICATIONS.open(f"{found}; {CUSTOMER_INITIATED} is not", command)


def outside_backend(facts: DiagnosisFacts) -> Cause:
    """An external key manager may be down while everything in Cloud KMS looks well."""
    key = facts.key
    command = "check the external key manager's own health, or take a key made in Cloud KMS"
    if key is None:
        return without_key(facts, OUTSIDE, command)
    if key.protection_level.startswith("EXTERNAL") or key.crypto_key_backend:
        where = key.crypto_key_backend or key.protection_level
        return OUTSIDE.open(f"the key's material lies in {where}", command)
    return OUTSIDE.excluded(f"{key.protection_level}, made in Cloud KMS")


def primary_rule(known: KnownCause, states: tuple[str, ...]) -> Rule:
    """The primary version is in one of `states`; () means that there is none."""

    def rule(facts: DiagnosisFacts) -> Cause:
        key, name = facts.key, facts.request.key_name
        create = new_primary(name)
        if key is None:
            return without_key(facts, known, create)
        if key.primary is None:
            why = "the key has no primary version"
            return known.excluded(why) if states else known.proved(why, create)
        why = f"primary version {key.primary.id} is {key.primary.state}"
        if key.primary.state not in states:
            return known.excluded(why)
        if key.primary.state == "DESTROY_SCHEDULED" and key.primary.destroy_time:
            why += f"; it can be restored until {key.primary.destroy_time:%Y-%m-%d %H:%M} UTC"
        return known.proved(why, mend_version(facts.request, key.primary.id, key.primary.state))

    return rule


def _primary(known_id: str, title: str, *states: str) -> tuple[KnownCause, Rule]:
    known = KnownCause(known_id, title, GET_KEY)
    return known, primary_rule(known, states)


PRIMARY: Final = (
    _primary("primary_disabled", "The primary version is disabled", "DISABLED"),
    _primary(
        "primary_destroy_scheduled",
        "The primary version is scheduled for destruction",
        "DESTROY_SCHEDULED",
    ),
    _primary("primary_destroyed", "The primary version is destroyed", "DESTROYED"),
    _primary(
        "primary_pending",
        "The primary version is still being made",
        "PENDING_GENERATION",
        "PENDING_IMPORT",
    ),
    _primary(
        "primary_failed",
        "The primary version could not be made",
        "GENERATION_FAILED",
        "IMPORT_FAILED",
        "PENDING_EXTERNAL_DESTRUCTION",
        "EXTERNAL_DESTRUCTION_FAILED",
    ),
    _primary("primary_missing", "The key has no primary version"),
)


def without_key(facts: DiagnosisFacts, known: KnownCause, command: str) -> Cause:
    """The key is gone (so this is not the cause), or we may not read it (so nobody knows)."""
    if facts.key_is_gone:
        return known.excluded("there is no key")
    return known.open(f"the key could not be read: {facts.findings.kms.key}", command)


def _another_key(facts: DiagnosisFacts) -> str:
    name = facts.request.key_name
    return (
        f"gcloud kms keys create NEW_NAME {key_flags(name)} --purpose=encryption "
        f"--protection-level={facts.request.protection_level.lower()}, and onboard that one"
    )
