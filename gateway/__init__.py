"""The Admin API gateway: it holds the credential, and attaches only what approvers have signed."""
