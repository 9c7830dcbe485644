"""What nearly every model here is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class FrozenModel(BaseModel):
    """A value: it never changes once it is made, and can stand in sets and as a key."""

    model_config = ConfigDict(frozen=True)
