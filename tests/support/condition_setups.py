"""What a condition is, ways to cause one, and what must be reported about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.cloud import kms_v1

from cmek.anthropic_identity import MEMBER
from sandbox import seed
from tests.support.staging import EXTERNAL_KEY, ORGANIZATION, PROJECT, Stage

Setup = Callable[[Stage], object]
KMS = "cloudkms.googleapis.com"


@dataclass(frozen=True, slots=True)
class ExpectedCheck:
    """What a prerequisite must report."""

    id: str
    status: str
    remedy: str = ""
    """A part of the remedy, with the real names in it."""
    evidence: str = ""
    subject: dict[str, Any] = field(default_factory=dict)
    """Changes to the request."""
    also: frozenset[str] = frozenset()
    """Other checks that do not pass either."""


@dataclass(frozen=True, slots=True)
class ExpectedCause:
    """The cause that the diagnosis of a failed validation (or a refused attach) must rank first."""

    id: str
    command: str
    """A part of the command that fixes it, with the real names in it."""
    verdict: str = "proved"
    failure: dict[str, Any] = field(default_factory=dict)
    """Other known facts about the failure."""
    validation_fails: bool = True
    """Whether the sandbox's own validation fails too."""


@dataclass(frozen=True, slots=True)
class ExpectedHealth:
    """What a revalidation must report."""

    rule: str
    verdict: str
    commands: tuple[str, ...] = ()
    """In this order. After one that ends in `=` comes a time."""
    days_left: float | None = None
    days_since: float | None = None
    benchmark: str | None = None


@dataclass(frozen=True, slots=True)
class Situation:
    """One fault, and what must be reported; None where checks or diagnosis have no rule for it."""

    name: str
    """The fault in plain words."""
    setup: Setup
    check: ExpectedCheck | None = None
    cause: ExpectedCause | None = None

    def bring_about(self, stage: Stage, *, registered: bool = False) -> None:
        """Cause the fault in a healthy project, with or without a registered key."""
        if registered:
            stage.key()
        self.setup(stage)


@dataclass(frozen=True, slots=True)
class KeyCondition(Situation):
    """One fault of a registered key; checks, diagnosis and health all read it."""

    health: ExpectedHealth | None = None
    key: Mapping[str, Any] = field(default_factory=dict)
    """The faulty fields with which the key is created."""
    made_days_ago: float = 0

    def bring_about(self, stage: Stage, *, registered: bool = True) -> None:
        """Create a key, healthy except for its fields, and then cause the fault."""
        with stage.days_ago(self.made_days_ago):
            stage.key(**self.key)
            self.setup(stage)


@dataclass(frozen=True, slots=True)
class Blind:
    """A check that cannot be answered, and what prevents it."""

    check: str
    setup: Setup


def nothing(stage: Stage) -> None:
    """No change."""


def constraint(**changes: Any) -> Setup:
    """Set fields of the organization constraints."""

    def setup(stage: Stage) -> None:
        for name, value in changes.items():
            setattr(stage.world.kms.constraints, name, value)

    return setup


def switch(**changes: Any) -> Setup:
    """Set switches of the sandbox."""

    def setup(stage: Stage) -> None:
        for name, value in changes.items():
            setattr(stage.world.switches, name, value)

    return setup


def google(**changes: Any) -> Setup:
    """Set fields of the Google state."""

    def setup(stage: Stage) -> None:
        for name, value in changes.items():
            setattr(stage.world.google, name, value)

    return setup


def stored(**changes: Any) -> Setup:
    """Set fields of the stored key."""

    def setup(stage: Stage) -> None:
        for name, value in changes.items():
            setattr(stage.stored_key, name, value)

    return setup


def protection(level: str) -> Setup:
    """Set the stored key's protection level, and the algorithm that goes with it."""

    def setup(stage: Stage) -> None:
        template = stage.stored_key.version_template
        template.protection_level = getattr(kms_v1.ProtectionLevel, level)
        if level.startswith("EXTERNAL"):
            algorithms = kms_v1.CryptoKeyVersion.CryptoKeyVersionAlgorithm
            template.algorithm = algorithms(algorithms.EXTERNAL_SYMMETRIC_ENCRYPTION)

    return setup


def workspace(**changes: Any) -> Setup:
    """Set fields of the workspace."""

    def setup(stage: Stage) -> None:
        workspace = stage.world.admin.workspaces[seed.fixed_id("wrkspc", "PaymentsProd")]
        for name, value in changes.items():
            setattr(workspace, name, value)

    return setup


def attached(key_name: str) -> Setup:
    """Attach the workspace to an external key with this key name."""

    def setup(stage: Stage) -> None:
        stage.register(key_name)
        workspace(external_key_id=EXTERNAL_KEY)(stage)

    return setup


def custom_constraint(stage: Stage) -> None:
    """Set one custom constraint on IAM policies."""
    stage.world.google.custom_constraints = [
        {
            "name": f"{ORGANIZATION}/customConstraints/custom.ourMembers",
            "resourceTypes": ["iam.googleapis.com/AllowPolicy"],
            "methodTypes": ["CREATE", "UPDATE"],
            "actionType": "DENY",
            "condition": "resource.bindings.exists(b, true)",
        }
    ]


def both(*setups: Setup) -> Setup:
    """One setup after the other."""

    def setup(stage: Stage) -> None:
        for one in setups:
            one(stage)

    return setup


def refusal(reason: str) -> Setup:
    """Cloud KMS refuses, for this reason, because of the caller's quota project."""

    def setup(stage: Stage) -> None:
        info = {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": reason,
            "domain": "googleapis.com",
            "metadata": {"service": KMS, "consumer": "projects/999999999999"},
        }
        for call in ("GetLocation", "GetKeyRing", "GetCryptoKey"):
            stage.fault(call, "PERMISSION_DENIED", details=[info])

    return setup


def exempted(stage: Stage) -> None:
    """Turn both logs on, and exempt Anthropic's account."""
    stage.audit(PROJECT, ["DATA_READ", "DATA_WRITE"], service="allServices", exempted=MEMBER)


def ingress(*, to: dict[str, Any] | None = None, **source: Any) -> dict[str, Any]:
    """An ingress rule to Cloud KMS from everywhere; `to` replaces what it allows."""
    operations = [{"serviceName": KMS, "methodSelectors": [{"method": "*"}]}]
    return {
        "ingressFrom": {"sources": [{"accessLevel": "*"}]} | source,
        "ingressTo": {"resources": ["*"], "operations": operations} if to is None else to,
    }


ANOTHER_KEY = "projects/acme-kms-prod/locations/us-east5/keyRings/other/cryptoKeys/other"
LOOK_ALIKE = (
    "serviceAccount:anthropic-cmek-client-us@gcp-anthropic-cmek-client.iam.gserviceaccount.com"
)
DELETED = f"deleted:{MEMBER}?uid=100000000000000000001"


def deny(*permissions: str, key: bool = False) -> Setup:
    """Take these permissions from the caller; with `key`, create a key first."""

    def setup(stage: Stage) -> None:
        if key:
            stage.key()
        stage.deny(*permissions)

    return setup
