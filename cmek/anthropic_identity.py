"""Anthropic's published Google identity and the roles that it needs.

Constants on purpose: the guide warns never to trust an identifier received in any other way, so
no parameter, block or environment variable can name another one.

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
"""Both are bound on the crypto key itself, without a condition."""
