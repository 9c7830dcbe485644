"""Which Cloud KMS permissions a role carries: the roles that matter here, not Google's whole list.

Source: https://docs.cloud.google.com/iam/docs/roles-permissions/cloudkms
"""

from __future__ import annotations

from typing import Final

_LOCATIONS: Final = {"cloudkms.locations.get", "cloudkms.locations.list"}
_READ: Final = {
    "cloudkms.keyRings.get",
    "cloudkms.keyRings.list",
    "cloudkms.cryptoKeys.get",
    "cloudkms.cryptoKeys.list",
    "cloudkms.cryptoKeyVersions.get",
    "cloudkms.cryptoKeyVersions.list",
} | _LOCATIONS
_WRITE: Final = {
    "cloudkms.keyRings.create",
    "cloudkms.cryptoKeys.create",
    "cloudkms.cryptoKeys.update",
    "cloudkms.cryptoKeyVersions.create",
    "cloudkms.cryptoKeyVersions.update",
    "cloudkms.cryptoKeyVersions.destroy",
    "cloudkms.cryptoKeyVersions.restore",
}
_READ_POLICY: Final = {"cloudkms.keyRings.getIamPolicy", "cloudkms.cryptoKeys.getIamPolicy"}
_WRITE_POLICY: Final = {"cloudkms.keyRings.setIamPolicy", "cloudkms.cryptoKeys.setIamPolicy"}
_ENCRYPT: Final = {"cloudkms.cryptoKeyVersions.useToEncrypt"}
_DECRYPT: Final = {"cloudkms.cryptoKeyVersions.useToDecrypt"}

# The administrator's role has no cryptographic operations: separation of duties.
ROLES: Final[dict[str, frozenset[str]]] = {
    "roles/owner": frozenset(_READ | _WRITE | _READ_POLICY | _WRITE_POLICY | _ENCRYPT | _DECRYPT),
    "roles/editor": frozenset(_READ | _WRITE | _READ_POLICY),
    "roles/viewer": frozenset(_READ | _READ_POLICY),
    "roles/cloudkms.admin": frozenset(_READ | _WRITE | _READ_POLICY | _WRITE_POLICY),
    "roles/cloudkms.viewer": frozenset(_READ),
    "roles/cloudkms.cryptoKeyEncrypter": frozenset(_ENCRYPT | _LOCATIONS),
    "roles/cloudkms.cryptoKeyDecrypter": frozenset(_DECRYPT | _LOCATIONS),
    "roles/cloudkms.cryptoKeyEncrypterDecrypter": frozenset(_ENCRYPT | _DECRYPT | _LOCATIONS),
    "roles/iam.securityReviewer": frozenset(_READ | _READ_POLICY),
    "roles/iam.securityAdmin": frozenset(_READ_POLICY | _WRITE_POLICY),
}
