"""Can a key that exists already serve? What can't be changed about it is refused, never changed.

Source: guide step 2; https://docs.cloud.google.com/kms/docs/key-states,
https://docs.cloud.google.com/assured-workloads/key-access-justifications/docs

The location: one US region, known to Cloud KMS, with HSM when that is asked for.

Source: guide step 1; https://docs.cloud.google.com/kms/docs/locations

Is an existing crypto key the one that was asked for, and whose is it? Pure (guide step 2).

Rules about the key itself: that it is there, what it is, and what was recorded.

Rules about versions. Data is never re-encrypted, so every version that served is still needed.

Source: https://docs.cloud.google.com/kms/docs/key-states and …/destroy-restore;
https://platform.claude.com/docs/en/manage-claude/cmek-key-lifecycle

Rules about rotation: Cloud KMS makes a new primary on a schedule, if nothing stops it.

Causes that lie in the crypto key itself: its existence, name, label, state and kind.

Causes that lie in the organization label.

Source: https://platform.claude.com/docs/en/manage-claude/cmek-google-cloud-kms
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

from cmek._http import Failed, Ok, ok_value
from cmek.errors import CmekError
from cmek.gcp.gcloud import key_flags, new_primary, on_key, on_version
from cmek.gcp.resources import CUSTOMER_INITIATED, SYMMETRIC, CryptoKey, KeySpec, KeyVersion
from cmek.keys.rules import Cause, CauseRule, DiagnosisFacts, Finding, KnownCause
from cmek.keys.snapshot import Findings, KeySnapshot
from cmek.keys.verdicts import RECORDED_FIELDS, Check, Prerequisite
from cmek.names import RECOMMENDED_REGIONS, KeyName, is_us_single_region, organization_label
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
    """Six checks of an existing key; with none, there is nothing that could be wrong."""
    read = findings.kms.key
    for prerequisite, judge in _RULES:
        if isinstance(read, Failed):
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
    return PRIMARY.failed(found, version_fix(request, version, state))


def version_fix(request: OnboardingRequest, version: str, state: str) -> str:
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

LOCATION: Final = Prerequisite(
    "location",
    "Location is one US region with what is asked for",
    ("cloudkms GetLocation",),
    "whoever has cloudkms.locations.get on the project (roles/cloudkms.viewer)",
    "Anthropic uses keys of single US regions only, and a ring can't be moved.",
)


def check_location(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """The name's shape first, then the live location's word."""
    location, read = request.key_name.location, findings.kms.location
    remedy = f"ask for one of {', '.join(RECOMMENDED_REGIONS)}"
    if not is_us_single_region(location):
        yield LOCATION.failed(f"{location} is not one US region", remedy)
    elif isinstance(read, Failed) and read.status == "NOT_FOUND":
        yield LOCATION.failed(f"Cloud KMS does not know {location}", remedy)
    elif isinstance(read, Failed):
        yield LOCATION.unknown(read)
    elif request.protection_level == "HSM" and not read.value.hsm_available:
        yield LOCATION.failed(f"{location} has no HSM", remedy)
    else:
        hsm = "with HSM" if read.value.hsm_available else "without HSM, none is asked for"
        yield LOCATION.passed(f"{location}, {hsm}")


DECRYPTING_ROLES = frozenset(
    {
        "roles/owner",
        "roles/cloudkms.cryptoKeyEncrypterDecrypter",
        "roles/cloudkms.cryptoKeyDecrypter",
        "roles/cloudkms.cryptoKeyEncrypter",
        "roles/cloudkms.cryptoOperator",
    }
)
"""Roles by which somebody uses a key's material."""


class KeyRefusedError(CmekError):
    """An existing key that can't serve; nothing about it is changed."""


class ForeignKeyError(KeyRefusedError):
    """A key that exists without our label, and nobody allowed us to adopt it."""


def key_spec(request: OnboardingRequest, organization: UUID) -> KeySpec:
    """How a new key is made.

    The label goes into the create call, so that a key whose creation answer was lost is
    recognised as ours.
    """
    days = request.rotation_period_days
    label, value = organization_label(organization)
    return KeySpec(
        protection_level=request.protection_level,
        rotation_period=timedelta(days=days) if days else None,
        destroy_scheduled_duration=timedelta(days=request.destroy_delay_days),
        labels={label: value},
    )


