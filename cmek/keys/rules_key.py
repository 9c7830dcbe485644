"""Rules about the crypto key itself: existing key, location, kind, label, protection, drift.

A key that is wrong in something that can't be changed is refused. Versions: `rules_versions.py`.

Source: guide steps 1 and 2; https://docs.cloud.google.com/kms/docs/locations
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

from cmek._http import Failed, Ok, ok_value
from cmek.errors import CmekError, listed
from cmek.gcp.gcloud import key_flags, policy_of
from cmek.gcp.resources import CryptoKey, KeySpec
from cmek.keys import conditions
from cmek.keys.conditions import Condition
from cmek.keys.rules import Cause, CauseRule, DiagnosisFacts, Finding, KnownCause
from cmek.keys.snapshot import Findings, KeySnapshot
from cmek.keys.verdicts import RECORDED_FIELDS, Check, Prerequisite
from cmek.names import ORGANIZATION_LABEL_PREFIX, RECOMMENDED_REGIONS, organization_label
from cmek.onboarding.request import OnboardingRequest

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
    """Six checks of an existing key; if it does not exist, they pass.

    For a key of the wrong kind only that is reported: nothing else about it could help.
    """
    read = findings.kms.key
    key = ok_value(read)
    unfit = key is not None and not conditions.fitting_kind(key).holds
    fatal = PURPOSE if key is not None and not conditions.symmetric(key).holds else ORIGIN
    for prerequisite, condition in _CONDITIONS.items():
        if unfit and prerequisite not in {fatal, SHARED}:
            continue
        if isinstance(read, Failed):
            yield prerequisite.unknown(read)
        elif read.value is None:
            yield prerequisite.passed(f"{request.key_name} does not exist yet")
        elif condition is None:
            yield _shared(findings)
        else:
            yield prerequisite.judge(condition(request, read.value), another_key(request))


def _shared(findings: Findings) -> Check:
    read = findings.kms.protected
    if not isinstance(read, Ok):
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


def another_key(request: OnboardingRequest) -> str:
    """The remedy for a key that can't be changed: create another; nothing is attached yet."""
    return (
        f"gcloud kms keys create NEW_NAME {key_flags(request.key_name)} --purpose=encryption "
        f"--protection-level={request.protection_level.lower()}, and onboard that one"
    )


KeyCondition = Callable[[OnboardingRequest, CryptoKey], Condition]

_CONDITIONS: Final[Mapping[Prerequisite, KeyCondition | None]] = {
    PURPOSE: lambda _, key: conditions.symmetric(key),
    PROTECTION: lambda request, key: conditions.protection_level(key, request.protection_level),
    ORIGIN: lambda _, key: conditions.cloud_kms_material(key),
    PRIMARY: lambda request, key: conditions.primary_version(key, request.key_name),
    JUSTIFICATIONS: lambda request, key: conditions.justifications(key, request.key_name),
    SHARED: None,  # not judged by the key itself, but by Google's KMS inventory
}
PREREQUISITES: Final = tuple(_CONDITIONS)
"""All six, in the order of the report."""

LOCATION: Final = Prerequisite(
    "location",
    "Location is one US region with what is asked for",
    ("cloudkms GetLocation",),
    "whoever has cloudkms.locations.get on the project (roles/cloudkms.viewer)",
    "Anthropic uses keys of single US regions only, and a ring can't be moved.",
)


