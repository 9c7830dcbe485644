"""The files of a Terraform module for live keys: values as read, and import blocks.

The external key names a workspace's crypto key; Cloud KMS gives its values. Only live values are
used: with a requested value that differs, Terraform would plan to replace the key.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from importlib.resources import files
from pathlib import Path

from pydantic import JsonValue

from cmek.anthropic.client import AdminApi
from cmek.anthropic.models import ExternalKey
from cmek.anthropic_identity import ENCRYPTER_DECRYPTER, MEMBER, VIEWER
from cmek.errors import CmekError
from cmek.gcp.iam import unconditional_roles
from cmek.gcp.kms import CloudKms
from cmek.gcp.resources import CryptoKey
from cmek.keys.conditions import cloud_kms_material, symmetric
from cmek.keys.health_rules import THREATENING_METHODS
from cmek.models import FrozenModel
from cmek.names import KeyName
from cmek.plain_text import code

VARIABLES = "terraform.tfvars.json"
IMPORTS = "imports.tf.json"
ALERT = "alert.tf.json"
FIXED = ("versions.tf", "variables.tf", "main.tf", "options.tf", "outputs.tf")
_GRANTS = {"encrypter_decrypter": ENCRYPTER_DECRYPTER, "viewer": VIEWER}
_HOW = (
    "Write these files with `cmek terraform WORKSPACE --out DIR`, then `terraform init` and "
    "`terraform plan` there: it must show imports and nothing to destroy. With the provider's own "
    "handling of labels the first plan may also show labels entering the state; applying that "
    "changes nothing at Google."
)


class NotManageableError(CmekError):
    """A key that the module can't describe; the message says why and what to do."""


class ManagedKey(FrozenModel):
    """One live key with the values that Terraform needs, as read."""

    name: str
    protection_level: str
    rotation_period: timedelta | None
    destroy_scheduled_duration: timedelta
    labels: dict[str, str]
    granted_roles: frozenset[str]
    """Of Anthropic's service account on the key itself, without a condition."""
    workspaces: tuple[str, ...]

    @property
    def key_name(self) -> KeyName:
        """The parsed name."""
        return KeyName.parse(self.name)

    @property
    def ring_address(self) -> str:
        """The key ring's index in Terraform's state."""
        key = self.key_name
        return f"{key.project}/{key.location}/{key.key_ring}"

    @property
    def address(self) -> str:
        """The key's index in Terraform's state; it is the same in every module with this key."""
        return f"{self.ring_address}/{self.key_name.crypto_key}"

    @classmethod
    def of(
        cls, key: CryptoKey, granted_roles: Iterable[str], workspaces: Iterable[str]
    ) -> ManagedKey:
        """From the live key.

        Raises:
            NotManageableError: Not a symmetric key that Cloud KMS made itself.
        """
        for condition in (symmetric(key), cloud_kms_material(key)):
            if not condition.holds:
                raise NotManageableError(
                    f"{key.name}: {condition.evidence}, which the module does not describe: "
                    "Anthropic can't use this key, so find out why a workspace has it"
                )
        if key.destroy_scheduled_duration is None:
            raise NotManageableError(f"{key.name}: Cloud KMS gave no destroy_scheduled_duration")
        return cls(
            name=key.name,
            protection_level=key.protection_level,
            rotation_period=key.rotation_period,
            destroy_scheduled_duration=key.destroy_scheduled_duration,
            labels=dict(sorted(key.labels.items())),
            granted_roles=frozenset(granted_roles),
            workspaces=tuple(sorted(workspaces)),
        )


class FilesDifferError(CmekError):
    """Files with other content exist already; the message names them."""


def render_module(keys: Iterable[ManagedKey]) -> dict[str, str]:
    """The texts by file name: the fixed files, the values of the keys, and the import blocks.

    The same keys give the same bytes, whatever their order.
    """
    ordered = sorted(keys, key=lambda key: key.address)
    fixed = files("cmek.terraform") / "module"
    return {
        **{name: (fixed / name).read_text(encoding="utf-8") for name in FIXED},
        VARIABLES: _json({"keys": {key.address: _values(key) for key in ordered}}),
        IMPORTS: _json({"import": _imports(ordered)}),
        ALERT: _json({"locals": {"threatening_methods": list(THREATENING_METHODS)}}),
    }


def write_module(module: dict[str, str], folder: Path, *, replace: bool = False) -> None:
    """Write all files, or none if one of them exists with other content.

    Raises:
        FilesDifferError: Such a file exists, and `replace` is off.
    """
    folder.mkdir(parents=True, exist_ok=True)
    differing = [
        name
        for name, text in module.items()
        if (folder / name).exists() and (folder / name).read_bytes() != text.encode()
    ]
    if differing and not replace:
        raise FilesDifferError(
            f"{folder} has other versions of {', '.join(differing)}: write to an empty folder "
            "and compare, or replace them"
        )
    for name, text in module.items():
        (folder / name).write_text(text, encoding="utf-8")


