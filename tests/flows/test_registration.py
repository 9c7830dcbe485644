"""Which external key of a crypto key counts, where there are several."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import permutations
from types import SimpleNamespace
from typing import Any

import pytest

from cmek.anthropic.models import ExternalKey
from tasks.registration import find_external_key

KEY = "projects/acme-kms-prod/locations/us-east5/keyRings/anthropic-cmek/cryptoKeys/key"
OLD, NEW, UNDATED, ALSO_UNDATED = "ekey_old", "ekey_new", "ekey_1undated", "ekey_2undated"
CREATED = {OLD: "2026-01-01T00:00:00Z", NEW: "2026-02-01T01:00:00+02:00"}


def external_key(key_id: str, attached: str | None) -> ExternalKey:
    return ExternalKey.model_validate(
        {
            "id": key_id,
            "attachment": {"type": "attached" if key_id == attached else "unattached"},
            "provider_config": {"type": "gcp", "key_name": KEY},
            "created_at": CREATED.get(key_id),
        }
    )


def found(key_ids: tuple[str, ...], attached: str | None = None) -> str | None:
    async def every() -> AsyncIterator[ExternalKey]:
        for one in key_ids:
            yield external_key(one, attached)

    api: Any = SimpleNamespace(external_keys=SimpleNamespace(list=every))
    key = asyncio.run(find_external_key(api, KEY))
    return key.id if key else None


@pytest.mark.parametrize("listed", [*permutations((OLD, NEW, UNDATED, ALSO_UNDATED))])
def test_every_run_takes_the_same_external_key_whatever_the_order(listed: tuple[str, ...]) -> None:
    """The attached one, else the oldest; one without a time only where there is no other."""
    for attached in listed:
        assert found(listed, attached) == attached
    assert found(listed) == OLD
    assert found(tuple(one for one in listed if one != OLD)) == NEW
    assert found(tuple(one for one in listed if one not in CREATED)) == UNDATED
    assert found(()) is None