def check_location(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """One US region by its name, known to Cloud KMS, with HSM if requested."""
    name, read = request.key_name, findings.kms.location
    remedy = f"use one of {', '.join(RECOMMENDED_REGIONS)}"
    region = conditions.single_us_region(name)
    if not region.holds:
        yield LOCATION.failed(region.evidence, remedy)
    elif isinstance(read, Failed) and read.status == "NOT_FOUND":
        yield LOCATION.failed(f"Cloud KMS does not know {name.location}", remedy)
    elif isinstance(read, Failed):
        yield LOCATION.unknown(read)
    elif request.protection_level == "HSM" and not read.value.hsm_available:
        yield LOCATION.failed(f"{name.location} has no HSM", remedy)
    else:
        hsm = "with HSM" if read.value.hsm_available else "without HSM, none is requested"
        yield LOCATION.passed(f"{region.evidence}, {hsm}")


class KeyRefusedError(CmekError):
    """An existing key that can't be used; it was not changed."""


class UnprovenKeyError(KeyRefusedError):
    """A key exists that is not known to be ours, and the request does not allow to adopt it."""


def key_spec(request: OnboardingRequest, organization: UUID) -> KeySpec:
    """How a new key is created.

    The label is in the create call, so that a key is recognized as ours even if the response of
    its creation was lost.
    """
    days = request.rotation_period_days
    label, value = organization_label(organization)
    return KeySpec(
        protection_level=request.protection_level,
        rotation_period=timedelta(days=days) if days else None,
        destroy_scheduled_duration=timedelta(days=request.destroy_delay_days),
        labels={label: value},
    )


def refuse_unfit_key(key: CryptoKey, request: OnboardingRequest) -> None:
    """Refuse an existing key that does not match the request.

    Raises:
        KeyRefusedError: With the condition, what was found and what to do.
    """
    name = request.key_name
    for condition in (conditions.fitting_kind(key), conditions.single_us_region(name)):
        if not condition.holds:
            raise KeyRefusedError(
                f"{key.name}: {condition.evidence}, and it can't be changed: request another key "
                "name, and the key is made as it must be"
            )
    level = conditions.protection_level(key, request.protection_level)
    if not level.holds:
        raise KeyRefusedError(
            f"{key.name}: {level.evidence}, and it can't be changed: request what the key has, or "
            "another key name"
        )
    primary = conditions.primary_version(key, name)
    # only a missing one: every other state can change without another key
    if primary.subject == conditions.MISSING:
        raise KeyRefusedError(f"{key.name}: {primary.evidence}: {primary.remedy[0]}")


def check_adoption(key: CryptoKey, request: OnboardingRequest, users: Sequence[str]) -> None:
    """Refuse a key that is not known to be ours, unless the request allows to adopt it.

    Args:
        key: An existing key; nothing shows that an onboarding of this organization created it.
        request: The pinned request.
        users: Members who can encrypt or decrypt with it now.

    Raises:
        UnprovenKeyError: `adopt_existing_key` is off.
    """
    if not request.adopt_existing_key:
        shown = listed(users) or "no member by a binding on the key itself"
        see = policy_of(request.key_name)
        raise UnprovenKeyError(
            f"{key.name} exists, and nothing shows that an onboarding of this organization made it"
            " (label and record, or a workspace that has it), so it may protect other data. Its "
            f"users: {shown} (see {see}). Set adopt_existing_key to have label and grants added "
            "after an approval, or ask for another key name"
        )


_NEW_WORKSPACE: Final = "; it can't be changed: make a key that fits, and a new workspace for it"
SHORTEST_DESTROY_DELAY: Final = timedelta(days=30)


def not_found(snapshot: KeySnapshot) -> Iterator[Finding]:
    """Anthropic has a record of it, but Cloud KMS has no such key: no data can be read."""
    if snapshot.name and snapshot.crypto_key is None:
        yield Finding(
            f"Cloud KMS has no key {snapshot.registered_name}: it was deleted, or its project was. "
            "A deleted key can't be brought back; a deleted project can for 30 days",
            (f"gcloud projects undelete {snapshot.name.project}",),
        )


def name_malformed(snapshot: KeySnapshot) -> Iterator[Finding]:
    """What is registered is not a crypto key's resource name, and can never be changed."""
    if snapshot.name is None:
        yield Finding(
            f"{snapshot.registered_name} is not a crypto key's resource name; register the key "
            "again by its full name, and attach it to a new workspace"
        )


def wrong_location(snapshot: KeySnapshot) -> Iterator[Finding]:
    """Anthropic uses keys in one US region only; a key can't be moved."""
    if snapshot.name:
        yield from Finding.of(conditions.single_us_region(snapshot.name), otherwise=_NEW_WORKSPACE)


def wrong_kind(snapshot: KeySnapshot) -> Iterator[Finding]:
    """Anthropic needs a symmetric key for encryption and decryption."""
    for key, _ in snapshot.key_and_name():
        yield from Finding.of(conditions.symmetric(key), otherwise=_NEW_WORKSPACE)


def label_missing(snapshot: KeySnapshot) -> Iterator[Finding]:
    """Without the organization label a validation fails."""
    for key, name in snapshot.key_and_name():
        if conditions.symmetric(key).holds:
            yield from Finding.of(conditions.labelled(key, name, snapshot.organization_id))


def justifications_deny(snapshot: KeySnapshot) -> Iterator[Finding]:
    """An empty Key Access Justifications policy refuses every use."""
    return _justifications(snapshot, doubtful=False)


def justifications_narrow(snapshot: KeySnapshot) -> Iterator[Finding]:
    """A policy without customer-initiated access may refuse Anthropic's use."""
    return _justifications(snapshot, doubtful=True)


def _justifications(snapshot: KeySnapshot, *, doubtful: bool) -> Iterator[Finding]:
    for key, name in snapshot.key_and_name():
        condition = conditions.justifications(key, name)
        if condition.doubtful is doubtful:
            yield from Finding.of(condition)


def destroy_delay_short(snapshot: KeySnapshot) -> Iterator[Finding]:
    """Little time to notice a scheduled destruction; the delay of a key can't be changed."""
    for key, name in snapshot.key_and_name():
        delay = key.destroy_scheduled_duration
        if delay is None or delay >= SHORTEST_DESTROY_DELAY:
            continue
        protect = (
            "gcloud resource-manager org-policies enable-enforce "
            f"constraints/cloudkms.disableBeforeDestroy --project={name.project}"
        )
        yield Finding(
            f"a scheduled destruction becomes final after {delay.total_seconds() / 86400:g} days, "
            "under 30. It can't be changed on this key; an organization policy can at least demand "
            "that versions are disabled first",
            (protect,),
        )


def software_protection(snapshot: KeySnapshot) -> Iterator[Finding]:
    """The guide allows it, but recommends HSM."""
    for key, _ in snapshot.key_and_name():
        if key.protection_level == "SOFTWARE":
            yield Finding(
                "the key is protected by software; the guide recommends HSM, which is certified by "
                "FIPS 140-2 Level 3 and costs little more. It can't be changed on this key"
            )


def drift(snapshot: KeySnapshot) -> Iterator[Finding]:
    """Something is no longer as it was recorded at onboarding (or at the first check)."""
    baseline = snapshot.baseline
    for key, _ in snapshot.key_and_name():
        for field in RECORDED_FIELDS if baseline else ():
            was, found = getattr(baseline, field), getattr(key, field)
            if baseline is None or was == found:
                continue
            yield Finding(
                f"{field.replace('_', ' ')} was {_shown(was)} at {baseline.source} "
                f"({baseline.recorded_at:%Y-%m-%d}), is {_shown(found)}. If that is meant, "
                "revalidate once with record_anew",
                subject=field,
            )


def _shown(value: object) -> str:
    if isinstance(value, timedelta):
        return f"{value.total_seconds() / 86400:g} days"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "nothing"
    return "none" if value is None else str(value)


KEY_READ: Final = "GetCryptoKey"

KEY_DELETED: Final = KnownCause("key_deleted", "The crypto key does not exist", KEY_READ)
OTHER_NAME: Final = KnownCause(
    "other_key_name", "The external key names another crypto key", "external_keys.retrieve"
)
EXTERNAL_GONE: Final = KnownCause(
    "external_key_gone", "The external key does not exist", "external_keys.retrieve"
)
WRONG_PURPOSE: Final = KnownCause("wrong_purpose", "Wrong purpose or algorithm", KEY_READ)
WRONG_LOCATION: Final = KnownCause(
    "wrong_location", "Multi-region, or not in the US", "the key's name"
)
JUSTIFICATIONS_DENY: Final = KnownCause(
    "justifications", "Key Access Justifications refuse the access", KEY_READ
)
EXTERNAL_KEY_MANAGER: Final = KnownCause(
    "outside_backend", "The key's backend outside Cloud KMS fails", KEY_READ
)


def key_deleted(facts: DiagnosisFacts) -> Cause:
    """Proved by NOT_FOUND only; a refused read proves nothing."""
    name = facts.request.key_name
    command = f"gcloud kms keys list {key_flags(name)} (a deleted name can't be used again: "
    command += "make a key of another name and register it)"
    if facts.key_is_gone:
        return KEY_DELETED.proved(f"Cloud KMS has no {name}", command)
    if isinstance(facts.findings.kms.key, Failed):
        return KEY_DELETED.open(str(facts.findings.kms.key), command)
    return KEY_DELETED.excluded(f"{name} exists")


def other_key_name(facts: DiagnosisFacts) -> Cause:
    """The external key is for another crypto key; that can never be changed."""
    name, read = str(facts.request.key_name), facts.external_key
    command = f"register {name} as a new external key; a key name can never be changed"
    if read is None:
        return OTHER_NAME.excluded("nothing is registered yet")
    if isinstance(read, Failed):
        return OTHER_NAME.open(str(read), command)
    found = read.value.gcp_key_name
    if found == name:
        return OTHER_NAME.excluded(f"{read.value.id} names this key")
    project = ok_value(facts.findings.google.project)
    # a name with the project's number, `projects/N/…`, is the same key
    if project and found == name.replace(f"projects/{project.project_id}", project.name, 1):
        return OTHER_NAME.excluded(f"{read.value.id} names this key by the project's number")
    return OTHER_NAME.proved(f"{read.value.id} names {found or 'no Google Cloud key'}", command)


def external_key_gone(facts: DiagnosisFacts) -> Cause:
    """Somebody has deleted Anthropic's record of the key."""
    read = facts.external_key
    command = f"run the onboarding of {facts.request.workspace} again: it registers the key"
    if isinstance(read, Failed) and read.status == "404":
        return EXTERNAL_GONE.proved(f"{facts.external_key_id}: {read}", command)
    if isinstance(read, Failed):
        return EXTERNAL_GONE.open(str(read), command)
    return EXTERNAL_GONE.excluded(
        f"{facts.external_key_id} can be read" if read else "nothing is registered yet"
    )


def of_key(known: KnownCause, condition: KeyCondition) -> CauseRule:
    """A rule whose cause is proved or excluded by one condition on the key."""

    def rule(facts: DiagnosisFacts) -> Cause:
        if facts.key is None:
            return without_key(facts, known, another_key(facts.request))
        kind = conditions.symmetric(facts.key)
        if known is not WRONG_PURPOSE and not kind.holds:
            return known.excluded(f"not the cause: {kind.evidence}")
        return known.judge(condition(facts.request, facts.key), another_key(facts.request))

    return rule


wrong_purpose: Final = of_key(WRONG_PURPOSE, lambda _, key: conditions.symmetric(key))
justifications: Final = of_key(
    JUSTIFICATIONS_DENY, lambda request, key: conditions.justifications(key, request.key_name)
)


def location_cause(facts: DiagnosisFacts) -> Cause:
    """Only single US regions are supported: not `us`, `global`, `nam4`, nor any other country."""
    regions = ", ".join(RECOMMENDED_REGIONS)
    return WRONG_LOCATION.judge(
        conditions.single_us_region(facts.request.key_name),
        f"make a key in one of {regions}; a key can't be moved",
    )


def external_key_manager(facts: DiagnosisFacts) -> Cause:
    """An external key manager may be down although everything in Cloud KMS looks right."""
    command = "check the external key manager's own health, or use a key made in Cloud KMS"
    if facts.key is None:
        return without_key(facts, EXTERNAL_KEY_MANAGER, command)
    material = conditions.cloud_kms_material(facts.key)
    if material.holds or facts.key.import_only:
        return EXTERNAL_KEY_MANAGER.excluded(material.evidence)
    return EXTERNAL_KEY_MANAGER.open(material.evidence, command)


def without_key(facts: DiagnosisFacts, known: KnownCause, command: str) -> Cause:
    """Without a key to judge: excluded if the key does not exist, open if it could not be read."""
    if facts.key_is_gone:
        return known.excluded("there is no key")
    return known.open(f"the key could not be read: {facts.findings.kms.key}", command)


READS: Final = "GetCryptoKey, organization.me"

LABEL_MISSING: Final = KnownCause("label_missing", "The organization label is missing", READS)
OTHER: Final = KnownCause("label_other_organization", "The label is another organization's", READS)
SPELLING: Final = KnownCause(
    "label_spelling", "The label is not in lower case, or its value is not `true`", READS
)


def label_missing_cause(facts: DiagnosisFacts) -> Cause:
    """The key has no organization label at all."""
    return _judge(facts, LABEL_MISSING, lambda labels, _: not _organizations(labels))


def label_other_organization(facts: DiagnosisFacts) -> Cause:
    """The key has only labels of other organizations."""
    return _judge(
        facts,
        OTHER,
        lambda labels, ours: bool(_organizations(labels)) and not _spelled_otherwise(labels, ours),
    )


def label_spelling(facts: DiagnosisFacts) -> Cause:
    """The key has our organization's label in another spelling, or with another value."""
    return _judge(facts, SPELLING, _spelled_otherwise)


def _judge(
    facts: DiagnosisFacts, known: KnownCause, proves: Callable[[Mapping[str, str], str], bool]
) -> Cause:
    key, organization = facts.key, facts.organization_id
    if organization is None:
        return known.open("the organization's UUID could not be read", "try again later")
    label, _ = organization_label(organization)
    if key is None:
        return without_key(facts, known, "onboard a key that exists")
    kind = conditions.symmetric(key)
    if not kind.holds:
        return known.excluded(f"not the cause: {kind.evidence}")
    condition = conditions.labelled(key, facts.request.key_name, organization)
    if not proves(key.labels, label):
        return known.excluded(condition.evidence)
    return known.judge(condition)


def _organizations(labels: Mapping[str, str]) -> list[str]:
    return [name for name in labels if name.casefold().startswith(ORGANIZATION_LABEL_PREFIX)]


def _spelled_otherwise(labels: Mapping[str, str], ours: str) -> bool:
    return ours in {name.casefold() for name in labels}