def is_ours(key: CryptoKey, organization: UUID) -> bool:
    """Whether the key carries this organization's label."""
    label, value = organization_label(organization)
    return key.labels.get(label) == value


def check_key(key: CryptoKey, request: OnboardingRequest) -> None:
    """Compare what can't be changed with what was asked for.

    Raises:
        KeyRefusedError: names the field, the value found and the way out.
    """
    wanted = {
        "purpose": (key.purpose, "ENCRYPT_DECRYPT"),
        "algorithm": (key.algorithm, SYMMETRIC),
        "protection level": (key.protection_level, request.protection_level),
        "import only": (key.import_only, False),
        "external backend": (key.crypto_key_backend or "none", "none"),
    }
    for field, (found, needed) in wanted.items():
        if found != needed:
            raise KeyRefusedError(
                f"{key.name}: {field} is {found}, needed {needed}, and it can't be changed: "
                "ask for another key name or, where that suits you, for what the key has"
            )
    if not is_us_single_region(request.key_name.location):
        raise KeyRefusedError(f"{key.name}: the location must be one US region")
    if key.primary is None:
        raise KeyRefusedError(
            f"{key.name} has no primary version: create one and make it primary "
            f"(gcloud kms keys versions create --primary --key={request.key_name.crypto_key} "
            f"--keyring={request.key_name.key_ring} --location={request.location} "
            f"--project={request.project_id})"
        )


def check_adoption(key: CryptoKey, request: OnboardingRequest, users: Sequence[str]) -> None:
    """Refuse to touch a foreign key unless a person said so.

    Args:
        key: Exists without our label.
        request: The pinned request.
        users: Members that can encrypt or decrypt with it today.

    Raises:
        ForeignKeyError: `adopt_existing_key` is off.
    """
    if not request.adopt_existing_key:
        shown = ", ".join(users) or "nobody by a binding on the key itself"
        raise ForeignKeyError(
            f"{key.name} exists and does not carry this organization's label, so it may protect "
            f"other data. Its users: {shown}. Set adopt_existing_key to add the label and the two "
            "grants to it, or ask for another key name"
        )


SHORTEST_DESTROY_DELAY: Final = timedelta(days=30)


def not_found(snapshot: KeySnapshot) -> Iterator[Finding]:
    """Anthropic has the key on record, Cloud KMS has not: everything under it is unreadable."""
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
    if snapshot.name and not is_us_single_region(snapshot.name.location):
        yield Finding(
            f"the key is in {snapshot.name.location}, not in one US region: make a key in one, "
            "and a new workspace for it"
        )


def wrong_kind(snapshot: KeySnapshot) -> Iterator[Finding]:
    """Anthropic needs a symmetric key for encryption and decryption."""
    for key, _ in snapshot.found():
        if key.purpose != "ENCRYPT_DECRYPT" or key.algorithm != SYMMETRIC:
            yield Finding(
                f"the key is for {key.purpose} with {key.algorithm}, which can't be changed: make "
                "a symmetric key, and a new workspace for it"
            )


def label_missing(snapshot: KeySnapshot) -> Iterator[Finding]:
    """Without the organization label validation fails."""
    label, value = organization_label(snapshot.organization_id)
    for key, name in snapshot.found():
        if key.labels.get(label) != value:
            yield Finding(
                f"the label {label}={value} is missing",
                (on_key(name, "update", f"--update-labels={label}={value}"),),
            )


def justifications_deny(snapshot: KeySnapshot) -> Iterator[Finding]:
    """An empty Key Access Justifications policy refuses every use."""
    for key, name in snapshot.found():
        if key.justifications_policy == ():
            yield Finding(
                "the Key Access Justifications policy allows no reason, so every use is refused",
                (on_key(name, "update", "--allowed-access-reasons=customer-initiated-access"),),
            )


