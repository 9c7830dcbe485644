"""The real terraform, without a network: only the stand-in provider answers it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

BINARY = shutil.which("terraform")
needs_terraform = pytest.mark.skipif(
    BINARY is None, reason="terraform is not installed; the HCL is only parsed (test_module.py)"
)


@dataclass(slots=True)
class Terraform:
    """Commands in one folder."""

    folder: Path
    reattach: str = "{}"

    def run(self, *arguments: str, fails: bool = False) -> str:
        """Run a command that must succeed, or must fail; returns all of its output."""
        assert BINARY is not None
        done = subprocess.run(
            [BINARY, *arguments],
            cwd=self.folder,
            env={
                "PATH": os.defpath,
                "HOME": str(self.folder),
                "CHECKPOINT_DISABLE": "1",
                "TF_IN_AUTOMATION": "1",
                "TF_CLI_ARGS": "-no-color",
                "TF_REATTACH_PROVIDERS": self.reattach,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        said = done.stdout + done.stderr
        assert (done.returncode != 0) is fails, said
        return said

    def plan(self) -> dict[str, list[str]]:
        """What the plan would do: address → actions, without unchanged resources."""
        said = self.run("plan", "-input=false", "-out=plan")
        assert "Warning" not in said, said
        shown: dict[str, Any] = json.loads(self.run("show", "-json", "plan"))
        changes = {one["address"]: one["change"] for one in shown["resource_changes"]}
        return {
            address: [*change["actions"], *(["import"] if "importing" in change else [])]
            for address, change in changes.items()
            if change["actions"] != ["no-op"] or "importing" in change
        }

    def planned(self, address: str) -> dict[str, Any]:
        """The values of a resource after the last plan."""
        shown: dict[str, Any] = json.loads(self.run("show", "-json", "plan"))
        resources = shown["planned_values"]["root_module"]["resources"]
        found: dict[str, Any] = next(r["values"] for r in resources if r["address"] == address)
        return found
