"""Keys with one thing wrong each: how it comes about, and what a revalidation must say of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from google.cloud import kms_v1
from google.iam.v1 import policy_pb2

from cmek.anthropic_identity import ENCRYPTER_DECRYPTER, MEMBER, ROLES, VIEWER
from sandbox.iam import write_policy
from sandbox.kms.state import GoogleProject
from sandbox.world import Fault
from tests.support.fleet import RING, Fleet
from tests.support.kms import LOCATION, PROJECT
from tests.support.world import LABEL, VALUE

GRANTS = {role: [MEMBER] for role in ROLES}
ADMIN = "roles/cloudkms.admin"
IN_RING = "--keyring=anthropic-cmek --location=us-east5 --project=acme-kms-prod"


@dataclass(frozen=True)
class Ailment:
    """One condition. `{flags}` in a command stands for the ring's flags, `{key}` for the key."""

    rule: str
    verdict: str
    bring_about: Callable[[Fleet, str], str]
    """Makes the key and its trouble; gives the external key."""
    commands: tuple[str, ...] = ()
    days_left: float | None = None
    days_since: float | None = None
    benchmark: str | None = None
    name: str = ""
    """Of the key, where it is not the rule's."""

    @property
    def key(self) -> str:
        """The key's name."""
        return self.name or self.rule

    def expected_commands(self) -> tuple[str, ...]:
        """With the names filled in."""
        return tuple(
            c.replace("{flags}", IN_RING).replace("{key}", self.key) for c in self.commands
        )


@contextmanager
def days_ago(fleet: Fleet, days: float) -> Iterator[None]:
    """Do something in the past of the sandbox."""
    fleet.world.clock.advance(timedelta(days=-days))
    try:
        yield
    finally:
        fleet.world.clock.advance(timedelta(days=days))


def _plain(trouble: Callable[[Fleet, str], None]) -> Callable[[Fleet, str], str]:
    """A healthy key, and then the trouble."""

    def bring_about(fleet: Fleet, name: str) -> str:
        external_key = fleet.onboard(name)
        trouble(fleet, name)
        return external_key

    return bring_about


def _made(**fields: Any) -> Callable[[Fleet, str], str]:
    """A key that was made wrong."""
    return lambda fleet, name: fleet.onboard(name, **fields)


def _destroyed(days: float, *, rotated: bool) -> Callable[[Fleet, str], str]:
    """A version whose destruction was scheduled so many days ago."""

    def bring_about(fleet: Fleet, name: str) -> str:
        with days_ago(fleet, days):
            external_key = fleet.onboard(name)
            if rotated:
                fleet.rotate(name)
            fleet.destroy(name, 1)
        return external_key

    return bring_about


def _pending(fleet: Fleet, name: str) -> str:
    fleet.world.switches.initial_version_pending_seconds = 3600
    try:
        return fleet.onboard(name)
    finally:
        fleet.world.switches.initial_version_pending_seconds = 0


def _old_disabled(fleet: Fleet, name: str) -> None:
    fleet.rotate(name)
    fleet.set_state(name, 1, "DISABLED")


def _in_own_ring(
    bindings: dict[str, list[str]], on_ring: dict[str, list[str]]
) -> Callable[[Fleet, str], str]:
    def bring_about(fleet: Fleet, name: str) -> str:
        ring = f"{LOCATION}/keyRings/{name}"
        fleet.make_ring(ring)
        external_key = fleet.onboard(name, ring=ring)
        fleet.set_policy(f"{ring}/cryptoKeys/{name}", bindings)
        fleet.set_policy(ring, on_ring)
        return external_key

    return bring_about


def _policy(bindings: dict[str, list[str]]) -> Callable[[Fleet, str], str]:
    return _plain(lambda fleet, name: fleet.set_policy(fleet.key(name), bindings))


def _conditional(fleet: Fleet, name: str) -> None:
    fleet.set_policy(fleet.key(name), GRANTS, 'request.time < timestamp("2030-01-01T00:00:00Z")')


def _overdue(fleet: Fleet, name: str) -> str:
    with days_ago(fleet, 92):
        external_key = fleet.onboard(name)
    # made after the key, it stops the rotation and nothing else
    fleet.world.kms.constraints.allowed_protection_levels = ["SOFTWARE"]
    return external_key


def _in_other_project(fleet: Fleet, name: str) -> str:
    """A healthy key in a project of its own, named after it."""
    projects = fleet.world.kms.projects
    projects[name] = GoogleProject(name, str(200000000000 + len(projects)))
    ring = f"projects/{name}/locations/us-east5/keyRings/ring"
    fleet.make_ring(ring)
    return fleet.onboard(name, ring=ring)


