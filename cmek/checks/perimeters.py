"""Does a VPC Service Controls perimeter keep Anthropic away from Cloud KMS?

Readable on the organization only; where we may not read it, Anthropic's validation has the last
word. Source: guide, "Troubleshooting"; https://docs.cloud.google.com/vpc-service-controls/docs
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cmek.anthropic_identity import MEMBER
from cmek.checks.commands import perimeters_page
from cmek.checks.findings import Findings
from cmek.checks.google_models import IngressPolicy, PerimeterConfig, ServicePerimeter
from cmek.checks.model import Check, Prerequisite
from cmek.checks.outcome import Answer, Refused
from cmek.checks.project import KMS
from cmek.request import OnboardingRequest

PERIMETER: Final = Prerequisite(
    "perimeter",
    "VPC Service Controls lets Anthropic reach Cloud KMS",
    (
        "accesscontextmanager.accessPolicies.list",
        "accesscontextmanager.accessPolicies.servicePerimeters.list",
    ),
    "an Access Context Manager reader on the organization "
    "(roles/accesscontextmanager.policyReader); in the end Anthropic's validation",
    "Google turns Anthropic's calls away at the perimeter, whatever IAM says.",
)
INGRESS: Final = (
    f"add an ingress rule for {MEMBER} to {KMS} (all sources), or an access level for "
    "Anthropic's outbound addresses 160.79.104.0/21"
)

Admission = bool | None
"""Let in, kept out, or not decidable (None)."""


def check_perimeters(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """Every perimeter that encloses the project and restricts Cloud KMS, if not us too."""
    organization, number = findings.google.organization, findings.google.project_number
    turned_away = _turned_away(findings)
    if turned_away is not None:
        yield PERIMETER.failed(str(turned_away), f"perimeter administrator: {INGRESS}")
    elif isinstance(findings.google.ancestors, Answer) and organization is None:
        yield PERIMETER.passed(f"project {request.key_name.project} is in no organization")
    elif (refused := _first_refusal(findings)) is not None:
        yield PERIMETER.unknown(refused)
    elif number is None or organization is None:
        yield PERIMETER.unknown("the project's number or organization could not be read")
    else:
        page = perimeters_page(organization)
        yield _judge(_enclosing(findings, number), f"projects/{number}", page)


def _turned_away(findings: Findings) -> Refused | None:
    """A read of Cloud KMS that a perimeter refused: who keeps us out keeps Anthropic out."""
    return next(
        (one for one in findings.kms.answers if isinstance(one, Refused) and one.is_perimeter),
        None,
    )


def _first_refusal(findings: Findings) -> Refused | None:
    reads = (
        findings.google.ancestors,
        findings.google.access_policies,
        *findings.google.perimeters,
    )
    return next((read for read in reads if isinstance(read, Refused)), None)


def _enclosing(findings: Findings, number: str) -> list[ServicePerimeter]:
    all_perimeters = [
        one for read in findings.google.perimeters if isinstance(read, Answer) for one in read.value
    ]
    return [
        one
        for one in all_perimeters
        if one.perimeter_type != "PERIMETER_TYPE_BRIDGE"
        and (_restricts(one.status, number) or _dry_run(one, number))
    ]


def _judge(enclosing: list[ServicePerimeter], resource: str, page: str) -> Check:
    remedy = f"{page}: {INGRESS}"
    enforced = [one for one in enclosing if _restricts(one.status, resource.partition("/")[2])]
    admissions = {one.title or one.name: _admits(one.status, resource) for one in enforced}
    shut = [name for name, admission in admissions.items() if admission is False]
    unclear = [name for name, admission in admissions.items() if admission is None]
    if shut:
        return PERIMETER.failed(
            f"perimeter {', '.join(shut)} restricts {KMS} and lets nobody in for it", remedy
        )
    if unclear:
        return PERIMETER.unknown(
            f"perimeter {', '.join(unclear)} restricts {KMS}; whether its access levels or "
            "ingress rules admit Anthropic is not decidable here",
            remedy,
        )
    if len(enforced) < len(enclosing):
        names = ", ".join(one.title or one.name for one in enclosing if one not in enforced)
        return PERIMETER.warned(f"dry run of perimeter {names} would restrict {KMS}", remedy)
    if admissions:
        return PERIMETER.passed(f"perimeter {', '.join(admissions)} lets Anthropic in")
    return PERIMETER.passed(f"no perimeter around {resource} restricts {KMS}")


def _restricts(config: PerimeterConfig, number: str) -> bool:
    return f"projects/{number}" in config.resources and KMS in config.restricted_services


def _dry_run(perimeter: ServicePerimeter, number: str) -> bool:
    return perimeter.use_explicit_dry_run_spec and _restricts(perimeter.spec, number)


def _admits(config: PerimeterConfig, resource: str) -> Admission:
    rules = [_rule_admits(rule, resource) for rule in config.ingress_policies]
    if True in rules:
        return True
    return None if None in rules or config.access_levels else False


def _rule_admits(rule: IngressPolicy, resource: str) -> Admission:
    source, target = rule.ingress_from, rule.ingress_to
    if not {"*", resource}.intersection(target.resources):
        return False
    operations = [one for one in target.operations if one.service_name in {"*", KMS}]
    if not operations:
        return False
    everybody = source.identity_type in {"ANY_IDENTITY", "ANY_SERVICE_ACCOUNT"}
    if not everybody and MEMBER not in source.identities:
        return False
    from_anywhere = any(one.access_level == "*" for one in source.sources)
    all_methods = any(
        one.service_name == "*" or {"method": "*"} in one.method_selectors for one in operations
    )
    return True if from_anywhere and all_methods else None
