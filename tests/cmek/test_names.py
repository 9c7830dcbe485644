"""A name's text parses to the same name, and no other text parses."""

from __future__ import annotations

import re
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmek.models import shown
from cmek.names import (
    KMS_ID_PATTERN,
    PROJECT_ID_PATTERN,
    US_SINGLE_REGIONS,
    BadNameError,
    KeyName,
    artifact_key,
    is_us_single_region,
    may_be_one_key,
    organization_label,
)
from tests.support.texts import similar

key_names = st.builds(
    KeyName,
    project=st.from_regex(PROJECT_ID_PATTERN, fullmatch=True),
    location=st.sampled_from(US_SINGLE_REGIONS),
    key_ring=st.from_regex(re.compile(KMS_ID_PATTERN, re.ASCII), fullmatch=True),
    crypto_key=st.from_regex(re.compile(KMS_ID_PATTERN, re.ASCII), fullmatch=True),
)


@given(key_names)
def test_a_key_name_parses_to_what_it_prints(name: KeyName) -> None:
    assert KeyName.parse(str(name)) == name


@given(st.text() | key_names.map(lambda name: f"{name}/cryptoKeyVersions/1"))
def test_anything_else_is_a_typed_error_that_shows_what_was_given(text: str) -> None:
    if re.fullmatch(
        rf"projects/.+/locations/.+/keyRings/{KMS_ID_PATTERN}/cryptoKeys/{KMS_ID_PATTERN}", text
    ):
        return
    with pytest.raises(BadNameError, match=re.escape(shown(text))):
        KeyName.parse(text)


@pytest.mark.parametrize("location", ["us", "global", "nam4", "europe-west1", "us-east5a", ""])
def test_only_one_us_region_is_a_single_region(location: str) -> None:
    """Multi-regions and other continents are recognised by the form of their names."""
    assert not is_us_single_region(location)
    assert all(is_us_single_region(region) for region in US_SINGLE_REGIONS)


@given(st.uuids())
def test_the_organization_label_is_lower_case_and_fits(organization: UUID) -> None:
    """Upper-case input gives the same label, which fits into Google's 63 characters."""
    key, value = organization_label(str(organization).upper())
    assert key == key.lower() == organization_label(organization)[0]
    assert (len(key), value) == (50, "true")


def test_an_organization_that_is_not_a_uuid_has_no_label() -> None:
    with pytest.raises(ValueError, match="badly formed"):
        organization_label("org_01Acme")


@given(st.text().flatmap(similar))
def test_artifact_keys_are_what_prefect_accepts_and_differ(two: tuple[str, str]) -> None:
    """Two ids never share a history, even if they differ only in case."""
    one, other = two
    assert re.fullmatch(r"[a-z0-9-]+", artifact_key("onboarding", one))
    assert (artifact_key("x", one) == artifact_key("x", other)) is (one == other)


@pytest.mark.parametrize(
    ("project", "one_key"),
    [("acme-kms-prod", True), ("123456789012", True), ("acme-kms-test", False)],
)
def test_a_projects_number_may_stand_for_its_id(project: str, one_key: bool) -> None:
    where = "locations/us-east5/keyRings/r/cryptoKeys/k"
    name, other = f"projects/acme-kms-prod/{where}", f"projects/{project}/{where}"
    assert may_be_one_key(name, other) is may_be_one_key(other, name) is one_key
    assert not may_be_one_key(name, f"{other}2")
    assert not may_be_one_key(name, "")
    assert not may_be_one_key("/", other)
