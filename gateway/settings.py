"""The gateway's settings: one TOML file of its administrator.

Source: docs/gateway.md
"""

from __future__ import annotations

import logging
import stat
import tomllib
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from uuid import UUID

from pydantic import ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from cmek.addresses import ADMIN_API, ANTHROPIC, GOOGLE, check_endpoint
from cmek.anthropic.auth import AdminKey, Credential, WorkloadIdentity
from cmek.errors import CmekError
from cmek.gcp._transport import id_token_provider, service_account_info
from cmek.models import FrozenModel, refusals
from cmek.signatures.signers import DIRECTORY, file_text
from cmek.trusted_hosts import check_destination

_log = logging.getLogger("cmek.gateway")

CONFIG: Final = Path("/etc/cmek-gateway/gateway.toml")


class GatewaySettingsError(CmekError):
    """The settings can't be used; the message names the file, the field and what to write."""


class FederationSettings(FrozenModel):
    """Workload identity: no static Admin API key exists."""

    model_config = ConfigDict(extra="forbid")

    federation_rule_id: str
    organization_id: UUID
    service_account_id: str
    audience: str = ADMIN_API
    google_credentials_file: Path | None = None
    """A service-account key; without it the Google identity of this machine."""


class GatewaySettings(FrozenModel):
    """Where the gateway listens, whose credential it holds, and where it keeps its journal."""

    model_config = ConfigDict(extra="forbid")

    journal: Path
    """One SQLite file in a directory that only the gateway's user can write."""
    host: str = "127.0.0.1"
    port: int = Field(default=4300, ge=0, le=65535)
    """0 takes a free one, for trials."""
    names: tuple[str, ...] = ()
    """Host names under which the administrator's TLS proxy forwards requests."""
    upstream: str = ADMIN_API
    admin_key_file: Path | None = None
    """A file that holds the Admin API key and that only the gateway's user can read."""
    workload_identity: FederationSettings | None = None
    """In place of a key file."""
    signers: Path = DIRECTORY
    """Directory of `allowed_signers`, `revoked_keys` and `minimum_signatures`, owned by root."""
    requester_excluded: bool = True
    """Whether the requester's own approval is ignored."""

    @field_validator("host")
    @classmethod
    def _loopback(cls, host: str) -> str:
        if not ip_address(host).is_loopback:
            raise ValueError(
                "the gateway speaks plain HTTP, so it listens on loopback only: put a TLS proxy "
                "before it for other machines"
            )
        return host

    @model_validator(mode="after")
    def _one_credential(self) -> GatewaySettings:
        if (self.admin_key_file is None) is (self.workload_identity is None):
            raise ValueError("give exactly one of admin_key_file and workload_identity")
        return self

    def credential(self) -> Credential:
        """The credential of the Admin API, read now.

        Raises:
            GatewaySettingsError: A file is missing, unreadable or empty, holds no credential, or
                others could have written it.
        """
        file = self.admin_key_file
        if self.workload_identity is not None:
            file = self.workload_identity.google_credentials_file
        try:
            if file is not None:
                _check_mode(file)
            if self.admin_key_file is not None:
                return AdminKey(SecretStr(file_text(self.admin_key_file.read_bytes())))
            assert self.workload_identity is not None  # noqa: S101  # the validator says so
            federation = self.workload_identity
            return WorkloadIdentity(
                federation_rule_id=federation.federation_rule_id,
                organization_id=federation.organization_id,
                service_account_id=federation.service_account_id,
                audience=federation.audience,
                id_token=_id_token(federation.google_credentials_file),
            )
        except OSError as error:
            raise GatewaySettingsError(
                f"{error.filename}: {error.strerror}; the gateway's user must be able to read it"
            ) from error
        except ValueError as error:  # `from None`: the cause may quote the file's content
            raise GatewaySettingsError(f"the credential in {file} can't be used: {error}") from None


def load_settings(path: Path = CONFIG) -> GatewaySettings:
    """Read and check the settings.

    Raises:
        GatewaySettingsError: Says which field of which file, and why.
        EndpointError: `upstream` is no host of Anthropic's, nor allowed by the administrator.
    """
    try:
        settings = GatewaySettings.model_validate(tomllib.loads(file_text(path.read_bytes())))
    except OSError as error:
        raise GatewaySettingsError(f"{path}: {error.strerror}; see docs/gateway.md") from error
    except ValidationError as error:
        what = "; ".join(refusals(error, values=False, root=path.name))
        raise GatewaySettingsError(f"{path}: {what}") from error
    except ValueError as error:
        raise GatewaySettingsError(f"{path} is not TOML: {error}") from error
    check_destination(settings.upstream, ANTHROPIC)
    return settings


def _check_mode(file: Path) -> None:
    mode = file.stat().st_mode
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise GatewaySettingsError(f"{file} can be written by others: chmod 400 {file}")
    # only a warning, since the content is still what the administrator put there
    if mode & stat.S_IROTH:
        _log.warning("%s can be read by every user of this machine: chmod 400 %s", file, file)


def _id_token(file: Path | None) -> Callable[[str], str]:
    if file is None:
        return id_token_provider(None)
    key = service_account_info(file_text(file.read_bytes()))
    check_destination(check_endpoint(key["token_uri"]), GOOGLE)
    return id_token_provider(key)
