"""Cloud KMS resources as immutable values that JSON can hold; enums as their canonical names.

Source: https://docs.cloud.google.com/kms/docs/reference/rest
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field

from cmek.models import FrozenModel

if TYPE_CHECKING:  # its import takes half a second, and `cmek status` does not need it
    from google.cloud import kms_v1

MAX_LABELS: Final = 64
SYMMETRIC: Final = "GOOGLE_SYMMETRIC_ENCRYPTION"
"""The algorithm of purpose ENCRYPT_DECRYPT where Cloud KMS has the key material."""
EXTERNAL_SYMMETRIC: Final = "EXTERNAL_SYMMETRIC_ENCRYPTION"
"""The same where an external key manager has it (Cloud EKM)."""
CUSTOMER_INITIATED: Final = "CUSTOMER_INITIATED_ACCESS"
"""The Key Access Justifications reason that covers Anthropic's calls."""


class Location(FrozenModel):
    """A Cloud KMS location of a project."""

    name: str
    hsm_available: bool


class KeyRing(FrozenModel):
    """A key ring; it can be neither moved nor renamed."""

    name: str


class KeyVersion(FrozenModel):
    """One version of a crypto key; it is needed as long as data encrypted with it exists."""

    name: str
    state: str
    protection_level: str
    algorithm: str
    create_time: datetime | None = None
    generate_time: datetime | None = None
    destroy_time: datetime | None = Field(
        default=None, description="when a scheduled destruction becomes final"
    )
    destroy_event_time: datetime | None = None
    import_job: str | None = None
    import_time: datetime | None = None

    @property
    def is_imported(self) -> bool:
        """Whether its key material was imported, so that copies may exist outside Cloud KMS."""
        return self.import_job is not None or self.import_time is not None

    @property
    def id(self) -> str:
        """The version's number, which ends its name."""
        return self.name.rpartition("/")[2]

    @classmethod
    def of(cls, version: kms_v1.CryptoKeyVersion) -> KeyVersion:
        """From the client library's message."""
        return cls(
            name=version.name,
            state=_enum(version.state),
            protection_level=_enum(version.protection_level),
            algorithm=_enum(version.algorithm),
            create_time=_time(version.create_time),
            generate_time=_time(version.generate_time),
            destroy_time=_time(version.destroy_time),
            destroy_event_time=_time(version.destroy_event_time),
            import_job=version.import_job or None,
            import_time=_time(version.import_time),
        )


class CryptoKey(FrozenModel):
    """A crypto key. Purpose, protection level and import-only can never be changed."""

    name: str
    purpose: str
    algorithm: str
    """Of new versions, like `protection_level`."""
    protection_level: str
    import_only: bool = False
    labels: dict[str, str] = Field(default_factory=dict)
    primary: KeyVersion | None = None
    rotation_period: timedelta | None = None
    next_rotation_time: datetime | None = None
    destroy_scheduled_duration: timedelta | None = None
    justifications_policy: tuple[str, ...] | None = None
    """Allowed Key Access Justifications; None: no policy; empty: every use is refused."""
    crypto_key_backend: str | None = None
    create_time: datetime | None = None

    @property
    def is_pending(self) -> bool:
        """Whether Cloud KMS is still generating the primary version."""
        return self.primary is not None and self.primary.state == "PENDING_GENERATION"

    @classmethod
    def of(cls, key: kms_v1.CryptoKey) -> CryptoKey:
        """From the client library's message."""
        reasons = tuple(map(_enum, key.key_access_justifications_policy.allowed_access_reasons))
        # an absent policy allows every reason, an empty one none: both read as no reasons
        has_policy = "key_access_justifications_policy" in key
        return cls(
            name=key.name,
            purpose=_enum(key.purpose),
            algorithm=_enum(key.version_template.algorithm),
            protection_level=_enum(key.version_template.protection_level),
            import_only=key.import_only,
            labels=dict(key.labels),
            primary=KeyVersion.of(key.primary) if "primary" in key else None,
            rotation_period=key.rotation_period if "rotation_period" in key else None,
            next_rotation_time=_time(key.next_rotation_time),
            destroy_scheduled_duration=key.destroy_scheduled_duration,
            justifications_policy=reasons if has_policy else None,
            crypto_key_backend=key.crypto_key_backend or None,
            create_time=_time(key.create_time),
        )


class KeySpec(FrozenModel):
    """How a new symmetric key is made (guide step 2)."""

    protection_level: Literal["HSM", "SOFTWARE"]
    rotation_period: timedelta | None = None
    destroy_scheduled_duration: timedelta | None = None
    """Can't be changed later; None: Google's default of 30 days."""
    labels: dict[str, str] = Field(default_factory=dict)

    def message(self) -> kms_v1.CryptoKey:
        """The message for the client library; the first rotation is one period from now."""
        from google.cloud import kms_v1  # noqa: PLC0415

        template = kms_v1.CryptoKeyVersionTemplate(
            algorithm=SYMMETRIC, protection_level=self.protection_level
        )
        key = kms_v1.CryptoKey(
            purpose="ENCRYPT_DECRYPT", version_template=template, labels=self.labels
        )
        if self.rotation_period is not None:
            # Cloud KMS takes a period only together with the next rotation time
            key.rotation_period = self.rotation_period
            key.next_rotation_time = datetime.now(UTC) + self.rotation_period
        if self.destroy_scheduled_duration is not None:
            key.destroy_scheduled_duration = self.destroy_scheduled_duration
        return key


def _enum(value: Any) -> str:  # noqa: ANN401 - an enum, or an int that the library does not know
    return str(getattr(value, "name", value))


def _time(value: datetime | None) -> datetime | None:
    """A plain datetime: the library's subclass has nanoseconds, which JSON would lose."""
    return datetime.fromtimestamp(value.timestamp(), UTC) if value else None
