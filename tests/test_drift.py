"""Vendors change their APIs: names that their newest clients have and nobody has reviewed here.

`tests/golden/vendors.json` holds what was reviewed: the calls that are used, with their
parameters, fields, values and error codes, as in Anthropic's official SDK, Google's discovery
documents and google-cloud-kms. These are pinned in the development lock; after `make lock` with
newer ones this test names what is new. Read the vendor's documentation of it, handle it or decide
not to, then write the file again: `python -m tests.test_drift`.
"""

from __future__ import annotations

import inspect
import json
import re
import typing
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from functools import reduce
from importlib.metadata import version
from operator import getitem
from pathlib import Path
from typing import Any, Final

import pytest
from anthropic import _error_classes
from anthropic.resources.organization import external_keys, organization
from anthropic.resources.organization.workspaces import workspaces
from anthropic.types import organization as types
from anthropic.types import shared
from anthropic.types.beta.organization import webhook_create_params
from google.cloud import kms_v1

from cmek.anthropic.errors import _BY_CODE
from sandbox.google_apis import METHODS
from tests.support.discovery import Discovery, discovery
from tests.support.troubleshooting import DATA_PLANE_ADVICE
from tests.test_names_golden import differences, text

GOLDEN: Final = Path(__file__).parent / "golden" / "vendors.json"
NEW: Final = "the docstring of tests/test_drift.py explains what to do"
CALLS: Final[dict[str, Callable[..., Any]]] = {
    "organization.me": organization.Organization.retrieve,
    **{
        f"external_keys.{name}": getattr(external_keys.ExternalKeys, name)
        for name in ("create", "list", "retrieve", "update", "delete", "validate")
    },
    **{
        f"workspaces.{name}": getattr(workspaces.Workspaces, name)
        for name in ("create", "list", "retrieve", "update", "archive")
    },
}
"""Calls of the Admin API that this project makes or the sandbox serves."""
SANDBOX_ONLY: Final = {"external_keys.update", "external_keys.delete", "workspaces.archive"}
OBJECTS: Final = (
    types.ExternalKey,
    types.ExternalKeyValidateResponse,
    types.Workspace,
    types.DataResidency,
)
KMS_SCHEMAS: Final = ("CryptoKey", "CryptoKeyVersion", "KeyRing", "Location", "Policy")
ENUMS: Final[tuple[type[Enum], ...]] = (
    kms_v1.ProtectionLevel,
    kms_v1.AccessReason,
    kms_v1.CryptoKey.CryptoKeyPurpose,
    kms_v1.CryptoKeyVersion.CryptoKeyVersionState,
)
DATA_PLANE: Final = re.compile(r"cmek_(key|context)_")
"""Codes that a workspace's users get while its key does not work."""


def facts() -> dict[str, Any]:
    """Everything that is compared, vendor by vendor."""
    return {
        "anthropic": _anthropic_facts(),
        "google discovery": {
            "cloudkms methods": sorted(m["id"] for _, _, m in discovery("cloudkms.v1").methods),
            "cloudkms": _schemas(discovery("cloudkms.v1"), KMS_SCHEMAS),
            **_other_apis(),
        },
        "google-cloud-kms": {
            "calls": sorted(
                name
                for name, member in inspect.getmembers(kms_v1.KeyManagementServiceClient)
                if inspect.isfunction(member) and "request" in inspect.signature(member).parameters
            ),
            **{one.__name__: _fields(one) for one in (kms_v1.CryptoKey, kms_v1.CryptoKeyVersion)},
            **{one.__name__: sorted(member.name for member in one) for one in ENUMS},
        },
    }


def _anthropic_facts() -> dict[str, Any]:
    mentioned = re.compile("cmek|external_key|workspace")
    events = typing.get_type_hints(webhook_create_params.WebhookCreateParams)["enabled_events"]
    return {
        "parameters": {
            name: sorted(inspect.signature(one).parameters) for name, one in CALLS.items()
        },
        "errors": {name: sorted(_raised(one)) for name, one in CALLS.items()},
        "errors of any call": sorted(_codes(shared)),
        "errors by their name": sorted(code for code in _all_codes() if mentioned.search(code)),
        "fields": {one.__name__: sorted(one.model_fields) for one in OBJECTS},
        "error types": sorted(typing.get_args(shared.ErrorType)),
        "webhook events": sorted(_literals(events)),
    }


