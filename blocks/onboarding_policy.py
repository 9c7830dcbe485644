"""What a platform team decides once for all onboardings, kept as a Prefect block."""

from __future__ import annotations

from prefect.blocks.core import Block
from pydantic import HttpUrl

from cmek.onboarding.policy import PolicyModel


class OnboardingPolicy(PolicyModel, Block):
    """How workspaces are onboarded, and which of it a request may override. It holds no secret.

    Example:
        ```python
        from blocks import OnboardingPolicy

        await OnboardingPolicy(four_eyes=True, signatures=2).save("payments")
        ```
    """

    _block_type_name = "Onboarding Policy"
    _block_type_slug = "onboarding-policy"
    _description = (
        "How workspaces get their keys: location, key ring and names, protection level, rotation, "
        "approval. An onboarding request names one; the default is what the guide recommends."
    )
    _documentation_url = HttpUrl(
        "https://platform.claude.com/docs/en/manage-claude/cmek-google-cloud-kms"
    )
    _logo_url = HttpUrl("https://www.anthropic.com/favicon.ico")