def justifications_narrow(snapshot: KeySnapshot) -> Iterator[Finding]:
    """A policy without customer-initiated access may refuse Anthropic's use."""
    for key, name in snapshot.found():
        allowed = key.justifications_policy
        if allowed and CUSTOMER_INITIATED not in allowed:
            reasons = [one.lower().replace("_", "-") for one in (*allowed, CUSTOMER_INITIATED)]
            yield Finding(
                f"Key Access Justifications allow only {', '.join(allowed)}",
                (on_key(name, "update", f"--allowed-access-reasons={','.join(reasons)}"),),
            )


def destroy_delay_short(snapshot: KeySnapshot) -> Iterator[Finding]:
    """Little time to notice a scheduled destruction; the delay of a key can't be changed."""
    for key, name in snapshot.found():
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
    """Allowed by the guide, HSM is recommended: a remark."""
    for key, _ in snapshot.found():
        if key.protection_level == "SOFTWARE":
            yield Finding("the key is protected by software; the guide recommends HSM")


def drift(snapshot: KeySnapshot) -> Iterator[Finding]:
    """Something is no longer as it was recorded at onboarding (or at the first look)."""
    baseline = snapshot.baseline
    for key, _ in snapshot.found():
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


HAVE_RULES: Final = {"ENABLED", "DISABLED", "DESTROY_SCHEDULED", "PENDING_GENERATION"}


def primary_missing(snapshot: KeySnapshot) -> Iterator[Finding]:
    """Nothing can be encrypted without a primary version."""
    for key, name in snapshot.found():
        if key.primary is not None:
            continue
        enabled = [version.id for version in snapshot.all_versions if version.state == "ENABLED"]
        choose = f"--version={max(enabled, key=int)}" if enabled else ""
        mend = on_key(name, "set-primary-version", choose) if enabled else new_primary(name)
        yield Finding("the key has no primary version", (mend,))


def primary_disabled(snapshot: KeySnapshot) -> Iterator[Finding]:
    """Nothing can be encrypted, and what this version sealed can't be read, until it is enabled."""
    for version, name in _primary_in(snapshot, "DISABLED"):
        yield Finding(
            f"the primary version {version.id} is disabled",
            (on_version(name, "enable", version.id),),
            version.id,
        )


def primary_destroy_scheduled(snapshot: KeySnapshot) -> Iterator[Finding]:
    """The primary is unusable already, and lost for good at its destroy time."""
    for version, name in _primary_in(snapshot, "DESTROY_SCHEDULED"):
        yield _destruction_scheduled(snapshot, version, name, "primary")


def primary_unusable(snapshot: KeySnapshot) -> Iterator[Finding]:
    """Destroyed, or never generated: only another version can become the primary."""
    for key, name in snapshot.found():
        primary = key.primary
        if primary and primary.state not in HAVE_RULES:
            yield Finding(
                f"the primary version {primary.id} is {primary.state}",
                (new_primary(name),),
                primary.id,
                since=primary.destroy_event_time,
            )


def primary_pending(snapshot: KeySnapshot) -> Iterator[Finding]:
    """It can't be used yet, and soon may be."""
    for version, _ in _primary_in(snapshot, "PENDING_GENERATION"):
        yield Finding(f"the primary version {version.id} is still being made", subject=version.id)


def old_version_disabled(snapshot: KeySnapshot) -> Iterator[Finding]:
    """What it sealed can't be read until it is enabled again."""
    for version, name in _old_in(snapshot, "DISABLED"):
        yield Finding(
            f"the older version {version.id} is disabled: data sealed under it can't be read",
            (on_version(name, "enable", version.id),),
            version.id,
        )


def old_version_destroy_scheduled(snapshot: KeySnapshot) -> Iterator[Finding]:
    """What it sealed can't be read, and is lost for good at its destroy time."""
    for version, name in _old_in(snapshot, "DESTROY_SCHEDULED"):
        yield _destruction_scheduled(snapshot, version, name, "older")


