"""The onboarding flow, with the approvers of a rehearsal. Its deployment names this file.

Whoever may choose a deployment's file can run code as the worker anyway. The gateway, which has
its own approvers, is what protects against them.
"""

from __future__ import annotations

import os
from pathlib import Path

import tasks.reads
from cli.local.signed import VARIABLE, RehearsalSigners
from flows.onboard import onboard_workspace

# production reads approvers from a fixed path only, so there is no setting that could name these
vars(tasks.reads)["find_signers"] = RehearsalSigners(Path(os.environ[VARIABLE])).find

__all__ = ("onboard_workspace",)
