"""One entry of the record, chained to the one before it by its hash."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AwareDatetime, ConfigDict, Field, JsonValue

from cmek.canonical import digest
from cmek.models import FrozenModel

GENESIS: Final = "0" * 64
"""What the first entry is chained to."""

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Event(FrozenModel):
    """Something that happened in a run; kind and subject name it, so a retry can't add it twice."""

    kind: str
    subject: str
    body: JsonValue


class EvidenceEntry(FrozenModel):
    """An event in its place: `hash` covers every other field, `previous` is the last one's hash."""

    model_config = ConfigDict(extra="forbid")

    number: int = Field(ge=1)
    at: AwareDatetime
    run: str
    """Id of the flow run that recorded it."""
    kind: str
    subject: str
    body: JsonValue
    previous: Hash
    hash: Hash

    @property
    def identity(self) -> tuple[str, str, str]:
        """What makes it this entry and no other, whenever it is recorded."""
        return self.run, self.kind, self.subject

    @property
    def computed_hash(self) -> str:
        """What `hash` must be."""
        return digest(self.model_dump(mode="json", exclude={"hash"}))

    @classmethod
    def seal(
        cls, number: int, at: AwareDatetime, run: str, event: Event, previous: str
    ) -> EvidenceEntry:
        """The entry for an event, with its hash."""
        open_entry = cls(
            number=number,
            at=at,
            run=run,
            kind=event.kind,
            subject=event.subject,
            body=event.body,
            previous=previous,
            hash=GENESIS,
        )
        return open_entry.model_copy(update={"hash": open_entry.computed_hash})
