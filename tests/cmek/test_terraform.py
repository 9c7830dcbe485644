"""The generated Terraform module, tested without terraform itself."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmek.anthropic_identity import MEMBER, ROLES
from cmek.gcp.resources import CryptoKey
from cmek.keys.health_rules import THREATENING_METHODS
from cmek.names import US_SINGLE_REGIONS, BadNameError
from cmek.terraform.module import (
    ALERT,
    IMPORTS,
    VARIABLES,
    FilesDifferError,
    ManagedKey,
    NotManageableError,
    render_module,
    seconds,
    write_module,
)

RING = "projects/acme-kms-prod/locations/us-east5/keyRings/anthropic-cmek"
ORGANIZATION_LABEL = "anthropic-org-3f1c9a52-7d4e-4b8a-9c60-2e5d8f7a1b34"
DAY = timedelta(days=1)


def crypto_key(name: str = "payments", **changes: object) -> CryptoKey:
    """A key that Anthropic can use, with these changes."""
    fields = {
        "name": f"{RING}/cryptoKeys/{name}",
        "purpose": "ENCRYPT_DECRYPT",
        "algorithm": "GOOGLE_SYMMETRIC_ENCRYPTION",
        "protection_level": "HSM",
        "labels": {ORGANIZATION_LABEL: "true"},
        "destroy_scheduled_duration": 30 * DAY,
    }
    return CryptoKey.model_validate(fields | changes)


def managed(name: str = "payments", **changes: object) -> ManagedKey:
    return ManagedKey.of(crypto_key(name, **changes), ROLES, ["wrkspc_01abcdef"])


def test_the_module_names_the_published_service_account_and_only_additive_grants() -> None:
    """The module has the product's constants; no resource replaces the grants of others."""
    module = render_module([managed()])
    assert f'anthropic = "{MEMBER}"' in module["main.tf"]
    for role in ROLES:
        assert f'role          = "{role}"' in module["main.tf"]
    everything = "".join(module.values())
    assert not re.search(r"_iam_(policy|binding)\b", everything)
    assert set(re.findall(r"serviceAccount:\S+?\.com", everything)) == {MEMBER}


def test_ring_and_key_can_not_be_destroyed() -> None:
    main = render_module([managed()])["main.tf"]
    for kind in ("google_kms_key_ring", "google_kms_crypto_key"):
        block = main.split(f'resource "{kind}" "cmek"')[1].split("\n}\n")[0]
        assert "prevent_destroy = true" in block


def test_the_alert_watches_the_methods_that_the_evidence_asks_for() -> None:
    listed = json.loads(render_module([])[ALERT])["locals"]["threatening_methods"]
    assert tuple(listed) == THREATENING_METHODS
    assert "local.threatening_methods" in render_module([])["options.tf"]


@pytest.mark.parametrize("region", US_SINGLE_REGIONS)
def test_the_modules_region_rule_accepts_every_us_region(region: str) -> None:
    """The pattern in the module's text matches each region, and no multi-region."""
    rule = re.search(r'regex\("(\S+)", key.location\)', render_module([])["variables.tf"])
    assert rule is not None
    assert re.fullmatch(rule[1], region)
    assert not re.fullmatch(rule[1], "us")


def values_of(key: ManagedKey) -> dict[str, object]:
    """The module's variables for its one key."""
    keys: dict[str, dict[str, object]] = json.loads(render_module([key])[VARIABLES])["keys"]
    assert list(keys) == [key.address]
    return keys[key.address]


def test_the_values_are_those_of_the_live_key() -> None:
    """Rotation, destroy delay, protection and labels; a key without rotation has no such value."""
    rotating = managed(rotation_period=90 * DAY, protection_level="SOFTWARE")
    assert values_of(rotating) == {
        "project": "acme-kms-prod",
        "location": "us-east5",
        "key_ring": "anthropic-cmek",
        "name": "payments",
        "protection_level": "SOFTWARE",
        "rotation_period": "7776000s",
        "destroy_scheduled_duration": "2592000s",
        "labels": {ORGANIZATION_LABEL: "true"},
        "workspaces": ["wrkspc_01abcdef"],
    }
    assert "rotation_period" not in values_of(managed())


