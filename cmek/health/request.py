"""What to revalidate, and how: the one parameter of the revalidation flow."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from cmek.health.model import Depth, Unreachability
from cmek.models import FormModel
from cmek.names import EXTERNAL_KEY_ID
from cmek.request import BLOCK_NAME

ExternalKeyId = Annotated[str, Field(pattern=f"^{EXTERNAL_KEY_ID}$")]


class RevalidationRequest(FormModel):
    """Look at all onboarded keys, or at some."""

    model_config = ConfigDict(extra="forbid", title="Revalidation request")

    external_keys: tuple[ExternalKeyId, ...] = Field(
        default=(),
        title="External keys",
        description="Ids of the external keys to look at; empty for all Google Cloud keys.",
        examples=[["ekey_01HxPv6KsDq9TnBzMw3YfLrE"]],
    )
    depth: Depth = Field(
        default="full",
        title="Depth",
        description="quick: Anthropic's validation and the key with its primary version. full: "
        "also all versions and who may use the key.",
    )
    deadline_seconds: int = Field(
        default=3600,
        title="Deadline in seconds",
        description="Keys that could not be looked at by then count as unknown.",
        ge=1,
        le=86400,
    )
    concurrency: int = Field(
        default=32,
        title="Keys at once",
        description="How many keys are looked at at the same time.",
        ge=1,
        le=96,
    )
    reads_per_minute: int = Field(
        default=600,
        title="Cloud KMS reads a minute",
        description="In each project and region. Google's default quota is 600.",
        ge=1,
        le=1_000_000,
    )
    record_anew: bool = Field(
        default=False,
        title="Record anew",
        description="Take what this (full) look finds as what was meant: later looks compare with "
        "it instead of with what was recorded at onboarding.",
    )
    anthropic_block: str = Field(
        default="anthropic-admin",
        title="Anthropic Admin block",
        description="Name of the AnthropicAdmin block with the credential.",
        pattern=f"^{BLOCK_NAME}$",
    )
    kms_block: str = Field(
        default="google-kms",
        title="Google KMS block",
        description="Name of the GoogleKms block with the credential.",
        pattern=f"^{BLOCK_NAME}$",
    )
    look_again: tuple[Unreachability, ...] = Field(
        default=(),
        title="Look again",
        description="Leave empty: a revalidation fills it in for the follow-up that looks again "
        "at the keys that it could not reach.",
    )

    @property
    def wanted(self) -> frozenset[str] | None:
        """The external keys to look at, None for all."""
        again = {one.external_key_id for one in self.look_again}
        return frozenset({*self.external_keys, *again}) or None
