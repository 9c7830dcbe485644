"""What a caller may send: bodies and query parameters, and the 400 that says what is wrong."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import QueryParams

from sandbox.admin_models import DataResidency, Geo, InferenceGeo, ProviderConfig
from sandbox.errors import AnthropicError

Body = TypeVar("Body", bound=BaseModel)


def _free(tag: str) -> str:
    if tag.startswith("anthropic"):
        raise ValueError("tags that start with anthropic are reserved")
    return tag


TagName = Annotated[str, AfterValidator(_free)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class CreateExternalKey(_Body):
    """`external_keys.create`."""

    provider_config: ProviderConfig
    display_name: str | None = Field(default=None, min_length=1, max_length=255)
    geo: Geo = "us"
    user_profile_id: str | None = None


class UpdateExternalKey(_Body):
    """`external_keys.update`; omitted fields stay."""

    provider_config: ProviderConfig | None = None
    display_name: str | None = Field(default=None, min_length=1, max_length=255)
    geo: Geo | None = None


class CreateWorkspace(_Body):
    """`workspaces.create`."""

    name: str = Field(min_length=1, max_length=255)
    external_key_id: str | None = None
    data_residency: DataResidency | None = None
    tags: dict[TagName, str] = Field(default_factory=dict)
    user_profile_id: str | None = None


class UpdateResidency(_Body):
    """The two fields of the data residency that can change."""

    allowed_inference_geos: str | list[InferenceGeo] | None = None
    default_inference_geo: InferenceGeo | None = None


class UpdateWorkspace(_Body):
    """`workspaces.update`; a null tag is removed, a null key is refused: it cannot be cleared."""

    name: str = Field(default="", min_length=1, max_length=255)
    external_key_id: str = Field(default="", min_length=1)
    data_residency: UpdateResidency | None = None
    tags: dict[TagName, str | None] = Field(default_factory=dict)
    user_profile_id: str | None = None


def parse_json(raw: bytes) -> dict[str, Any]:
    """The request body as an object; nothing at all counts as `{}`.

    Raises:
        AnthropicError: 400, not a JSON object.
    """
    try:
        body = json.loads(raw or b"{}")
    except ValueError as error:
        raise AnthropicError(400, "The request body is not valid JSON.") from error
    if not isinstance(body, dict):
        raise AnthropicError(400, "The request body must be a JSON object.")
    return body


def parse_body(model: type[Body], body: dict[str, Any]) -> Body:
    """The body as `model`.

    Raises:
        AnthropicError: 400, naming the first field that is wrong.
    """
    try:
        return model.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = [str(part) for part in first["loc"] if part not in {"gcp", "aws", "azure"}]
        raise AnthropicError(400, f"{'.'.join(where)}: {_lower(first['msg'])}") from error


def integer(query: QueryParams, name: str, default: int, largest: int) -> int:
    """An integer parameter from 1 to `largest`.

    Raises:
        AnthropicError: 400, not a number or out of range.
    """
    text = query.get(name, str(default))
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= largest:
        raise AnthropicError(400, f"{name}: must be a number from 1 to {largest}")
    return int(text)


def flag(query: QueryParams, name: str) -> bool:
    """A boolean parameter, false when absent.

    Raises:
        AnthropicError: 400, neither `true` nor `false`.
    """
    text = query.get(name, "false")
    if text not in {"true", "false"}:
        raise AnthropicError(400, f"{name}: must be true or false")
    return text == "true"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