def test_imports_carry_full_ids() -> None:
    """Ring, key, and `key role member` of both grants; a missing grant has no import."""
    imports = json.loads(render_module([managed()])[IMPORTS])["import"]
    key = f"{RING}/cryptoKeys/payments"
    ids = [one["id"] for one in imports]
    assert ids == [RING, key, *(f"{key} {role} {MEMBER}" for role in ROLES)]
    address = "acme-kms-prod/us-east5/anthropic-cmek"
    assert [one["to"] for one in imports] == [
        f'google_kms_key_ring.cmek["{address}"]',
        f'google_kms_crypto_key.cmek["{address}/payments"]',
        f'google_kms_crypto_key_iam_member.encrypter_decrypter["{address}/payments"]',
        f'google_kms_crypto_key_iam_member.viewer["{address}/payments"]',
    ]
    bare = ManagedKey.of(crypto_key(), [], ["wrkspc_01abcdef"])
    assert len(json.loads(render_module([bare])[IMPORTS])["import"]) == 2


@pytest.mark.parametrize("name", ["${var.keys}", "%{ if true }", 'a"]', "a\\b"])
def test_no_name_in_an_import_can_be_a_template(name: str) -> None:
    """Terraform evaluates strings as templates, so a name that could be a template is refused."""
    with pytest.raises(BadNameError):
        render_module([managed(name)])


def test_the_same_keys_give_the_same_module_in_any_order() -> None:
    keys = [managed("b"), managed("a")]
    assert render_module(keys) == render_module(reversed(keys))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("purpose", "ASYMMETRIC_SIGN"),
        ("algorithm", "EXTERNAL_SYMMETRIC_ENCRYPTION"),
        ("import_only", True),
        ("crypto_key_backend", "projects/p/locations/l/ekmConnections/e"),
        ("destroy_scheduled_duration", None),
    ],
)
def test_a_key_that_the_module_can_not_describe_is_refused(field: str, value: Any) -> None:
    """The error has its name and the field; a wrong description would replace the key."""
    with pytest.raises(NotManageableError, match=f"{RING}/cryptoKeys/payments: .*"):
        managed(**{field: value})


def test_files_with_other_content_are_not_overwritten(tmp_path: Path) -> None:
    """Nothing is written if one file differs, and everything with `replace`."""
    module = render_module([managed()])
    write_module(module, tmp_path)
    write_module(module, tmp_path)
    (tmp_path / "main.tf").write_text("# mine\n")
    with pytest.raises(FilesDifferError, match=r"main\.tf"):
        write_module(module | {IMPORTS: ""}, tmp_path)
    assert (tmp_path / IMPORTS).read_text() == module[IMPORTS]
    write_module(module, tmp_path, replace=True)
    assert (tmp_path / "main.tf").read_text() == module["main.tf"]


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=36500)))
def test_durations_are_written_as_cloud_kms_writes_them(duration: timedelta) -> None:
    """Seconds and an `s`, with a fraction only if there is one; no precision is lost."""
    text = seconds(duration)
    assert re.fullmatch(r"[0-9]+([.][0-9]{0,5}[1-9])?s", text)
    whole, _, fraction = text[:-1].partition(".")
    microseconds = int(fraction.ljust(6, "0")) if fraction else 0
    assert timedelta(seconds=int(whole), microseconds=microseconds) == duration


@given(st.dictionaries(st.text(), st.text()))
def test_a_label_means_itself_and_is_shown_in_plain_letters(labels: dict[str, str]) -> None:
    """Terraform takes the strings of a variables file literally, so JSON's quoting is enough."""
    key = managed(labels=labels)
    assert values_of(key)["labels"] == labels
    assert render_module([key])[VARIABLES].replace("\n", "").isprintable()
    assert render_module([key])[VARIABLES].isascii()
