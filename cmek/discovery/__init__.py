"""Which workspaces get an onboarding by themselves, and with which key; pure."""
