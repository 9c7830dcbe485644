"""The Cloud KMS API of the sandbox."""