def _granted_above(fleet: Fleet, name: str) -> str:
    external_key = _in_other_project(fleet, name)
    policy = policy_pb2.Policy(version=3)
    policy.bindings.add(role=ADMIN, members=[MEMBER])
    write_policy(fleet.world, f"projects/{name}", policy, fleet.world.kms.projects[name].number)
    return external_key


def _closed_project(fleet: Fleet, name: str) -> str:
    call = "cloudresourcemanager.projects.getIamPolicy"
    fleet.world.faults.add(Fault(call=call, resource=f"*{name}*", status=403, times=9))
    return _in_other_project(fleet, name)


def _multi_region(fleet: Fleet, name: str) -> str:
    ring = f"{PROJECT}/locations/us/keyRings/anthropic-cmek"
    fleet.make_ring(ring)
    return fleet.onboard(name, ring=ring)


def _signing(fleet: Fleet, name: str) -> str:
    fleet.make_key(
        name,
        purpose="ASYMMETRIC_SIGN",
        version_template={"algorithm": "EC_SIGN_P256_SHA256", "protection_level": "HSM"},
        rotation_period=None,
        next_rotation_time=None,
    )
    fleet.set_policy(fleet.key(name), GRANTS)
    return fleet.register(name, fleet.key(name))


def _mixed(fleet: Fleet, name: str) -> None:
    fleet.world.kms.versions[fleet.key(name)][1].protection_level = kms_v1.ProtectionLevel(1)


_ENABLE = "gcloud kms keys versions enable 1 --key={key} {flags}"
_RESTORE = "gcloud kms keys versions restore 1 --key={key} {flags}"
_NEW_PRIMARY = "gcloud kms keys versions create --primary --key={key} {flags}"
_GRANT = (
    "gcloud kms keys add-iam-policy-binding {key} {flags} --member=" + MEMBER + " --role=%s "
    "--condition=None"
)
_REVOKE = "gcloud kms keys remove-iam-policy-binding {key} {flags} --member=%s --role=%s --all"

