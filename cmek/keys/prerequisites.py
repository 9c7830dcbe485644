"""All prerequisite checks at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from cmek.anthropic.client import AdminApi
from cmek.gcp.kms import CloudKms
from cmek.gcp.project_apis import GoogleReads
from cmek.keys import rules_anthropic as anthropic
from cmek.keys import rules_iam as iam_scope
from cmek.keys import rules_key as existing_key
from cmek.keys import rules_key as location
from cmek.keys import rules_org as domain_sharing
from cmek.keys import rules_org as org_policies
from cmek.keys import rules_org as perimeters
from cmek.keys import rules_project as audit_logs
from cmek.keys import rules_project as permissions
from cmek.keys import rules_project as project
from cmek.keys.reader import Clients, read_findings
from cmek.keys.snapshot import Findings
from cmek.keys.verdicts import Check, CheckReport, Prerequisite
from cmek.onboarding.request import OnboardingRequest

PrerequisiteRule = Callable[[OnboardingRequest, Findings], Iterator[Check]]

PREREQUISITE_RULES: Final[dict[PrerequisiteRule, tuple[Prerequisite, ...]]] = {
    project.check_project: (project.PROJECT,),
    project.check_billing: (project.BILLING,),
    project.check_kms_api: (project.KMS_API,),
    project.check_check_apis: (project.CHECK_APIS,),
    location.check_location: (location.LOCATION,),
    permissions.check_caller_on_project: (permissions.CALLER_ON_PROJECT,),
    permissions.check_caller_on_existing: (permissions.CALLER_ON_EXISTING,),
    audit_logs.check_audit_logs: (audit_logs.AUDIT_LOGS,),
    domain_sharing.check_legacy: (domain_sharing.DRS_LEGACY,),
    domain_sharing.check_managed: (domain_sharing.DRS_MANAGED,),
    domain_sharing.check_custom: (domain_sharing.DRS_CUSTOM,),
    org_policies.check_location_policy: (org_policies.LOCATION_POLICY,),
    org_policies.check_protection_policy: (org_policies.PROTECTION_POLICY,),
    org_policies.check_delay_policy: (org_policies.DELAY_POLICY,),
    org_policies.check_disable_policy: (org_policies.DISABLE_POLICY,),
    perimeters.check_perimeters: (perimeters.PERIMETER,),
    existing_key.check_existing_key: existing_key.PREREQUISITES,
    iam_scope.check_broader: (iam_scope.BROADER,),
    iam_scope.check_public: (iam_scope.PUBLIC,),
    iam_scope.check_look_alikes: (iam_scope.LOOK_ALIKES,),
    anthropic.check_credential: (anthropic.CREDENTIAL,),
    anthropic.check_cmek: (anthropic.CMEK,),
    anthropic.check_workspace: (anthropic.WORKSPACE,),
    anthropic.check_eligibility: (anthropic.RETENTION, anthropic.FEATURES, anthropic.EFFECT),
}
"""What each rule judges, in the order in which a person reads the table."""

CATALOGUE: Final = tuple(one for judged in PREREQUISITE_RULES.values() for one in judged)
"""Every check that a report holds, in its order: what the documentation lists."""


async def run_checks(
    request: OnboardingRequest, *, admin: AdminApi, kms: CloudKms, google: GoogleReads
) -> CheckReport:
    """Read everything in three waves and judge it; writes nothing.

    Never raises for a refused, failed or late read: that check is `unknown` and says who can tell.
    """
    return judge(request, await read_findings(request, Clients(admin, kms, google)))


def judge(request: OnboardingRequest, findings: Findings) -> CheckReport:
    """The verdicts over what was read. Pure."""
    checks = tuple(check for rule in PREREQUISITE_RULES for check in rule(request, findings))
    return CheckReport(checks=checks, project_number=findings.google.project_number)
