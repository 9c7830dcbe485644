"""Faults on Anthropic's side, and facts that no API shows."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from tests.support.condition_setups import (
    ANOTHER_KEY,
    Blind,
    ExpectedCause,
    ExpectedCheck,
    Situation,
    attached,
    nothing,
    switch,
    workspace,
)

ANTHROPIC_CONDITIONS: tuple[Situation, ...] = (
    Situation(
        "Admin credential is refused",
        lambda stage: stage.fault("organization.me", 401),
        ExpectedCheck("admin_credential", "fail", "Admin API key"),
    ),
    Situation(
        "Admin credential belongs to another organization",
        nothing,
        ExpectedCheck(
            "admin_credential",
            "fail",
            "Admin API key of organization 00000000-0000-4000-8000-000000000001",
            subject={"expected_organization": UUID("00000000-0000-4000-8000-000000000001")},
        ),
    ),
    Situation(
        "external keys are not open to the organization",
        lambda stage: stage.fault("external_keys.list", 403),
        ExpectedCheck("cmek_reachable", "fail", "account team"),
    ),
    Situation(
        "workspace is archived",
        workspace(archived_at="2026-11-01T00:00:00+00:00"),
        ExpectedCheck("workspace", "fail", "choose another workspace"),
    ),
    Situation(
        "workspace does not exist",
        nothing,
        ExpectedCheck(
            "workspace",
            "fail",
            "choose another workspace",
            subject={"workspace_id": "wrkspc_01NoSuchWorkspace111111"},
        ),
    ),
    Situation(
        "workspace has another key",
        attached(ANOTHER_KEY),
        ExpectedCheck("workspace", "fail", "never be replaced", evidence=ANOTHER_KEY),
    ),
    Situation(
        "features stop working",
        nothing,
        ExpectedCheck("features", "warn"),
    ),
    Situation(
        "the workspace may be in use",
        nothing,
        ExpectedCheck("effect_time", "warn"),
    ),
    Situation(
        "nobody can read whether the workspace retains data",
        nothing,
        ExpectedCheck("retention", "unknown"),
    ),
    Situation(
        "the external key was deleted",
        lambda stage: stage.world.admin.external_keys.pop(stage.external_key_id),
        cause=ExpectedCause("external_key_gone", "run the onboarding", validation_fails=False),
    ),
    Situation(
        "the grants are a minute old",
        switch(iam_propagation_seconds=600.0),
        cause=ExpectedCause(
            "iam_settling",
            "then validate again",
            verdict="open",
            failure={"granted_at": timedelta(minutes=-1)},
        ),
    ),
    Situation(
        "nothing of ours is wrong",
        lambda stage: stage.world.identities.anthropic.deny(
            "cloudkms.cryptoKeyVersions.useToDecrypt"
        ),
        cause=ExpectedCause(
            "deny_policy",
            "gcloud policy-intelligence troubleshoot-policy iam "
            "//cloudkms.googleapis.com/projects/acme-kms-prod",
            verdict="open",
            failure={"granted_at": timedelta(days=-1)},
        ),
    ),
    Situation(
        "the Admin API fails",
        lambda stage: stage.fault("external_keys.list", 500),
        cause=ExpectedCause(
            "anthropic_side",
            "request id req_011",
            failure={"request_id": "req_011"},
            validation_fails=False,
        ),
    ),
    Situation(
        "attach: the Workspace Policy forbids the key",
        nothing,
        cause=ExpectedCause(
            "workspace_policy",
            "Workspace Policy",
            failure={"error_code": "workspace_policy_violation"},
            validation_fails=False,
        ),
    ),
    Situation(
        "attach: key and workspace have different user profiles",
        nothing,
        cause=ExpectedCause(
            "key_profile",
            "without a user profile",
            failure={"error_code": "key_profile_mismatch"},
            validation_fails=False,
        ),
    ),
    Situation(
        "attach: the external key was edited meanwhile",
        nothing,
        cause=ExpectedCause(
            "external_key_changed",
            "validate again",
            failure={"error_code": "external_key_changed"},
            validation_fails=False,
        ),
    ),
)

ANTHROPIC_BLIND: tuple[Blind, ...] = (
    Blind("admin_credential", lambda stage: stage.fault("organization.me")),
    Blind("cmek_reachable", lambda stage: stage.fault("external_keys.list")),
    Blind("workspace", lambda stage: stage.fault("workspaces.retrieve", 403)),
    Blind("retention", nothing),
)
"""Checks whose reads can be refused, and how; the check is then `unknown`."""
