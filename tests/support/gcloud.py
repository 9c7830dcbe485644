"""Check every printed gcloud command with gcloud's own parser, all in one process."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import pytest

from sandbox.server import Sandbox

needs_gcloud: Final = pytest.mark.skipif(
    shutil.which("gcloud") is None, reason="gcloud is not installed"
)

_SERVED: Final = ("CLOUDKMS", "CLOUDRESOURCEMANAGER", "SERVICEUSAGE", "ORGPOLICY", "CLOUDBILLING")

_PARSER: Final = """
import json, shlex, sys
sys.path[:0] = [sys.argv[1] + "/lib", sys.argv[1] + "/lib/third_party"]
from googlecloudsdk import gcloud_main
parser = gcloud_main.CreateCLI([])._CLI__parser
for line in json.load(sys.stdin):
    try:
        parser.parse_args(shlex.split(line)[1:])
    except BaseException as error:
        if type(error).__name__ != "FileLoadError":  # the reader has that file
            print(line)
"""
_ENDS: Final = (" && ", " |", "`", "\\n", "\n", ")", ";", ", ", ": ", ". ", " (")
_ELSEWHERE: Final = re.compile(
    "auth|config|info|organizations|projects|billing|access-context-manager|resource-manager|"
    "policy-intelligence|org-policies"
)
"""Groups whose commands need no `--project`: they name project, folder or organization."""


def gcloud_environment(sandbox: Sandbox, home: Path) -> dict[str, str]:
    """The environment of a gcloud that calls only the sandbox and has its own home."""
    return os.environ | {
        **{f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{one}": f"{sandbox.http}/" for one in _SERVED},
        "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "True",
        "CLOUDSDK_CONFIG": str(home),
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "1",
        "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "1",
    }


def commands_in(text: str) -> Iterator[str]:
    """Each gcloud command in a text, without the prose around it."""
    start = text.find("gcloud ")
    while start >= 0:
        command = _until_its_end(text[start:].replace("\\\n", " "))
        yield re.sub(r"\s*#\s*", " ", command).replace("PROJECT", "acme-kms-prod")
        start = text.find("gcloud ", start + len("gcloud "))


def _until_its_end(text: str) -> str:
    quote = ""
    for at, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif any(text.startswith(end, at) for end in _ENDS):
            return text[:at].rstrip(".,")
    return text.rstrip(".,")


def refused(commands: Iterable[str]) -> list[str]:
    """The commands that gcloud's parser refuses, or that would use the configured project."""
    lines = sorted(set(commands))
    root = Path(shutil.which("gcloud") or "").resolve().parents[1]
    python = root / "platform/bundledpythonunix/bin/python3"
    done = subprocess.run(
        [str(python if python.exists() else "python3"), "-S", "-c", _PARSER, str(root)],
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    elsewhere = [line for line in lines if not _names_its_project(line)]
    return list(dict.fromkeys([*done.stdout.splitlines(), *elsewhere]))


def _names_its_project(line: str) -> bool:
    words = shlex.split(line)
    return (
        _ELSEWHERE.fullmatch(words[1]) is not None
        or any(word.startswith(("--project=", "--organization=")) for word in words)
        or "--project" in words
    )
