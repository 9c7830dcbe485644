"""What Cloud KMS refuses in a request, and the defaults that it fills in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from google.api_core import exceptions
from google.cloud import kms_v1

from sandbox.kms.state import GoogleProject
from tests.support.kms import LOCATION, NO_RETRY, Client, Kms, Level, Purpose

SOON = datetime.now(UTC) + timedelta(days=1)
PERIOD = timedelta(days=90)


def test_a_new_key_gets_googles_defaults(kms: Kms, client: Client) -> None:
    key = client.create_crypto_key(
        parent=kms.ring(),
        crypto_key_id="k",
        crypto_key=kms_v1.CryptoKey(purpose=Purpose.ENCRYPT_DECRYPT),
    )
    assert key.version_template.protection_level == Level.SOFTWARE
    assert key.version_template.algorithm == 1
    assert key.destroy_scheduled_duration == timedelta(days=30)
    assert not key.rotation_period
    assert key.primary.name == f"{key.name}/cryptoKeyVersions/1"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"purpose": 0}, "purpose"),
        ({"purpose": Purpose.ASYMMETRIC_SIGN}, "algorithm is required"),
        ({"version_template": {"algorithm": 12}}, "EC_SIGN_P256_SHA256 does not fit"),
        ({"rotation_period": PERIOD}, "set together"),
        ({"next_rotation_time": SOON}, "set together"),
        ({"rotation_period": timedelta(hours=23), "next_rotation_time": SOON}, "24 hours"),
        (
            {"rotation_period": PERIOD, "next_rotation_time": datetime(2020, 1, 1, tzinfo=UTC)},
            "fut",
        ),
        ({"destroy_scheduled_duration": timedelta(hours=23)}, "24 hours and 120 days"),
        ({"destroy_scheduled_duration": timedelta(days=121)}, "24 hours and 120 days"),
        ({"labels": {"Upper": "x"}}, "Label 'Upper'"),
        ({"labels": {"k": "With Space"}}, "Label 'k'"),
        ({"labels": {f"l{number}": "" for number in range(65)}}, "65 labels"),
        ({"import_only": True}, "skip_initial_version_creation"),
    ],
)
def test_a_malformed_key_is_refused(
    kms: Kms, client: Client, fields: dict[str, Any], message: str
) -> None:
    ring = kms.ring()
    key = {"purpose": Purpose.ENCRYPT_DECRYPT} | fields
    with pytest.raises(exceptions.BadRequest, match=message):
        client.create_crypto_key(
            parent=ring, crypto_key_id="k", crypto_key=kms_v1.CryptoKey(key), **NO_RETRY
        )
    assert not list(client.list_crypto_keys(parent=ring))


@pytest.mark.parametrize("bad", ["", "a b", "ä", "x" * 64, "a/b", "a.b"])
def test_ids_follow_the_documented_pattern(kms: Kms, client: Client, bad: str) -> None:
    with pytest.raises(exceptions.BadRequest):
        client.create_key_ring(parent=LOCATION, key_ring_id=bad, **NO_RETRY)
    with pytest.raises(exceptions.BadRequest):
        client.create_crypto_key(
            parent=kms.ring(), crypto_key_id=bad, crypto_key=kms_v1.CryptoKey(purpose=1), **NO_RETRY
        )


@pytest.mark.parametrize(
    "path",
    ["purpose", "import_only", "destroy_scheduled_duration", "name", "primary", "create_time"],
)
def test_what_can_not_change_is_refused(kms: Kms, client: Client, path: str) -> None:
    key = kms.key()
    with pytest.raises(exceptions.BadRequest, match=path):
        client.update_crypto_key(crypto_key=key, update_mask={"paths": [path]}, **NO_RETRY)
    assert client.get_crypto_key(name=key.name) == key


def test_an_update_needs_a_mask(kms: Kms, client: Client) -> None:
    key = kms.key()
    with pytest.raises(exceptions.BadRequest, match="update_mask"):
        client.update_crypto_key(crypto_key=key, update_mask={}, **NO_RETRY)
    with pytest.raises(exceptions.BadRequest, match="update_mask"):
        client.update_crypto_key_version(crypto_key_version=key.primary, update_mask={}, **NO_RETRY)


def test_labels_in_a_mask_replace_all_labels(kms: Kms, client: Client) -> None:
    """There is no merge and no etag: the last write wins."""
    key = kms.key(labels={"a": "1", "b": "2"})
    changed = kms_v1.CryptoKey(name=key.name, labels={"c": "3"})
    client.update_crypto_key(crypto_key=changed, update_mask={"paths": ["labels"]})
    assert dict(client.get_crypto_key(name=key.name).labels) == {"c": "3"}


def test_rotation_can_be_set_and_taken_away(kms: Kms, client: Client) -> None:
    key = kms.key()
    mask = {"paths": ["rotation_period", "next_rotation_time"]}
    wanted = kms_v1.CryptoKey(name=key.name, rotation_period=PERIOD, next_rotation_time=SOON)
    changed = client.update_crypto_key(crypto_key=wanted, update_mask=mask)
    assert changed.rotation_period == PERIOD
    bare = kms_v1.CryptoKey(name=key.name)
    assert not client.update_crypto_key(crypto_key=bare, update_mask=mask).rotation_period


def test_hsm_is_refused_where_the_location_has_none(kms: Kms, client: Client) -> None:
    kms.world.kms.locations_without_hsm = {"us-east5"}
    with pytest.raises(exceptions.BadRequest, match="HSM is not available in location 'us-east5'"):
        client.create_crypto_key(
            parent=kms.ring(),
            crypto_key_id="k",
            crypto_key=kms_v1.CryptoKey(
                {"purpose": 1, "version_template": {"protection_level": Level.HSM}}
            ),
            **NO_RETRY,
        )


@pytest.mark.parametrize(
    ("verb", "path", "body", "message"),
    [
        ("POST", "keyRings?keyRingId=r&colour=red", "{}", "colour"),
        ("POST", "keyRings?keyRingId=r", '{"colour": "red"}', "colour"),
        ("POST", "keyRings?keyRingId=r", "{", "JSON"),
        ("POST", "keyRings?keyRingId=r", "[]", "object"),
        ("GET", "keyRings?pageSize=many", "", "pageSize|page_size"),
        ("GET", "keyRings?alt=media", "", "alt"),
    ],
)
def test_rest_refuses_what_it_does_not_know(
    kms: Kms, verb: str, path: str, body: str, message: str
) -> None:
    url = f"{kms.sandbox.http}/v1/{LOCATION}/{path}"
    answer = httpx.request(verb, url, content=body, trust_env=False)
    assert answer.status_code == 400
    assert answer.json()["error"]["status"] == "INVALID_ARGUMENT"
    assert message.partition("|")[0] in answer.text or message.rpartition("|")[2] in answer.text


@pytest.mark.parametrize(
    ("level", "option"),
    [
        (Level.EXTERNAL, {"external_key_uri": "https://ekm.example.com/keys/1"}),
        (Level.EXTERNAL_VPC, {"ekm_connection_key_path": "v0/keys/1"}),
    ],
)
def test_a_key_of_an_external_manager_is_made_without_a_version_and_then_gets_one(
    kms: Kms, client: Client, level: Level, option: dict[str, str]
) -> None:
    """Its algorithm is EXTERNAL_SYMMETRIC_ENCRYPTION, as in terraform-google-kms#117."""
    template = {"protection_level": level, "algorithm": "EXTERNAL_SYMMETRIC_ENCRYPTION"}
    with pytest.raises(exceptions.InvalidArgument, match="skip_initial_version_creation"):
        kms.key(version_template=template)
    wrong = template | {"algorithm": "GOOGLE_SYMMETRIC_ENCRYPTION"}
    ring = f"{LOCATION}/keyRings/ring"
    with pytest.raises(exceptions.InvalidArgument, match="does not fit"):
        kms.key(ring=ring, version_template=wrong, skip_initial_version_creation=True)
    key = kms.key(ring=ring, version_template=template, skip_initial_version_creation=True)
    with pytest.raises(exceptions.GoogleAPICallError, match=next(iter(option))):
        client.create_crypto_key_version(parent=key.name, **NO_RETRY)
    version = kms_v1.CryptoKeyVersion(external_protection_level_options=option)
    made = client.create_crypto_key_version(parent=key.name, crypto_key_version=version, **NO_RETRY)
    assert made.protection_level == level
    assert getattr(made.external_protection_level_options, next(iter(option)))


def test_a_project_id_may_begin_with_a_domain(kms: Kms, client: Client) -> None:
    """An id like `example.com:kms-prod` works in every path; an unknown one is denied."""
    old = GoogleProject("example.com:kms-prod", "999999999999")
    kms.world.kms.projects[old.id] = old
    location = f"projects/{old.id}/locations/us-east5"
    made = kms.key(ring=kms.ring(parent=location)).name
    assert client.get_crypto_key(name=made, **NO_RETRY).name == made
    by_number = made.replace(old.id, old.number)
    assert client.get_crypto_key(name=by_number, **NO_RETRY).name == made
    policy = httpx.get(f"{kms.sandbox.http}/v1/{made}:getIamPolicy", trust_env=False)
    project = httpx.get(f"{kms.sandbox.http}/v3/projects/{old.id}", trust_env=False)
    assert (policy.status_code, project.json()["projectId"]) == (200, old.id)
    with pytest.raises(exceptions.Forbidden):
        client.get_crypto_key(name=made.replace("example.com", "example.org"), **NO_RETRY)
