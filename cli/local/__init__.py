"""The local stack and the rehearsal."""