def old_version_destroyed(snapshot: KeySnapshot) -> Iterator[Finding]:
    """What it sealed is lost; a version that was gone before registration sealed nothing."""
    for version, name in _old_in(snapshot, "DESTROYED"):
        gone, registered = version.destroy_event_time, snapshot.registered_at
        if gone and registered and gone < registered:
            continue
        query = (
            'protoPayload.methodName="DestroyCryptoKeyVersion" AND '
            f'protoPayload.resourceName="{version.name}"'
        )
        yield Finding(
            f"the older version {version.id} was destroyed: data sealed under it is lost, and "
            "nothing brings it back. Find out who did it, and protect the other versions",
            (f"gcloud logging read '{query}' --project={name.project}",),
            version.id,
            since=gone,
        )


def protection_mixed(snapshot: KeySnapshot) -> Iterator[Finding]:
    """A version that is protected in another way than the key says."""
    for key, _ in snapshot.found():
        for version in snapshot.all_versions:
            if version.protection_level != key.protection_level:
                yield Finding(
                    f"version {version.id} is {version.protection_level}, the key says "
                    f"{key.protection_level}",
                    subject=version.id,
                )


def _primary_in(snapshot: KeySnapshot, state: str) -> Iterator[tuple[KeyVersion, KeyName]]:
    for key, name in snapshot.found():
        if key.primary and key.primary.state == state:
            yield key.primary, name


def _old_in(snapshot: KeySnapshot, state: str) -> Iterator[tuple[KeyVersion, KeyName]]:
    """Old versions in a state, without those that were unusable before we sealed anything."""
    baseline = snapshot.baseline
    before = baseline.unusable_versions if baseline and baseline.source == "onboarding" else ()
    for version in snapshot.old_versions:
        if version.state == state and version.id not in before and snapshot.name:
            yield version, snapshot.name


def _destruction_scheduled(
    snapshot: KeySnapshot, version: KeyVersion, name: KeyName, which: str
) -> Finding:
    key, when = snapshot.crypto_key, version.destroy_time
    delay = key.destroy_scheduled_duration if key else None
    lost = f"is lost for good at {when:%Y-%m-%d %H:%M %Z}" if when else "will be lost for good"
    return Finding(
        f"the {which} version {version.id} is scheduled for destruction: data sealed under it "
        f"can't be read now, and {lost}",
        (on_version(name, "restore", version.id), on_version(name, "enable", version.id)),
        version.id,
        since=when - delay if when and delay else None,
        final_at=when,
    )


LONGEST_ROTATION: Final = timedelta(days=90)
GRACE: Final = timedelta(days=1)


def rotation_off(snapshot: KeySnapshot) -> Iterator[Finding]:
    """Without a rotation period one version seals everything for ever."""
    for key, name in snapshot.found():
        if key.rotation_period is None:
            yield Finding("automatic rotation is off", (_rotate(snapshot, name),))


def rotation_slow(snapshot: KeySnapshot) -> Iterator[Finding]:
    """CIS asks for 90 days or less."""
    for key, name in snapshot.found():
        if key.rotation_period and key.rotation_period > LONGEST_ROTATION:
            yield Finding(
                f"it rotates every {key.rotation_period.days} days, CIS asks for 90 or less",
                (_rotate(snapshot, name),),
            )


def rotation_overdue(snapshot: KeySnapshot) -> Iterator[Finding]:
    """A rotation that did not happen: often an organization policy made after the key."""
    for key, name in snapshot.found():
        due = key.next_rotation_time
        if due is None or due + GRACE >= snapshot.now:
            continue
        describe = "gcloud resource-manager org-policies describe"
        where = f"--effective --project={name.project}"
        yield Finding(
            f"the rotation of {due:%Y-%m-%d %H:%M %Z} did not happen. Organization policies on "
            "locations or protection levels stop the rotation of keys made before them",
            (
                f"{describe} constraints/gcp.resourceLocations {where}",
                f"{describe} constraints/cloudkms.allowedProtectionLevels {where}",
                new_primary(name),
            ),
            since=due,
        )


