"""Pages, filters and orders of lists."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import kms_v1
from hypothesis import given
from hypothesis import strategies as st

from sandbox.errors import GoogleError
from sandbox.kms.lists import paginate
from tests.support.kms import LOCATION, NO_RETRY, Client, Kms, State

names = st.lists(st.from_regex(r"[a-zA-Z0-9_-]{1,63}", fullmatch=True), unique=True, max_size=30)


def _keys(ids: list[str]) -> list[kms_v1.CryptoKey]:
    return [kms_v1.CryptoKey(name=f"{LOCATION}/keyRings/r/cryptoKeys/{one}") for one in ids]


def _request(**fields: Any) -> kms_v1.ListCryptoKeysRequest:
    return kms_v1.ListCryptoKeysRequest(fields)


@given(names, st.integers(1, 7), st.sampled_from(["", "name", "name desc"]))
def test_pages_together_are_the_list(ids: list[str], size: int, order: str) -> None:
    """With any page size: each item once, in order, no empty last page, the full total."""
    token, seen = "", []
    while True:
        request = _request(page_size=size, page_token=token, order_by=order)
        page = paginate(_keys(ids), "parent", request)
        assert page.total_size == len(ids)
        assert page.items or not ids
        seen += [key.name for key in page.items]
        if not (token := page.next_page_token):
            break
        assert len(page.items) == size
    wanted = sorted((key.name for key in _keys(ids)), reverse=order.endswith("desc"))
    assert seen == wanted


@given(names.filter(lambda ids: len(ids) > 3), st.data())
def test_new_items_shift_no_page(ids: list[str], data: st.DataObject) -> None:
    """An item that exists at both times is seen exactly once, though others are added."""
    early = data.draw(st.lists(st.sampled_from(ids), min_size=3, unique=True))
    first = paginate(_keys(early), "parent", _request(page_size=2))
    later = paginate(_keys(ids), "parent", _request(page_token=first.next_page_token))
    seen = [key.name for key in first.items + later.items]
    assert len(seen) == len(set(seen))
    assert {key.name for key in _keys(early)} <= set(seen)


@given(st.text(max_size=40))
def test_a_made_up_token_is_refused(token: str) -> None:
    if not token:
        return
    with pytest.raises(GoogleError, match="page_token"):
        paginate(_keys(["a"]), "parent", _request(page_token=token))


def test_a_token_belongs_to_its_list(kms: Kms, client: Client) -> None:
    ring, other = kms.ring(), kms.ring("other")
    for number in range(3):
        kms.key(f"k{number}", ring=ring)
    page = client.list_crypto_keys(request={"parent": ring, "page_size": 1})
    token = page.next_page_token
    assert (len(list(page.pages)), page.total_size) == (3, 3)
    for query in ({"parent": other}, {"parent": ring, "filter": "name:k"}):
        with pytest.raises(exceptions.BadRequest, match="page_token"):
            client.list_crypto_keys(request=query | {"page_token": token}, **NO_RETRY)


def test_the_pager_walks_all_rings(kms: Kms, client: Client) -> None:
    made = [kms.ring(f"ring-{number:02}") for number in reversed(range(7))]
    kms.ring("elsewhere", LOCATION.replace("us-east5", "us-east4"))
    pager = client.list_key_rings(request={"parent": LOCATION, "page_size": 3})
    assert [ring.name for ring in pager] == sorted(made)


@pytest.mark.parametrize(
    ("filter_", "found"),
    [
        ("state=ENABLED", {1, 3}),
        ("state = ENABLED", {1, 3}),
        ('state:"ENABLED"', {1, 3}),
        ("state!=ENABLED", {2}),
        ("name:cryptoKeyVersions/2", {2}),
        ("state=ENABLED AND name:cryptoKeyVersions/3", {3}),
        ("protection_level=HSM", set()),
        ("algorithm=GOOGLE_SYMMETRIC_ENCRYPTION", {1, 2, 3}),
    ],
)
def test_filters_narrow_versions(kms: Kms, client: Client, filter_: str, found: set[int]) -> None:
    key = kms.key()
    for _ in range(2):
        kms.grpc.create_crypto_key_version(parent=key.name)
    kms.set_state(f"{key.name}/cryptoKeyVersions/2", State.DISABLED)
    pager = client.list_crypto_key_versions(request={"parent": key.name, "filter": filter_})
    assert pager.total_size == 0
    assert {int(version.name.rsplit("/", 1)[1]) for version in pager} == found


@pytest.mark.parametrize("query", [
    {"filter": "colour=red"}, {"filter": "state>ENABLED"}, {"filter": "(state=ENABLED"},
    {"filter": "state=ENABLED OR state=DISABLED"}, {"order_by": "colour"},
    {"order_by": "name sideways"}, {"page_size": -1},
])  # fmt: skip
def test_what_a_list_does_not_understand_is_refused(
    kms: Kms, client: Client, query: dict[str, Any]
) -> None:
    with pytest.raises(exceptions.BadRequest):
        client.list_crypto_keys(request={"parent": kms.ring()} | query, **NO_RETRY)


def test_keys_filter_by_their_primary_and_labels(kms: Kms, client: Client) -> None:
    """The filter may name `primary.state` and `labels.x`, which are fields inside the key."""
    ring = kms.ring()
    off = kms.key("off", ring=ring, labels={"team": "a"})
    kms.key("on", ring=ring, labels={"team": "b"})
    kms.set_state(off.primary.name, State.DISABLED)
    for filter_ in ("primary.state=DISABLED", "labels.team=a"):
        listed = client.list_crypto_keys(request={"parent": ring, "filter": filter_})
        assert [key.name for key in listed] == [off.name]


def test_versions_sort_by_number(kms: Kms, client: Client) -> None:
    key = kms.key()
    for _ in range(10):
        kms.world.clock.advance(timedelta(seconds=1))
        kms.grpc.create_crypto_key_version(parent=key.name)
    numbers = [
        [int(one.name.rsplit("/", 1)[1]) for one in client.list_crypto_key_versions(request=query)]
        for query in ({"parent": key.name, "page_size": 4},
                      {"parent": key.name, "order_by": "create_time desc"})
    ]  # fmt: skip
    assert numbers == [list(range(1, 12)), list(range(11, 0, -1))]