AILMENTS = (
    Ailment(
        "key-not-found",
        "broken",
        _plain(lambda fleet, name: fleet.delete(name)),
        ("gcloud projects undelete acme-kms-prod",),
    ),
    Ailment(
        "primary-disabled",
        "broken",
        _plain(lambda fleet, name: fleet.set_state(name, 1, "DISABLED")),
        (_ENABLE,),
    ),
    Ailment(
        "primary-destroy-scheduled",
        "broken",
        _destroyed(20, rotated=False),
        (_RESTORE, _ENABLE),
        days_left=10,
        days_since=20,
    ),
    Ailment("primary-unusable", "broken", _destroyed(40, rotated=False), (_NEW_PRIMARY,)),
    Ailment(
        "primary-missing", "broken", _made(skip_initial_version_creation=True), (_NEW_PRIMARY,)
    ),
    Ailment("primary-pending", "unknown", _pending),
    Ailment("old-version-disabled", "broken", _plain(_old_disabled), (_ENABLE,)),
    Ailment(
        "old-version-destroy-scheduled",
        "broken",
        _destroyed(29, rotated=True),
        (_RESTORE, _ENABLE),
        days_left=1,
        days_since=29,
    ),
    Ailment(
        "old-version-destroyed",
        "broken",
        _destroyed(40, rotated=True),
        (
            (
                'gcloud logging read \'protoPayload.methodName="DestroyCryptoKeyVersion" AND '
                f'protoPayload.resourceName="{RING}/cryptoKeys/{{key}}/cryptoKeyVersions/1"\' '
                "--project=acme-kms-prod"
            ),
        ),
        days_since=10,
    ),
    Ailment(
        "organization-label-missing",
        "broken",
        _plain(lambda fleet, name: fleet.update(name, labels={"team": "search"})),
        (f"gcloud kms keys update {{key}} {{flags}} --update-labels={LABEL}={VALUE}",),
    ),
    Ailment(
        "justifications-deny",
        "broken",
        _plain(lambda fleet, name: fleet.update(name, key_access_justifications_policy={})),
        (
            (
                "gcloud kms keys update {key} {flags} "
                "--allowed-access-reasons=customer-initiated-access"
            ),
        ),
    ),
    Ailment(
        "justifications-narrow",
        "broken",
        _made(
            key_access_justifications_policy={
                "allowed_access_reasons": ["GOOGLE_INITIATED_SYSTEM_OPERATION"]
            }
        ),
        (
            (
                "gcloud kms keys update {key} {flags} --allowed-access-reasons="
                "google-initiated-system-operation,customer-initiated-access"
            ),
        ),
    ),
    Ailment(
        "grant-missing",
        "broken",
        _policy({VIEWER: [MEMBER]}),
        (_GRANT % ENCRYPTER_DECRYPTER,),
        name="no-encrypter",
    ),
    Ailment(
        "grant-missing",
        "broken",
        _policy({ENCRYPTER_DECRYPTER: [MEMBER]}),
        (_GRANT % VIEWER,),
        name="no-viewer",
    ),
    Ailment("grant-conditional", "at_risk", _plain(_conditional), (_GRANT % ENCRYPTER_DECRYPTER,)),
    Ailment(
        "grant-inherited",
        "at_risk",
        _in_own_ring({}, GRANTS),
        (
            "gcloud kms keys add-iam-policy-binding grant-inherited --keyring=grant-inherited "
            "--location=us-east5 --project=acme-kms-prod --member=" + MEMBER + " "
            f"--role={ENCRYPTER_DECRYPTER} --condition=None",
        ),
    ),
    Ailment(
        "kms-public-key",
        "at_risk",
        _policy(GRANTS | {"roles/cloudkms.publicKeyViewer": ["allUsers"]}),
        (_REVOKE % ("allUsers", "roles/cloudkms.publicKeyViewer"),),
        benchmark="CIS 1.9, KMS_PUBLIC_KEY",
    ),
    Ailment(
        "foreign-decrypter",
        "at_risk",
        _policy(GRANTS | {"roles/cloudkms.cryptoKeyDecrypter": ["user:eve@example.com"]}),
        (_REVOKE % ("user:eve@example.com", "roles/cloudkms.cryptoKeyDecrypter"),),
    ),
    Ailment(
        "broader-grant",
        "at_risk",
        _policy(GRANTS | {ADMIN: [MEMBER]}),
        (_REVOKE % (MEMBER, ADMIN),),
    ),
    Ailment(
        "broader-grant",
        "at_risk",
        _granted_above,
        (
            (
                "gcloud projects remove-iam-policy-binding granted-above "
                f"--member={MEMBER} --role={ADMIN} --all"
            ),
        ),
        name="granted-above",
    ),
    Ailment(
        "kms-role-separation",
        "at_risk",
        _policy(
            GRANTS
            | {
                ADMIN: ["user:ada@example.com"],
                "roles/cloudkms.cryptoKeyEncrypter": ["user:ada@example.com"],
            }
        ),
        (_REVOKE % ("user:ada@example.com", ADMIN),),
        benchmark="CIS 1.11, KMS_ROLE_SEPARATION",
    ),
    Ailment(
        "kms-key-not-rotated-off",
        "at_risk",
        _made(rotation_period=None, next_rotation_time=None),
        ("gcloud kms keys update {key} {flags} --rotation-period=90d --next-rotation-time=",),
        benchmark="CIS 1.10, KMS_KEY_NOT_ROTATED",
    ),
    Ailment(
        "kms-key-not-rotated-slow",
        "at_risk",
        _made(rotation_period=timedelta(days=200)),
        ("gcloud kms keys update {key} {flags} --rotation-period=90d --next-rotation-time=",),
        benchmark="CIS 1.10, KMS_KEY_NOT_ROTATED",
    ),
    Ailment(
        "destroy-delay-short",
        "at_risk",
        _made(destroy_scheduled_duration=timedelta(days=1)),
        (
            (
                "gcloud resource-manager org-policies enable-enforce "
                "constraints/cloudkms.disableBeforeDestroy --project=acme-kms-prod"
            ),
        ),
    ),
    Ailment("protection-mixed", "at_risk", _plain(_mixed)),
    Ailment("project-policy-unread", "healthy", _closed_project),
    Ailment(
        "software-protection",
        "healthy",
        _made(
            version_template={
                "protection_level": "SOFTWARE",
                "algorithm": "GOOGLE_SYMMETRIC_ENCRYPTION",
            }
        ),
    ),
    Ailment("wrong-location", "broken", _multi_region),
    Ailment("wrong-kind", "broken", _signing),
    Ailment(
        "name-malformed",
        "broken",
        lambda fleet, name: fleet.register(name, f"{RING}/cryptoKeys/x/cryptoKeyVersions/1"),
    ),
    Ailment(
        "kms-key-not-rotated-overdue",
        "at_risk",
        _overdue,
        (
            (
                "gcloud resource-manager org-policies describe constraints/gcp.resourceLocations "
                "--effective --project=acme-kms-prod"
            ),
            (
                "gcloud resource-manager org-policies describe "
                "constraints/cloudkms.allowedProtectionLevels --effective --project=acme-kms-prod"
            ),
            _NEW_PRIMARY,
        ),
        days_since=2,
        benchmark="CIS 1.10, KMS_KEY_NOT_ROTATED",
    ),
)