def _rotate(snapshot: KeySnapshot, name: KeyName) -> str:
    first = snapshot.now + timedelta(days=1)
    return on_key(
        name, "update", f"--rotation-period=90d --next-rotation-time={first:%Y-%m-%dT%H:%M:%SZ}"
    )


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
    """A genuine NOT_FOUND; a refused read proves nothing."""
    name = facts.request.key_name
    command = f"gcloud kms keys list {key_flags(name)} (a deleted name can't be used again: "
    command += "make a key of another name and register it)"
    if facts.key_is_gone:
        return KEY_DELETED.proved(f"Cloud KMS has no {name}", command)
    if isinstance(facts.findings.kms.key, Failed):
        return KEY_DELETED.open(str(facts.findings.kms.key), command)
    return KEY_DELETED.excluded(f"{name} exists")


def other_key_name(facts: DiagnosisFacts) -> Cause:
    """What was registered is not what we look at; it can never be changed, only made anew."""
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
    if project and found == name.replace(f"projects/{project.project_id}", project.name, 1):
        return OTHER_NAME.excluded(f"{read.value.id} names this key by the project's number")
    return OTHER_NAME.proved(f"{read.value.id} names {found or 'no Google Cloud key'}", command)


def external_key_gone(facts: DiagnosisFacts) -> Cause:
    """Somebody deleted Anthropic's record meanwhile."""
    read = facts.external_key
    command = f"run the onboarding of {facts.request.workspace} again: it registers the key"
    if isinstance(read, Failed) and read.status == "404":
        return EXTERNAL_GONE.proved(f"{facts.external_key_id}: {read}", command)
    if isinstance(read, Failed):
        return EXTERNAL_GONE.open(str(read), command)
    return EXTERNAL_GONE.excluded(
        f"{facts.external_key_id} can be read" if read else "nothing is registered yet"
    )


def wrong_purpose(facts: DiagnosisFacts) -> Cause:
    """Anthropic needs symmetric encryption and decryption; neither can be changed."""
    key, command = facts.key, _another_key_command(facts)
    if key is None:
        return without_key(facts, WRONG_PURPOSE, command)
    found = f"{key.purpose}, {key.algorithm}"
    if (key.purpose, key.algorithm) == ("ENCRYPT_DECRYPT", SYMMETRIC):
        return WRONG_PURPOSE.excluded(found)
    return WRONG_PURPOSE.proved(found, command)


def location_cause(facts: DiagnosisFacts) -> Cause:
    """`us`, `global`, `nam4` and the rest of the world are not supported."""
    location = facts.request.key_name.location
    if is_us_single_region(location):
        return WRONG_LOCATION.excluded(f"{location} is one US region")
    regions = ", ".join(RECOMMENDED_REGIONS)
    return WRONG_LOCATION.proved(
        f"{location} is not one US region", f"make a key in one of {regions}; none can be moved"
    )


def justifications(facts: DiagnosisFacts) -> Cause:
    """An empty policy refuses everybody; one without customer-initiated access is suspicious."""
    key = facts.key
    command = on_key(
        facts.request.key_name, "update", "--allowed-access-reasons=customer-initiated-access"
    )
    if key is None:
        return without_key(facts, JUSTIFICATIONS_DENY, command)
    allowed = key.justifications_policy
    if allowed is None:
        return JUSTIFICATIONS_DENY.excluded("the key has no such policy")
    if not allowed:
        return JUSTIFICATIONS_DENY.proved("the key's policy allows no reason at all", command)
    found = f"allowed: {', '.join(allowed)}"
    if CUSTOMER_INITIATED in allowed:
        return JUSTIFICATIONS_DENY.excluded(found)
    return JUSTIFICATIONS_DENY.open(f"{found}; {CUSTOMER_INITIATED} is not", command)


def external_key_manager(facts: DiagnosisFacts) -> Cause:
    """An external key manager may be down while everything in Cloud KMS looks well."""
    key = facts.key
    command = "check the external key manager's own health, or take a key made in Cloud KMS"
    if key is None:
        return without_key(facts, EXTERNAL_KEY_MANAGER, command)
    if key.protection_level.startswith("EXTERNAL") or key.crypto_key_backend:
        where = key.crypto_key_backend or key.protection_level
        return EXTERNAL_KEY_MANAGER.open(f"the key's material lies in {where}", command)
    return EXTERNAL_KEY_MANAGER.excluded(f"{key.protection_level}, made in Cloud KMS")


