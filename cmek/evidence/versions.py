"""Which software did it: the tool and what decides about its calls."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Final

PACKAGES: Final = (
    "cmek",
    "prefect",
    "prefect-gcp",
    "google-cloud-kms",
    "google-api-core",
    "google-auth",
    "grpcio",
    "httpx",
    "pydantic",
    "stamina",
)


def software_versions() -> dict[str, str]:
    """Versions of Python and of the packages above; `absent` for one that is not installed."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
