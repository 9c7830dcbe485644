"""Signed approvals: OpenSSH signatures over a canonical statement."""