def primary_rule(known: KnownCause, states: tuple[str, ...]) -> CauseRule:
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
        return known.proved(why, version_fix(facts.request, key.primary.id, key.primary.state))

    return rule


def _primary_cause(known_id: str, title: str, *states: str) -> tuple[KnownCause, CauseRule]:
    known = KnownCause(known_id, title, KEY_READ)
    return known, primary_rule(known, states)


PRIMARY_CAUSES: Final = (
    _primary_cause("primary_disabled", "The primary version is disabled", "DISABLED"),
    _primary_cause(
        "primary_destroy_scheduled",
        "The primary version is scheduled for destruction",
        "DESTROY_SCHEDULED",
    ),
    _primary_cause("primary_destroyed", "The primary version is destroyed", "DESTROYED"),
    _primary_cause(
        "primary_pending",
        "The primary version is still being made",
        "PENDING_GENERATION",
        "PENDING_IMPORT",
    ),
    _primary_cause(
        "primary_failed",
        "The primary version could not be made",
        "GENERATION_FAILED",
        "IMPORT_FAILED",
        "PENDING_EXTERNAL_DESTRUCTION",
        "EXTERNAL_DESTRUCTION_FAILED",
    ),
    _primary_cause("primary_missing", "The key has no primary version"),
)


def without_key(facts: DiagnosisFacts, known: KnownCause, command: str) -> Cause:
    """The key is gone (so this is not the cause), or we may not read it (so nobody knows)."""
    if facts.key_is_gone:
        return known.excluded("there is no key")
    return known.open(f"the key could not be read: {facts.findings.kms.key}", command)


def _another_key_command(facts: DiagnosisFacts) -> str:
    name = facts.request.key_name
    return (
        f"gcloud kms keys create NEW_NAME {key_flags(name)} --purpose=encryption "
        f"--protection-level={facts.request.protection_level.lower()}, and onboard that one"
    )


PREFIX: Final = "anthropic-org-"
READS: Final = "GetCryptoKey, organization.me"

MISSING: Final = KnownCause("label_missing", "The organization label is missing", READS)
OTHER: Final = KnownCause("label_other_organization", "The label is another organization's", READS)
SPELLING: Final = KnownCause(
    "label_spelling", "The label is not in lower case, or its value is not `true`", READS
)


def label_missing_cause(facts: DiagnosisFacts) -> Cause:
    """No label of any organization."""
    return _judge(facts, MISSING, lambda labels, _: not _organizations(labels))


def label_other_organization(facts: DiagnosisFacts) -> Cause:
    """Labels of other organizations only."""
    return _judge(
        facts,
        OTHER,
        lambda labels, ours: bool(_organizations(labels)) and not _spelled_otherwise(labels, ours),
    )


def label_spelling(facts: DiagnosisFacts) -> Cause:
    """Ours, but in another spelling."""
    return _judge(facts, SPELLING, _spelled_otherwise)


def _judge(
    facts: DiagnosisFacts, known: KnownCause, proves: Callable[[Mapping[str, str], str], bool]
) -> Cause:
    key, organization = facts.key, facts.organization_id
    if organization is None:
        return known.open("the organization's UUID could not be read", "try again later")
    label, value = organization_label(organization)
    command = on_key(facts.request.key_name, "update", f"--update-labels={label}={value}")
    if key is None:
        return without_key(facts, known, command)
    if key.labels.get(label) == value:
        return known.excluded(f"the key has {label}={value}")
    found = ", ".join(f"{name}={one}" for name, one in sorted(key.labels.items())) or "none"
    why = f"the key's labels: {found}; needed: {label}={value}"
    return known.proved(why, command) if proves(key.labels, label) else known.excluded(why)


def _organizations(labels: Mapping[str, str]) -> list[str]:
    return [name for name in labels if name.casefold().startswith(PREFIX)]


def _spelled_otherwise(labels: Mapping[str, str], ours: str) -> bool:
    return ours in {name.casefold() for name in labels}
