"""One live key, as Terraform has to describe it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from cmek.kms_models import SYMMETRIC, CryptoKey
from cmek.models import FrozenModel
from cmek.names import KeyName


class NotManageableError(Exception):
    """A key that the module can't describe; the message says which field and what to do."""


class ManagedKey(FrozenModel):
    """Everything as read: a value that only was asked for would make Terraform replace the key."""

    name: str
    protection_level: str
    rotation_period: timedelta | None
    destroy_scheduled_duration: timedelta
    labels: dict[str, str]
    granted_roles: frozenset[str]
    """Of Anthropic's service account on the key itself, without a condition."""
    workspaces: tuple[str, ...]

    @property
    def key_name(self) -> KeyName:
        """The name in its parts."""
        return KeyName.parse(self.name)

    @property
    def ring_address(self) -> str:
        """Under what the key ring stands in the state."""
        key = self.key_name
        return f"{key.project}/{key.location}/{key.key_ring}"

    @property
    def address(self) -> str:
        """Under what the key stands in the state, the same in every module that has it."""
        return f"{self.ring_address}/{self.key_name.crypto_key}"

    @classmethod
    def of(
        cls, key: CryptoKey, granted_roles: Iterable[str], workspaces: Iterable[str]
    ) -> ManagedKey:
        """From the live key.

        Raises:
            NotManageableError: Not a symmetric key that Cloud KMS made itself.
        """
        found = {
            "purpose": (key.purpose, "ENCRYPT_DECRYPT"),
            "algorithm": (key.algorithm, SYMMETRIC),
            "import only": (key.import_only, False),
            "external backend": (key.crypto_key_backend, None),
        }
        for field, (value, needed) in found.items():
            if value != needed:
                raise NotManageableError(
                    f"{key.name}: {field} is {value}, the module is for {needed}: Anthropic can't "
                    "use this key, so look at why a workspace has it"
                )
        if key.destroy_scheduled_duration is None:
            raise NotManageableError(f"{key.name}: Cloud KMS gave no destroy_scheduled_duration")
        return cls(
            name=key.name,
            protection_level=key.protection_level,
            rotation_period=key.rotation_period,
            destroy_scheduled_duration=key.destroy_scheduled_duration,
            labels=dict(sorted(key.labels.items())),
            granted_roles=frozenset(granted_roles),
            workspaces=tuple(sorted(workspaces)),
        )
