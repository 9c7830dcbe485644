"""Prefect blocks: credentials and endpoints, handing out cmek clients."""

from blocks.anthropic_admin import AnthropicAdmin
from blocks.google_kms import GoogleKms

__all__ = ["AnthropicAdmin", "GoogleKms"]
