"""Anthropic's published Google service account and the roles that it needs.

Constants on purpose: the guide warns against an identifier that was received in any other way, so
no parameter, block or environment variable can name another account.

Source: guide step 3; https://platform.claude.com/docs/en/manage-claude/cmek-google-cloud-kms
"""

from typing import Final

SERVICE_ACCOUNT: Final = (
    "anthropic-cmek-client-us@gcp-anthropic-cmek-clients.iam.gserviceaccount.com"
)
MEMBER: Final = f"serviceAccount:{SERVICE_ACCOUNT}"

ENCRYPTER_DECRYPTER: Final = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
VIEWER: Final = "roles/cloudkms.viewer"
ROLES: Final = (ENCRYPTER_DECRYPTER, VIEWER)
"""Both are granted on the crypto key itself, without a condition."""
