"""The onboarding flow, with the approvers of a rehearsal. Its deployment names this file.

Who may choose a deployment's file runs code as the worker anyway; what holds against them is the
gateway, which has approvers of its own.
"""

from __future__ import annotations

import os
from pathlib import Path

import tasks.reads
from cli.local.signed import VARIABLE, RehearsalSigners
from flows.onboard import onboard_workspace

vars(tasks.reads)["find_signers"] = RehearsalSigners(Path(os.environ[VARIABLE])).find

__all__ = ("onboard_workspace",)
