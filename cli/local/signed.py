"""A rehearsal with signatures: an approver with a key of their own, and the gateway as a process.

    python -m cli.local.signed FOLDER UPSTREAM

runs the gateway. Production reads approvers only from root's directory at a fixed path. A rehearsal
is not run by root, so its two readers of signers get another directory: the gateway here, and the
onboarding flow in `cli.local._signed_flow`. Production runs neither of the two modules.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from cli.local.processes import Child, start_module, wait_for
from cmek.signatures.signers import FileFacts, Signers, facts_of, find_signers
from cmek.signatures.statement import NAMESPACE
from cmek.signatures.verification import PROGRAM

APPROVER: Final = "approver@example.com"
VARIABLE: Final = "CMEK_REHEARSAL"
"""The environment variable with the folder, for the runs of the rehearsal's own worker."""
FLOW: Final = ("flows.onboard:", "cli.local._signed_flow:")
"""The onboarding flow's module in `prefect.yaml`, and the module that replaces it here."""
_START_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class RehearsalSigners:
    """A folder with the approver's key and the directory in which it is enrolled."""

    folder: Path

    @property
    def key(self) -> Path:
        """The approver's private key."""
        return self.folder / "approver_key"

    def enrol(self) -> None:
        """Make the key, and enrol it.

        Raises:
            subprocess.CalledProcessError: OpenSSH could not make the key.
            OSError: OpenSSH's client is not installed.
        """
        signers = self.folder / "cmek"
        signers.mkdir(mode=0o700, parents=True)
        command = ["-q", "-t", "ed25519", "-N", "", "-C", "rehearsal", "-f", str(self.key)]
        subprocess.run([PROGRAM, *command], check=True)
        kind, public, *_ = self.key.with_suffix(".pub").read_text(encoding="utf-8").split()
        line = f'{APPROVER} namespaces="{NAMESPACE}" {kind} {public}\n'
        (signers / "allowed_signers").write_text(line, encoding="utf-8")

    def find(self) -> Signers | None:
        """The enrolled approver; the files may belong to the current user instead of root."""
        return find_signers(self.folder / "cmek", _as_if_of_root)


def _as_if_of_root(path: Path) -> FileFacts:
    return replace(facts_of(path), owner=0, mode=facts_of(path).mode & ~0o022, writable=False)


def start_gateway(
    folder: Path, home: Path, environment: Mapping[str, str], upstream: str, admin_key: str
) -> tuple[Child, str]:
    """Start the gateway in front of the sandbox; its process and its base URL.

    Raises:
        StackError: It did not start; shows its log.
    """
    credential = folder / "admin_key"
    credential.touch(mode=0o600)  # before the content, so that nobody else can ever read it
    credential.write_text(admin_key, encoding="utf-8")
    command = ["cli.local.signed", str(folder), upstream]
    child = start_module("gateway", command, home, environment, log="gateway.log")

    def ready() -> str | None:
        for line in child.log.read_text(errors="replace", encoding="utf-8").splitlines(
            keepends=True
        ):
            if line.startswith('{"gateway"') and line.endswith("\n"):
                return str(json.loads(line)["gateway"])
        return None

    return child, wait_for(child, ready, what="ready", seconds=_START_SECONDS)


def main(folder: Path, upstream: str) -> None:
    """Run the gateway until SIGTERM."""
    from gateway.app import serve  # noqa: PLC0415 - only the process itself has a use for it
    from gateway.settings import GatewaySettings  # noqa: PLC0415

    settings = GatewaySettings(
        journal=folder / "journal.sqlite",
        port=0,
        upstream=upstream,
        admin_key_file=folder / "admin_key",
    )
    serve(settings, find=partial(RehearsalSigners.find, RehearsalSigners(folder)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
