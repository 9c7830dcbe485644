"""A key whose kind is never usable: one finding in each engine, and one remedy that works."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from cmek._http import Ok
from cmek.anthropic.models import Validation
from cmek.gcp.resources import CryptoKey
from cmek.keys.health_rules import HEALTH_RULES
from cmek.keys.rules_key import KeyRefusedError, refuse_unfit_key
from cmek.keys.snapshot import KeySnapshot
from sandbox.server import Sandbox
from tests.support import facts as make
from tests.support.checking import check
from tests.support.condition_setups import Setup, protection, stored
from tests.support.gcloud import commands_in, refused
from tests.support.staging import Stage

OF_PURPOSE: dict[str, dict[str, Any]] = {
    "raw": {"purpose": "RAW_ENCRYPT_DECRYPT", "algorithm": "AES_256_GCM", "primary": None},
    "signing": {"purpose": "ASYMMETRIC_SIGN", "algorithm": "EC_SIGN_P256_SHA256", "primary": None},
    "decrypting": {
        "purpose": "ASYMMETRIC_DECRYPT",
        "algorithm": "RSA_DECRYPT_OAEP_3072_SHA256",
        "primary": None,
    },
    "MAC": {"purpose": "MAC", "algorithm": "HMAC_SHA256", "primary": None, "labels": {}},
    "imported signing key": {
        "purpose": "ASYMMETRIC_SIGN",
        "algorithm": "EC_SIGN_P256_SHA256",
        "primary": None,
        "import_only": True,
    },
}
EKM = {"protection_level": "EXTERNAL", "algorithm": "EXTERNAL_SYMMETRIC_ENCRYPTION"}
OF_MATERIAL: dict[str, dict[str, Any]] = {
    "import-only": {"import_only": True},
    "import-only, nothing imported": {"import_only": True, "primary": None},
    "import-only, import failed": {
        "import_only": True,
        "primary": make.version(1, "IMPORT_FAILED"),
    },
    "external": EKM | {"primary": make.version(1, "GENERATION_FAILED")},
    "external by VPC": EKM | {"protection_level": "EXTERNAL_VPC", "primary": None},
}
UNFIT = OF_PURPOSE | OF_MATERIAL


def key_of(kind: str) -> CryptoKey:
    return make.key(rotation_period=None, **UNFIT[kind])


def snapshot(key: CryptoKey) -> KeySnapshot:
    return KeySnapshot(
        external_key_id="ekey_01SandboxKeyOne",
        registered_name=key.name,
        registered_at=None,
        workspaces=(),
        organization_id=make.ORGANIZATION,
        now=datetime.now(UTC),
        depth="full",
        validation=Ok(Validation(type="external_key_validation", status="failure", error="no")),
        key=Ok(key),
    )


@pytest.mark.parametrize("kind", UNFIT)
def test_an_adoption_is_refused_by_what_can_not_be_changed(kind: str) -> None:
    """The message offers no remedy that would not help."""
    with pytest.raises(KeyRefusedError, match="request another key name") as caught:
        refuse_unfit_key(key_of(kind), make.REQUEST)
    assert "gcloud" not in str(caught.value)
    assert "request what the key has" not in str(caught.value)


@pytest.mark.parametrize("kind", OF_PURPOSE)
def test_health_finds_the_wrong_purpose_and_nothing_else(kind: str) -> None:
    found = [
        (rule.id, reason.commands)
        for rule in HEALTH_RULES
        if rule.part in {"name", "key"}
        for reason in rule.judge(snapshot(key_of(kind)))
    ]
    assert found == [("wrong-kind", ())]


@pytest.mark.parametrize("kind", OF_MATERIAL)
def test_health_prints_only_what_works_where_the_material_comes_from_outside(kind: str) -> None:
    """A primary of an attached key is made in the only way that its kind permits."""
    commands = [
        command
        for rule in HEALTH_RULES
        if rule.part in {"name", "key"}
        for reason in rule.judge(snapshot(key_of(kind)))
        for command in reason.commands
    ]
    assert not any("--rotation-period" in one for one in commands)
    for one in commands:
        if "versions create --primary" in one:
            assert "--external-key-uri=" in one or "--ekm-connection-key-path=" in one
    assert refused(c for one in commands for c in commands_in(one)) == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("setup", "fields", "fatal"),
    [
        (stored(purpose="MAC"), {"skip_version": True}, "key_purpose"),
        (stored(import_only=True), {"skip_version": True}, "key_origin"),
        (protection("EXTERNAL"), {}, "key_origin"),
        (protection("EXTERNAL_VPC"), {}, "key_origin"),
    ],
    ids=["MAC", "import-only", "external", "external by VPC"],
)
async def test_the_prerequisites_name_one_thing_that_is_wrong_with_the_key(
    sandbox: Sandbox, stage: Stage, setup: Setup, fields: dict[str, Any], fatal: str
) -> None:
    stage.key(**fields)
    setup(stage)
    report = await check(sandbox)
    (failed,) = report.failed
    assert failed.id == fatal
    assert "gcloud kms keys create NEW_NAME" in (failed.remedy or "")
