"""Each key's history: artifacts under one key, the newest of which is the last record."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prefect import get_client
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.filters import ArtifactCollectionFilter, ArtifactCollectionFilterKey

from cmek.keys.verdicts import KeyRecord
from cmek.onboarding.reports import artifact_key
from cmek.revalidation.fleet import SIGNS, key_page, read_page

KIND = "key"
PAGE = 200
"""The most that Prefect's API lists at once."""


def page_key(external_key_id: str) -> str:
    """The artifact key of a key's history."""
    return artifact_key(KIND, external_key_id)


async def publish_page(record: KeyRecord) -> None:
    """Add a look to a key's history."""
    await acreate_markdown_artifact(
        markdown=key_page(record),
        key=page_key(record.external_key_id),
        description=f"{SIGNS[record.verdict]}: {record.key_name}",
    )


async def last_records(external_key_ids: Sequence[str]) -> dict[str, KeyRecord]:
    """The last record of each of these keys; one that nobody can read is left out."""
    records: dict[str, KeyRecord] = {}
    for ids in _batches(external_key_ids):
        wanted = ArtifactCollectionFilterKey(any_=[page_key(one) for one in ids])
        async with get_client() as client:
            found = await client.read_latest_artifacts(
                artifact_filter=ArtifactCollectionFilter(key=wanted), limit=PAGE
            )
        for artifact in found:
            record = read_page(str(artifact.data))
            if record is not None:
                records[record.external_key_id] = record
    return records


def _batches(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[start : start + PAGE] for start in range(0, len(ids), PAGE))
