"""Which workspaces are onboarded automatically, and with which key; pure."""
