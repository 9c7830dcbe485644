"""A local stand-in for Cloud KMS, the Google APIs that the checks read, and the Admin API."""
