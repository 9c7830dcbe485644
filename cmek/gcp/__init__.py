"""Clients for Cloud KMS and for the Google APIs that the checks read."""