def seconds(duration: timedelta) -> str:
    """As Cloud KMS writes a duration: `7776000s`, with a fraction only where there is one."""
    whole, fraction = divmod(duration // timedelta(microseconds=1), 1_000_000)
    return f"{whole}.{fraction:06}".rstrip("0") + "s" if fraction else f"{whole}s"


def _json(value: JsonValue) -> str:
    # Terraform reads strings in a variables file literally, but those in a configuration file as
    # templates. Only names go into the latter, and these have neither `${` nor `%{` (`KeyName`).
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


def _imports(keys: Sequence[ManagedKey]) -> list[JsonValue]:
    resources = [
        ("google_kms_key_ring.cmek", address, name)
        for address, name in {key.ring_address: key.key_name.key_ring_name for key in keys}.items()
    ]
    for key in keys:
        resources.append(("google_kms_crypto_key.cmek", key.address, key.name))
        # a missing grant can't be imported: Terraform's plan shows that it would be added
        resources += [
            (
                f"google_kms_crypto_key_iam_member.{grant}",
                key.address,
                f"{key.name} {role} {MEMBER}",
            )
            for grant, role in _GRANTS.items()
            if role in key.granted_roles
        ]
    return [{"to": f'{kind}["{address}"]', "id": name} for kind, address, name in resources]


def terraform_page(workspace_id: str, module: Mapping[str, str]) -> str:
    """Markdown with all files; the two with live values come first."""
    names = sorted(module, key=lambda name: (name not in {IMPORTS, VARIABLES}, name))
    files = [
        f"## {code(name)}\n\n```{'json' if name.endswith('.json') else 'hcl'}\n{module[name]}```"
        for name in names
    ]
    return "\n\n".join([f"# Terraform for the key of {code(workspace_id)}", _HOW, *files])


async def read_all_keys(admin: AdminApi, kms: CloudKms) -> tuple[ManagedKey, ...]:
    """Every Google Cloud key of a workspace, archived ones included: their data still exists.

    If one key can't be read, all fails: with a module that lacks it Terraform would remove it.

    Raises:
        NotManageableError: A key is not found, or is not one that Anthropic can use.
        AdminApiError, GoogleApiError: A read was refused.
    """
    users = await _workspaces_by_key(admin)
    registered = [key async for key in admin.external_keys.list()]
    return await _read(kms, registered, users)


async def read_workspace_keys(
    admin: AdminApi, kms: CloudKms, workspace_id: str
) -> tuple[ManagedKey, ...]:
    """The key of one workspace, with every workspace that shares it.

    Raises:
        NotManageableError: The workspace has no Google Cloud key, or one that can't be described.
        AdminApiError, GoogleApiError: A read was refused.
    """
    workspace = await admin.workspaces.retrieve(workspace_id)
    if workspace.external_key_id is None:
        raise NotManageableError(
            f"workspace {workspace.id} ({workspace.name}) has no key: onboard it first"
        )
    registered = await admin.external_keys.retrieve(workspace.external_key_id)
    if registered.gcp_key_name is None:
        raise NotManageableError(
            f"workspace {workspace.id} has {registered.id}, a key of "
            f"{registered.provider_config.type}, not of Google Cloud"
        )
    return await _read(kms, [registered], await _workspaces_by_key(admin))


async def _workspaces_by_key(admin: AdminApi) -> dict[str, set[str]]:
    users: dict[str, set[str]] = defaultdict(set)
    for workspace in await admin.workspaces.everything():
        if workspace.external_key_id is not None:
            users[workspace.external_key_id].add(workspace.id)
    return users


async def _read(
    kms: CloudKms, registered: list[ExternalKey], users: dict[str, set[str]]
) -> tuple[ManagedKey, ...]:
    """One `ManagedKey` for each crypto key, which may be registered more than once."""
    by_name: dict[str, set[str]] = defaultdict(set)
    for external in registered:
        if external.gcp_key_name and users.get(external.id):
            by_name[external.gcp_key_name] |= users[external.id]
    read = await asyncio.gather(*(_read_key(kms, name, ids) for name, ids in by_name.items()))
    # registered by the number and by the id of its project: Cloud KMS returns one name for both
    merged: dict[str, ManagedKey] = {}
    for key in read:
        known = merged[key.name].workspaces if key.name in merged else ()
        workspaces = tuple(sorted({*key.workspaces, *known}))
        merged[key.name] = key.model_copy(update={"workspaces": workspaces})
    return tuple(merged.values())


async def _read_key(kms: CloudKms, name: str, workspaces: set[str]) -> ManagedKey:
    key = await kms.get_crypto_key(name)
    if key is None:
        raise NotManageableError(
            f"{name} is not found, but {', '.join(sorted(workspaces))} needs it: was it deleted? "
            "Nothing was written"
        )
    policy = await kms.get_iam_policy(name)
    return ManagedKey.of(key, unconditional_roles(policy, MEMBER), workspaces)