def _all_codes() -> dict[str, type]:
    return {code: one for (_, code), one in _error_classes.ERROR_CLASSES.items() if code}


def _codes(module: Any) -> set[str]:
    classes = {one for _, one in inspect.getmembers(module, inspect.isclass)}
    return {code for code, one in _all_codes().items() if one in classes}


def _raised(call: Callable[..., Any]) -> set[str]:
    """The codes of the classes that the docstring lists under `Raises`."""
    by_class = {one.__name__: code for code, one in _all_codes().items()}
    _, _, raises = (call.__doc__ or "").partition("Raises:")
    return {by_class[name] for name in re.findall(r"\w+Error", raises)}


def _literals(kind: Any) -> Iterator[str]:
    for one in typing.get_args(kind):
        if isinstance(one, str):
            yield one
        else:
            yield from _literals(one)


def _other_apis() -> dict[str, Any]:
    """The answers of the methods that the sandbox serves for the checks."""
    found: dict[str, Any] = {}
    for served in METHODS:
        api, version_ = served.id.partition(".")[0], served.path.pattern.split("/")[1]
        document = discovery(f"{api}.{version_}")
        method = next(m for _, _, m in document.methods if m["id"] == served.id)
        found[f"{served.id} {version_}"] = _schemas(document, [method["response"]["$ref"]])
    return found


def _schemas(document: Discovery, names: Iterable[str]) -> dict[str, list[str]]:
    """Properties, enumerated values included, of these schemas and all that they refer to."""
    found: dict[str, list[str]] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            properties = document.document["schemas"][name].get("properties", {})
            found[name] = sorted(_named(properties))
            waiting += re.findall(r'"\$ref": "(\w+)"', json.dumps(properties))
    return found


def _named(properties: dict[str, Any]) -> Iterator[str]:
    for name, schema in properties.items():
        yield name
        for value in schema.get("enum", schema.get("items", {}).get("enum", [])):
            yield f"{name}={value}"


def _fields(message: Any) -> list[str]:
    return sorted(field.name for field in message.pb().DESCRIPTOR.fields)


def drift(known: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """One line for each place where the vendors have more, or less, than was reviewed."""
    return list(differences(known, found))


def test_the_vendors_know_nothing_that_was_not_looked_at() -> None:
    names = ("anthropic", "google-api-python-client", "google-cloud-kms")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    changed = drift(json.loads(GOLDEN.read_text()), facts())
    assert not changed, "\n".join([versions, *changed, NEW])


def test_every_error_that_a_call_of_ours_can_get_has_its_advice() -> None:
    """It is not enough to review a code of the official SDK: it needs a type or advice here."""
    ours = [call for name, call in CALLS.items() if name not in SANDBOX_ONLY]
    reachable = {code for call in ours for code in _raised(call)}
    assert reachable - _BY_CODE.keys() == set()
    data_plane = {code for code in _all_codes() if DATA_PLANE.match(code)}
    assert data_plane == DATA_PLANE_ADVICE.keys()


@pytest.mark.parametrize(
    ("place", "planted"),
    [
        (("anthropic", "errors", "workspaces.create"), "workspace_created_incomplete"),
        (("anthropic", "errors", "workspaces.update"), "change_outcome_unknown"),
        (("anthropic", "errors", "workspaces.update"), "storage_profile_mismatch"),
        (("anthropic", "errors by their name"), "cmek_key_disabled"),
        (("anthropic", "fields", "Workspace"), "brand_new_field"),
        (("google discovery", "cloudkms", "CryptoKeyVersion"), "state=MELTED"),
        (("google-cloud-kms", "calls"), "delete_crypto_key"),
    ],
    ids=lambda one: one if isinstance(one, str) else one[-1],
)
def test_a_new_name_of_a_vendor_is_named(place: tuple[str, ...], planted: str) -> None:
    """The comparison finds a name that a vendor has and that is not among the reviewed ones."""
    known, found = facts(), facts()
    *path, last = place
    before, after = (reduce(getitem, path, tree) for tree in (known, found))
    before[last] = [one for one in before[last] if one != planted]
    after[last] = [*before[last], planted]
    assert drift(known, found) == [f"{' → '.join(place)}: gone [], new ['{planted}']"]


if __name__ == "__main__":
    GOLDEN.write_text(text(facts()))
