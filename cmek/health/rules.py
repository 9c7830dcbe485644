"""All rules, with what each means for the key.

`broken` is what makes a key, or a part of the data under it, unusable now; `at_risk` is what may
come to that, or lets others in. Names are the Security Command Center's where it has the check
(https://docs.cloud.google.com/security-command-center/docs/concepts-vulnerabilities-findings);
CIS numbers are of the CIS Google Cloud Platform Foundation Benchmark.
"""

from __future__ import annotations

from typing import Final

from cmek.health import access_rules as access
from cmek.health import key_rules as key
from cmek.health import rotation_rules as rotation
from cmek.health import version_rules as version
from cmek.health.model import Severity, Verdict
from cmek.health.rule import Rule

BROKEN, AT_RISK = Verdict.BROKEN, Verdict.AT_RISK
UNKNOWN, REMARK = Verdict.UNKNOWN, Verdict.HEALTHY
CRITICAL, HIGH, MEDIUM, LOW = Severity.CRITICAL, Severity.HIGH, Severity.MEDIUM, Severity.LOW

PUBLIC: Final = "CIS 1.9, KMS_PUBLIC_KEY"
ROTATED: Final = "CIS 1.10, KMS_KEY_NOT_ROTATED"
SEPARATION: Final = "CIS 1.11, KMS_ROLE_SEPARATION"

RULES: Final = (
    Rule("name-malformed", BROKEN, CRITICAL, "name", key.name_malformed),
    Rule("wrong-location", BROKEN, CRITICAL, "name", key.wrong_location),
    Rule("key-not-found", BROKEN, CRITICAL, "key", key.not_found),
    Rule("wrong-kind", BROKEN, CRITICAL, "key", key.wrong_kind),
    Rule("primary-destroy-scheduled", BROKEN, CRITICAL, "key", version.primary_destroy_scheduled),
    Rule("primary-missing", BROKEN, CRITICAL, "key", version.primary_missing),
    Rule("primary-disabled", BROKEN, CRITICAL, "key", version.primary_disabled),
    Rule("primary-unusable", BROKEN, CRITICAL, "key", version.primary_unusable),
    Rule("primary-pending", UNKNOWN, MEDIUM, "key", version.primary_pending),
    Rule("organization-label-missing", BROKEN, CRITICAL, "key", key.label_missing),
    Rule("justifications-deny", BROKEN, CRITICAL, "key", key.justifications_deny),
    Rule(
        "old-version-destroy-scheduled",
        BROKEN,
        CRITICAL,
        "versions",
        version.old_version_destroy_scheduled,
    ),
    Rule("old-version-destroyed", BROKEN, CRITICAL, "versions", version.old_version_destroyed),
    Rule("old-version-disabled", BROKEN, HIGH, "versions", version.old_version_disabled),
    Rule("grant-missing", BROKEN, CRITICAL, "policy", access.grant_missing),
    Rule("kms-public-key", AT_RISK, CRITICAL, "policy", access.public_member, PUBLIC),
    Rule("grant-conditional", AT_RISK, HIGH, "policy", access.grant_conditional),
    Rule("grant-inherited", AT_RISK, HIGH, "policy", access.grant_inherited),
    Rule("foreign-decrypter", AT_RISK, HIGH, "policy", access.foreign_decrypter),
    Rule("broader-grant", AT_RISK, MEDIUM, "policy", access.broader_grant),
    Rule("kms-role-separation", AT_RISK, MEDIUM, "policy", access.duties_not_separated, SEPARATION),
    Rule("justifications-narrow", AT_RISK, HIGH, "key", key.justifications_narrow),
    Rule("kms-key-not-rotated-overdue", AT_RISK, HIGH, "key", rotation.rotation_overdue, ROTATED),
    Rule("kms-key-not-rotated-off", AT_RISK, MEDIUM, "key", rotation.rotation_off, ROTATED),
    Rule("kms-key-not-rotated-slow", AT_RISK, MEDIUM, "key", rotation.rotation_slow, ROTATED),
    Rule("destroy-delay-short", AT_RISK, MEDIUM, "key", key.destroy_delay_short),
    Rule("protection-mixed", AT_RISK, MEDIUM, "versions", version.protection_mixed),
    Rule("drift", AT_RISK, MEDIUM, "key", key.drift),
    Rule("project-policy-unread", REMARK, LOW, "policy", access.project_unread),
    Rule("software-protection", REMARK, LOW, "key", key.software_protection),
)
PART_OF: Final = {rule.id: rule.part for rule in RULES}
