"""The files of a Terraform module for any number of keys."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from importlib.resources import files
from pathlib import Path

from pydantic import JsonValue

from cmek.anthropic_identity import ENCRYPTER_DECRYPTER, MEMBER, VIEWER
from cmek.terraform.managed_key import ManagedKey

VARIABLES = "terraform.tfvars.json"
IMPORTS = "imports.tf.json"
FIXED = ("versions.tf", "variables.tf", "main.tf", "options.tf", "outputs.tf")
_GRANTS = {"encrypter_decrypter": ENCRYPTER_DECRYPTER, "viewer": VIEWER}


class FilesDifferError(Exception):
    """Files stand there with other content; the message names them."""


def render_module(keys: Iterable[ManagedKey]) -> dict[str, str]:
    """Text by file name: the fixed files, the keys' values and the import blocks.

    The same keys give the same bytes, in any order.
    """
    ordered = sorted(keys, key=lambda key: key.address)
    fixed = files("cmek.terraform") / "module"
    return {
        **{name: (fixed / name).read_text() for name in FIXED},
        VARIABLES: _json({"keys": {key.address: _values(key) for key in ordered}}),
        IMPORTS: _json({"import": list(_imports(ordered))}),
    }


def write_module(module: dict[str, str], folder: Path, *, replace: bool = False) -> None:
    """Write the files, none of them when one with other content is in the way.

    Raises:
        FilesDifferError: And `replace` is off.
    """
    folder.mkdir(parents=True, exist_ok=True)
    differing = [
        name
        for name, text in module.items()
        if (folder / name).exists() and (folder / name).read_text() != text
    ]
    if differing and not replace:
        raise FilesDifferError(
            f"{folder} has other versions of {', '.join(differing)}: look at the difference, then "
            "write to an empty folder and compare, or replace them"
        )
    for name, text in module.items():
        (folder / name).write_text(text)


def seconds(duration: timedelta) -> str:
    """As Cloud KMS writes a duration: `7776000s`, with a fraction only where there is one."""
    whole, fraction = divmod(duration // timedelta(microseconds=1), 1_000_000)
    return f"{whole}.{fraction:06}".rstrip("0") + "s" if fraction else f"{whole}s"


def _json(value: JsonValue) -> str:
    # Terraform takes every string in a variables file as it is, and one in a configuration file
    # for a template. What goes into the latter are names with neither `${` nor `%{` (KeyName).
    return json.dumps(value, indent=2) + "\n"


def _values(key: ManagedKey) -> dict[str, JsonValue]:
    name = key.key_name
    values: dict[str, JsonValue] = {
        "project": name.project,
        "location": name.location,
        "key_ring": name.key_ring,
        "name": name.crypto_key,
        "protection_level": key.protection_level,
        "destroy_scheduled_duration": seconds(key.destroy_scheduled_duration),
        "labels": dict(key.labels),
        "workspaces": list(key.workspaces),
    }
    if key.rotation_period is not None:
        values["rotation_period"] = seconds(key.rotation_period)
    return values


def _imports(keys: Sequence[ManagedKey]) -> Iterator[JsonValue]:
    rings = {key.ring_address: key.key_name.key_ring_name for key in keys}
    for address, name in rings.items():
        yield _import("google_kms_key_ring.cmek", address, name)
    for key in keys:
        yield _import("google_kms_crypto_key.cmek", key.address, key.name)
        for resource, role in _GRANTS.items():
            # what is not there can't be imported; the plan then shows it as to be added
            if role in key.granted_roles:
                yield _import(
                    f"google_kms_crypto_key_iam_member.{resource}",
                    key.address,
                    f"{key.name} {role} {MEMBER}",
                )


def _import(resource: str, address: str, resource_id: str) -> JsonValue:
    return {"to": f'{resource}["{address}"]', "id": resource_id}
