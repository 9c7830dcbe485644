"""Clients of Cloud KMS and of the Google APIs that the checks read."""
