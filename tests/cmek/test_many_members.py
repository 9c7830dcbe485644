"""For any number of members, grants or labels, the texts for people stay short."""

from __future__ import annotations

import pytest

from cmek.anthropic_identity import ENCRYPTER_DECRYPTER, MEMBER
from cmek.errors import MAX_MESSAGE, CmekError, bounded, listed
from cmek.keys.rules_key import UnprovenKeyError, check_adoption
from sandbox.server import Sandbox
from tests.support import facts as make
from tests.support.checking import check
from tests.support.gcloud import commands_in
from tests.support.staging import FOLDER, KEY, ORGANIZATION, Stage

MANY = [
    f"serviceAccount:app-{number:04}@acme-kms-prod.iam.gserviceaccount.com"
    for number in range(1490)
]
BASIC_ROLES = [
    f"roles/{name}" for name in ("owner", "editor", "viewer", "admin", "writer", "reader")
]
LOOK_ALIKES = [
    f"serviceAccount:anthropic-cmek-client-us@evil-{n}.iam.gserviceaccount.com" for n in range(300)
]


def test_the_refusal_of_a_foreign_key_names_some_users_their_number_and_the_way_to_all() -> None:
    with pytest.raises(UnprovenKeyError) as caught:
        check_adoption(make.key(labels={}), make.REQUEST, MANY)
    said = str(caught.value)
    assert len(said) < 1500
    assert MANY[0] in said
    assert "and 1482 more" in said
    assert "gcloud kms keys get-iam-policy" in said
    assert "Set adopt_existing_key" in said


@pytest.mark.anyio
async def test_checks_of_a_key_with_very_many_members_stay_short(
    sandbox: Sandbox, stage: Stage
) -> None:
    """The remedy has the first commands only; the evidence says how many members there are."""
    stage.key()
    for member in LOOK_ALIKES:
        stage.grant(str(KEY), ENCRYPTER_DECRYPTER, member)
    report = await check(sandbox)
    (found,) = [one for one in report.checks if one.id == "look_alike_members"]
    assert found.status == "fail"
    assert "and 292 more" in found.evidence
    assert len(list(commands_in(found.remedy or ""))) == 8
    assert max(len(one.evidence) + len(one.remedy or "") for one in report.checks) < MAX_MESSAGE


def test_a_message_that_is_too_long_keeps_its_beginning_and_what_to_do() -> None:
    said = str(CmekError("it failed. " + "x" * 100_000 + " Ask the administrator."))
    assert len(said) == MAX_MESSAGE
    assert said.startswith("it failed. x")
    assert said.endswith("x Ask the administrator.")
    assert "characters left out" in said


@pytest.mark.parametrize("length", [0, 39, 40, 41, 1000])
def test_a_bounded_text_is_never_longer(length: int) -> None:
    text = "y" * length
    assert len(bounded(text, 40)) <= 40
    assert (bounded(text, 40) == text) is (length <= 40)


def test_a_list_of_few_is_whole() -> None:
    assert listed("abc") == "a, b, c"
    assert listed("abcdefghij") == "a, b, c, d, e, f, g, h and 2 more"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("role", "shown"),
    [
        ("roles/cloudkms.cryptoKeyDecrypter", True),
        ("roles/cloudkms.cryptoKeyDecrypterViaDelegation", True),
        ("projects/acme-kms-prod/roles/keyUser", True),
        ("organizations/567890123456/roles/keyUser", True),
        ("roles/cloudkms.cryptoKeyEncrypter", False),
        ("roles/cloudkms.viewer", False),
    ],
)
@pytest.mark.parametrize(
    "resource", [str(KEY), KEY.key_ring_name, f"projects/{KEY.project}", FOLDER, ORGANIZATION]
)
async def test_everybody_who_may_decrypt_is_shown_even_by_a_role_that_is_not_read(
    sandbox: Sandbox, stage: Stage, role: str, shown: bool, resource: str
) -> None:
    """The permissions of a custom role are not read, so its holders are listed."""
    stage.key()
    stage.grant(resource, role, "user:eve@example.com")
    report = await check(sandbox)
    assert report.other_decrypters == ((f"user:eve@example.com ({role} on {resource})",) * shown)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "role",
    [
        "roles/iam.devOps",
        "roles/iam.dataScientist",
        "roles/dlp.serviceAgent",
        "roles/cloudkmskacls.serviceAgent",
    ],
)
@pytest.mark.parametrize("resource", [f"projects/{KEY.project}", FOLDER, ORGANIZATION])
async def test_a_role_of_another_service_that_decrypts_is_shown(
    sandbox: Sandbox, stage: Stage, role: str, resource: str
) -> None:
    """Cloud KMS takes none of them on a key or a ring."""
    stage.key()
    stage.grant(resource, role, "user:eve@example.com")
    report = await check(sandbox)
    assert report.other_decrypters == (f"user:eve@example.com ({role} on {resource})",)


@pytest.mark.anyio
@pytest.mark.parametrize("role", [*BASIC_ROLES, "projects/acme-kms-prod/roles/x"])
@pytest.mark.parametrize("resource", [f"projects/{KEY.project}", FOLDER, ORGANIZATION])
async def test_a_role_above_the_ring_that_may_reach_the_key_is_seen(
    sandbox: Sandbox, stage: Stage, role: str, resource: str
) -> None:
    """These are Google's basic roles of both generations, and a custom role."""
    stage.key()
    for member in (MEMBER, "allUsers", LOOK_ALIKES[0]):
        stage.grant(resource, role, member)
    report = await check(sandbox)
    found = {one.id: one for one in report.checks}
    for name in ("broader_grants", "public_members", "look_alike_members"):
        assert found[name].status in {"warn", "fail"}, name
        assert role in found[name].evidence
