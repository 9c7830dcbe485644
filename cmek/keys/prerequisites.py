"""The prerequisites of an onboarding: all checks, in the order in which a person reads them.

Source: guide, "Before you begin".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from cmek.keys import rules_anthropic, rules_iam, rules_key, rules_org, rules_project
from cmek.keys.reader import Clients, read_findings
from cmek.keys.snapshot import Findings
from cmek.keys.verdicts import Check, CheckReport, Prerequisite
from cmek.onboarding.policy import OnboardingSettings
from cmek.onboarding.request import OnboardingRequest

PrerequisiteRule = Callable[[OnboardingRequest, Findings], Iterator[Check]]

PREREQUISITE_RULES: Final[dict[PrerequisiteRule, tuple[Prerequisite, ...]]] = {
    rules_project.check_project: (rules_project.PROJECT,),
    rules_project.check_billing: (rules_project.BILLING,),
    rules_project.check_kms_api: (rules_project.KMS_API,),
    rules_project.check_check_apis: (rules_project.CHECK_APIS,),
    rules_key.check_location: (rules_key.LOCATION,),
    rules_project.check_caller_on_project: (rules_project.CALLER_ON_PROJECT,),
    rules_project.check_caller_on_existing: (rules_project.CALLER_ON_EXISTING,),
    rules_project.check_audit_logs: (rules_project.AUDIT_LOGS,),
    rules_org.check_legacy: (rules_org.DRS_LEGACY,),
    rules_org.check_managed: (rules_org.DRS_MANAGED,),
    rules_org.check_custom: (rules_org.DRS_CUSTOM,),
    rules_org.check_location_policy: (rules_org.LOCATION_POLICY,),
    rules_org.check_protection_policy: (rules_org.PROTECTION_POLICY,),
    rules_org.check_delay_policy: (rules_org.DELAY_POLICY,),
    rules_org.check_disable_policy: (rules_org.DISABLE_POLICY,),
    rules_org.check_perimeters: (rules_org.PERIMETER,),
    rules_key.check_existing_key: rules_key.PREREQUISITES,
    rules_iam.check_broader: (rules_iam.BROADER,),
    rules_iam.check_public: (rules_iam.PUBLIC_MEMBERS,),
    rules_iam.check_look_alikes: (rules_iam.LOOK_ALIKES,),
    rules_anthropic.check_credential: (rules_anthropic.CREDENTIAL,),
    rules_anthropic.check_cmek: (rules_anthropic.CMEK,),
    rules_anthropic.check_workspace: (rules_anthropic.WORKSPACE,),
    rules_anthropic.check_acknowledged: (
        rules_anthropic.RETENTION,
        rules_anthropic.FEATURES,
        rules_anthropic.EFFECT,
    ),
}
"""The rules with the checks that each gives, in the order of the table."""

CATALOGUE: Final = tuple(one for judged in PREREQUISITE_RULES.values() for one in judged)
"""Every check of a report, in its order; the documentation lists these."""


def unknown_warnings(policy: OnboardingSettings) -> list[str]:
    """Accepted warnings that are not the id of any check and so have no effect."""
    return sorted(set(policy.accepted_warnings) - {one.id for one in CATALOGUE})


async def run_checks(request: OnboardingRequest, clients: Clients) -> CheckReport:
    """Read everything in three waves and judge it; writes nothing.

    A refused, failed or late read raises nothing: its check is `unknown` and says who can tell.
    """
    return judge(request, await read_findings(request, clients))


def judge(request: OnboardingRequest, findings: Findings) -> CheckReport:
    """Judge what was read. Pure."""
    checks = tuple(check for rule in PREREQUISITE_RULES for check in rule(request, findings))
    decrypters, unread = rules_iam.other_decrypters(request, findings)
    return CheckReport(
        checks=checks,
        project_number=findings.google.project_number,
        other_decrypters=decrypters,
        unread_policies=unread,
    )
