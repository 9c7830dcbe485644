"""Prefect blocks: credentials and endpoints, handing out cmek clients; onboarding policies."""

from blocks.anthropic_admin import AnthropicAdmin
from blocks.google_kms import GoogleKms
from blocks.onboarding_policy import OnboardingPolicy

__all__ = ["AnthropicAdmin", "GoogleKms", "OnboardingPolicy"]
