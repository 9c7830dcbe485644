"""What nearly every model here is, and what a flow's parameter is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


class FrozenModel(BaseModel):
    """A value: it never changes once it is made, and can stand in sets and as a key."""

    model_config = ConfigDict(frozen=True)


class FormModel(FrozenModel):
    """A flow's parameter: Prefect's form shows its fields in the order of their declaration."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Number the fields: the form sorts them by `position`."""
        schema = handler(core_schema)
        for position, field in enumerate(handler.resolve_ref_schema(schema)["properties"].values()):
            field["position"] = position
        return schema
