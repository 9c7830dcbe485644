"""Approvals that prove who gave them: OpenSSH signatures over a canonical statement."""
