"""The health rules of an onboarded key: each names a condition, what it means and how urgent it is.

Rules that Security Command Center has too have its names
(https://docs.cloud.google.com/security-command-center/docs/concepts-vulnerabilities-findings);
CIS numbers are from the CIS Google Cloud Platform Foundation Benchmark. Pure.
"""

from __future__ import annotations

from typing import Final

from cmek.keys import rules_iam, rules_key, rules_versions
from cmek.keys.rules import HealthRule
from cmek.keys.verdicts import Health, Severity

BROKEN, AT_RISK = Health.BROKEN, Health.AT_RISK
UNKNOWN, REMARK = Health.UNKNOWN, Health.HEALTHY
CRITICAL, HIGH, MEDIUM, LOW = Severity.CRITICAL, Severity.HIGH, Severity.MEDIUM, Severity.LOW

PUBLIC: Final = "CIS 1.9, KMS_PUBLIC_KEY"
ROTATED: Final = "CIS 1.10, KMS_KEY_NOT_ROTATED"
SEPARATION: Final = "CIS 1.11, KMS_ROLE_SEPARATION"

DELETE: Final = ("DeleteCryptoKey", "DeleteCryptoKeyVersion")
DESTROY: Final = ("DestroyCryptoKeyVersion",)
DISABLE: Final = ("UpdateCryptoKeyVersion",)
UPDATE: Final = ("UpdateCryptoKey",)
IAM: Final = ("SetIamPolicy",)

GRANT_MISSING: Final = "grant-missing"
GRANT_IN_ANOTHER_FORM: Final = "grant-in-another-form"

HEALTH_RULES: Final = (
    HealthRule("name-malformed", BROKEN, CRITICAL, "name", rules_key.name_malformed),
    HealthRule("wrong-location", BROKEN, CRITICAL, "name", rules_key.wrong_location),
    HealthRule("key-not-found", BROKEN, CRITICAL, "key", rules_key.not_found, caused_by=DELETE),
    HealthRule("wrong-kind", BROKEN, CRITICAL, "key", rules_key.wrong_kind),
    HealthRule(
        "primary-destroy-scheduled",
        BROKEN,
        CRITICAL,
        "key",
        rules_versions.primary_destroy_scheduled,
        caused_by=DESTROY,
    ),
    HealthRule("primary-missing", BROKEN, CRITICAL, "key", rules_versions.primary_missing),
    HealthRule(
        "primary-disabled",
        BROKEN,
        CRITICAL,
        "key",
        rules_versions.primary_disabled,
        caused_by=DISABLE,
    ),
    HealthRule(
        "primary-unusable",
        BROKEN,
        CRITICAL,
        "key",
        rules_versions.primary_unusable,
        caused_by=DESTROY,
    ),
    HealthRule("primary-pending", UNKNOWN, MEDIUM, "key", rules_versions.primary_pending),
    HealthRule(
        "organization-label-missing",
        BROKEN,
        CRITICAL,
        "key",
        rules_key.label_missing,
        caused_by=UPDATE,
    ),
    HealthRule(
        "justifications-deny",
        BROKEN,
        CRITICAL,
        "key",
        rules_key.justifications_deny,
        caused_by=UPDATE,
    ),
    HealthRule(
        "old-version-destroy-scheduled",
        BROKEN,
        CRITICAL,
        "versions",
        rules_versions.old_version_destroy_scheduled,
        caused_by=DESTROY,
    ),
    HealthRule(
        "old-version-destroyed",
        BROKEN,
        CRITICAL,
        "versions",
        rules_versions.old_version_destroyed,
        caused_by=DESTROY,
    ),
    HealthRule(
        "old-version-disabled",
        BROKEN,
        HIGH,
        "versions",
        rules_versions.old_version_disabled,
        caused_by=DISABLE,
    ),
    HealthRule(GRANT_MISSING, BROKEN, CRITICAL, "policy", rules_iam.grant_missing, caused_by=IAM),
    HealthRule(
        "kms-public-key",
        AT_RISK,
        CRITICAL,
        "policy",
        rules_iam.public_member,
        PUBLIC,
        caused_by=IAM,
    ),
    HealthRule(
        "grant-conditional", AT_RISK, HIGH, "policy", rules_iam.grant_conditional, caused_by=IAM
    ),
    HealthRule(
        "grant-inherited", AT_RISK, HIGH, "policy", rules_iam.grant_inherited, caused_by=IAM
    ),
    HealthRule(
        GRANT_IN_ANOTHER_FORM,
        AT_RISK,
        HIGH,
        "policy",
        rules_iam.grant_in_another_form,
        caused_by=IAM,
    ),
    HealthRule(
        "foreign-decrypter", AT_RISK, HIGH, "policy", rules_iam.unexpected_decrypter, caused_by=IAM
    ),
    HealthRule("broader-grant", AT_RISK, MEDIUM, "policy", rules_iam.broader_grant, caused_by=IAM),
    HealthRule(
        "kms-role-separation",
        AT_RISK,
        MEDIUM,
        "policy",
        rules_iam.separation_of_duties,
        SEPARATION,
        caused_by=IAM,
    ),
    HealthRule(
        "justifications-narrow",
        AT_RISK,
        HIGH,
        "key",
        rules_key.justifications_narrow,
        caused_by=UPDATE,
    ),
    HealthRule(
        "kms-key-not-rotated-overdue",
        AT_RISK,
        HIGH,
        "key",
        rules_versions.rotation_overdue,
        ROTATED,
    ),
    HealthRule(
        "kms-key-not-rotated-off",
        AT_RISK,
        MEDIUM,
        "key",
        rules_versions.rotation_off,
        ROTATED,
        caused_by=UPDATE,
    ),
    HealthRule(
        "kms-key-not-rotated-slow",
        AT_RISK,
        MEDIUM,
        "key",
        rules_versions.rotation_slow,
        ROTATED,
        caused_by=UPDATE,
    ),
    HealthRule("destroy-delay-short", AT_RISK, MEDIUM, "key", rules_key.destroy_delay_short),
    HealthRule("protection-mixed", AT_RISK, MEDIUM, "versions", rules_versions.protection_mixed),
    HealthRule("drift", AT_RISK, MEDIUM, "key", rules_key.drift, caused_by=UPDATE),
    HealthRule("project-policy-unread", REMARK, LOW, "policy", rules_iam.project_unread),
    HealthRule("software-protection", REMARK, LOW, "key", rules_key.software_protection),
)
THREATENING_METHODS: Final = tuple(
    sorted(
        {
            method
            for rule in HEALTH_RULES
            if rule.severity is CRITICAL or rule.means is BROKEN
            for method in rule.caused_by
        }
    )
)
"""The calls that an alert watches: those that can break a key or open it to the public. Cloud KMS
always logs them (Admin Activity)."""
PART_OF: Final = {rule.id: rule.part for rule in HEALTH_RULES}
