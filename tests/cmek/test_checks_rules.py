"""The rules as pure functions: for any answer of Google they neither crash nor wrongly pass."""

from __future__ import annotations

import re
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cmek._http import Failed, Ok
from cmek.anthropic_identity import MEMBER, SERVICE_ACCOUNT
from cmek.gcp.iam import MemberKind, kind_of
from cmek.gcp.project_apis import OrgPolicy, PerimeterConfig, Project, ServicePerimeter
from cmek.keys.prerequisites import judge
from cmek.keys.reader import CONSTRAINTS
from cmek.keys.rules_org import check_perimeters
from cmek.keys.snapshot import AnthropicFindings, Findings, GoogleFindings, KmsFindings
from cmek.keys.verdicts import Check, CheckReport, CheckStatus
from cmek.onboarding.reports import checks_table, summary
from tests.support.checking import request

patient = settings(deadline=None)
REFUSED = Failed("PERMISSION_DENIED", "denied")

texts = st.text(max_size=12)
values = st.lists(
    st.sampled_from(
        ["us-east5", "us-central1", "in:us-locations", "in:x-locations", "HSM", "is:HSM", "in:7d",
         "90d", "C0sandbox", "principalSet://iam.googleapis.com/organizations/1"]
    ) | texts,
    max_size=4,
)  # fmt: skip
rules = st.fixed_dictionaries(
    {},
    optional={
        "values": st.fixed_dictionaries(
            {}, optional={"allowedValues": values, "deniedValues": values}
        ),
        "allowAll": st.booleans(),
        "denyAll": st.booleans(),
        "enforce": st.booleans(),
        "condition": st.just({"expression": "resource.matchTag('env', 'prod')"}),
        "parameters": st.fixed_dictionaries(
            {},
            optional={"allowedMemberSubjects": values, "allowedPrincipalSets": values},
        ),
    },
)
policies = st.lists(rules, max_size=3).map(
    lambda found: OrgPolicy.model_validate({"spec": {"rules": found}})
)


def findings(**google: Any) -> Findings:
    """Findings in which every read is refused, except the given ones."""
    nothing: dict[str, Any] = {
        "project": REFUSED, "billing": REFUSED, "kms_service": REFUSED,
        "project_permissions": REFUSED, "ancestors": REFUSED, "policies": {}, "org_policies": {},
        "custom_constraints": None, "access_policies": None, "perimeters": (),
    }  # fmt: skip
    return Findings(
        GoogleFindings(**(nothing | google)),
        KmsFindings(
            location=REFUSED,
            key_ring=REFUSED,
            key=REFUSED,
            ring_policy=None,
            key_policy=None,
            ring_permissions=None,
            key_permissions=None,
            protected=None,
        ),
        AnthropicFindings(
            organization=REFUSED, external_keys=REFUSED, workspace=REFUSED, workspace_key=None
        ),
    )


def _status(report: CheckReport, check_id: str) -> str:
    return next(one.status for one in report.checks if one.id == check_id)


def test_with_everything_refused_nothing_passes() -> None:
    """`unknown` is never shown as `pass`, for any check that reads something."""
    report = judge(request(), findings())
    silent = {"check_apis", "features", "effect_time"}
    assert {one.status for one in report.checks if one.id not in silent} == {"unknown"}
    assert report.project_number is None


@patient
@given(st.dictionaries(st.sampled_from(CONSTRAINTS), policies))
def test_any_organization_policy_gets_a_verdict(found: dict[str, OrgPolicy]) -> None:
    """For any rules that Google sends; a constraint that was not read never passes."""
    read = {name: Ok(policy) for name, policy in found.items()}
    report = judge(request(), findings(org_policies=read))
    by_constraint = {
        "iam.allowedPolicyMemberDomains": "drs_legacy",
        "iam.managed.allowedPolicyMembers": "drs_managed",
        "gcp.resourceLocations": "location_policy",
        "cloudkms.allowedProtectionLevels": "protection_policy",
        "cloudkms.minimumDestroyScheduledDuration": "destroy_delay_policy",
        "cloudkms.disableBeforeDestroy": "disable_before_destroy",
    }
    for constraint, check_id in by_constraint.items():
        if constraint not in found:
            assert _status(report, check_id) == "unknown"


@patient
@given(policies)
def test_a_list_that_denies_all_or_lacks_ours_never_admits_anthropic(policy: OrgPolicy) -> None:
    """The legacy constraint passes only with the customer's id, or if nobody is restricted."""
    read = {"iam.allowedPolicyMemberDomains": Ok(policy)}
    report = judge(request(permitted_customer_id="C0anthropic"), findings(org_policies=read))
    if _status(report, "drs_legacy") == "pass":
        for rule in policy.rules:
            restricted = rule.values.allowed_values or rule.values.denied_values
            assert rule.allow_all or not (rule.deny_all or restricted)


LINEAGE = ("projects/1", "folders/3", "folders/4")
configs = st.builds(
    PerimeterConfig.model_validate,
    st.fixed_dictionaries(
        {
            "resources": st.lists(
                st.sampled_from(
                    ["projects/1", "projects/2", "folders/3", "folders/4", "folders/5"]
                ),
                max_size=2,
            ),
            "restrictedServices": st.lists(
                st.sampled_from(["cloudkms.googleapis.com", "storage.googleapis.com"]), max_size=2
            ),
            "accessLevels": st.lists(texts, max_size=1),
            "ingressPolicies": st.lists(
                st.fixed_dictionaries(
                    {
                        "ingressFrom": st.fixed_dictionaries(
                            {"identities": st.lists(st.sampled_from([MEMBER, "user:a@b.c"]))}
                        ),
                        "ingressTo": st.fixed_dictionaries(
                            {"resources": st.lists(st.sampled_from(["*", "projects/2"]))}
                        ),
                    }
                ),
                max_size=2,
            ),
        }
    ),
)


@patient
@given(st.lists(configs, max_size=3))
def test_a_perimeter_without_a_full_ingress_rule_never_passes(found: list[PerimeterConfig]) -> None:
    """None of these rules names an operation, so nobody is let in for Cloud KMS.

    The perimeters that list the project apply; if there is none, those that list its nearest
    folder.
    """
    perimeters = tuple(
        ServicePerimeter(name=f"accessPolicies/1/servicePerimeters/p{number}", status=config)
        for number, config in enumerate(found)
    )
    check = _judged(*perimeters)
    levels = ([one for one in found if name in one.resources] for name in LINEAGE)
    nearest = next((level for level in levels if level), [])
    restricted = any("cloudkms.googleapis.com" in one.restricted_services for one in nearest)
    assert (check.status == "pass") == (not restricted)


NAMED = {"identities": [MEMBER], "sources": [{"accessLevel": "*"}]}
KMS = "cloudkms.googleapis.com"
FULL = {
    "resources": ["*"],
    "operations": [{"serviceName": KMS, "methodSelectors": [{"method": "*"}]}],
}
OTHER_SERVICE = [{"serviceName": "storage.googleapis.com", "methodSelectors": [{"method": "*"}]}]
ROLE = ["roles/cloudkms.cryptoKeyEncrypterDecrypter"]
POOL = "iam.googleapis.com/locations/global/workforcePools/p"


def _of(*identities: str, kind: str = "IDENTITY_TYPE_UNSPECIFIED") -> dict[str, Any]:
    return NAMED | {"identities": list(identities), "identityType": kind}


def _methods(*selectors: dict[str, str], service: str = KMS) -> dict[str, Any]:
    return FULL | {"operations": [{"serviceName": service, "methodSelectors": list(selectors)}]}


@pytest.mark.parametrize(
    ("source", "target", "status"),
    [
        (NAMED, FULL, "pass"),
        (_of(kind="ANY_IDENTITY"), FULL, "pass"),
        (_of(kind="ANY_SERVICE_ACCOUNT"), FULL, "pass"),
        (_of(kind="ANY_USER_ACCOUNT"), FULL, "fail"),
        (_of(MEMBER, kind="ANY_USER_ACCOUNT"), FULL, "unknown"),
        (_of(kind="ANY_AGENT"), FULL, "unknown"),
        (_of(), FULL, "fail"),
        (_of("user:ada@example.com", "serviceAccount:x@y.iam.gserviceaccount.com"), FULL, "fail"),
        (_of(f"principal://{POOL}/subject/ada"), FULL, "fail"),
        (_of("user:ada@example.com", "group:vendors@example.com"), FULL, "unknown"),
        (_of(f"principalSet://{POOL}/*"), FULL, "unknown"),
        (_of(MEMBER.upper().replace("SERVICEACCOUNT", "serviceAccount")), FULL, "unknown"),
        (
            NAMED | {"sources": [{"accessLevel": "accessPolicies/1/accessLevels/a"}]},
            FULL,
            "unknown",
        ),
        (NAMED | {"sources": [{"resource": "organizations/8"}]}, FULL, "unknown"),
        (NAMED | {"sources": [{"pscEndpoint": {"forwardingRule": "f"}}]}, FULL, "unknown"),
        (NAMED | {"sources": []}, FULL, "unknown"),
        (NAMED, FULL | {"resources": ["projects/1"]}, "pass"),
        (NAMED, FULL | {"resources": ["folders/4"]}, "pass"),
        (NAMED, FULL | {"resources": ["organizations/9"]}, "pass"),
        (NAMED, FULL | {"resources": ["projects/2", "folders/5", "organizations/8"]}, "fail"),
        (NAMED, FULL | {"resources": []}, "fail"),
        (NAMED, {"resources": ["*"], "roles": ROLE}, "unknown"),
        (NAMED, {"resources": ["folders/5"], "roles": ROLE}, "fail"),
        (_of("user:ada@example.com"), {"resources": ["*"], "roles": ROLE}, "fail"),
        (NAMED, FULL | {"operations": OTHER_SERVICE}, "fail"),
        (NAMED, FULL | {"operations": OTHER_SERVICE, "roles": ROLE}, "unknown"),
        (NAMED, FULL | {"operations": []}, "fail"),
        (NAMED, _methods(service="*"), "pass"),
        (NAMED, _methods(), "unknown"),
        (NAMED, _methods({"method": "KeyManagementService.Encrypt"}), "unknown"),
        (NAMED, _methods({"permission": "cloudkms.cryptoKeys.get"}), "unknown"),
    ],
)
def test_an_ingress_rule_fails_only_if_it_surely_leaves_anthropic_out(
    source: dict[str, Any], target: dict[str, Any], status: str
) -> None:
    """It passes only if it surely lets Anthropic in; in a dry run either doubt is a warning."""
    rule = {"ingressFrom": source, "ingressTo": target}
    config = {"resources": ["projects/1"], "restrictedServices": [KMS], "ingressPolicies": [rule]}
    enforced = {"name": "accessPolicies/1/servicePerimeters/p", "status": config}
    planned = {"name": enforced["name"], "spec": config, "useExplicitDryRunSpec": True}
    found = [_judged(ServicePerimeter.model_validate(one)).status for one in (enforced, planned)]
    assert found == [status, "pass" if status == "pass" else "warn"]


def _judged(*perimeters: ServicePerimeter) -> Check:
    read = findings(
        project=Ok(Project(name="projects/1", state="ACTIVE")),
        ancestors=Ok(("folders/3", "folders/4", "organizations/9")),
        access_policies=Ok(()),
        perimeters=(Ok(perimeters),),
    )
    (check,) = check_perimeters(request(), read)
    return check


@patient
@given(texts)
def test_only_the_published_account_is_anthropics(member: str) -> None:
    """Any other member is somebody else, and every member has a kind."""
    assert kind_of(member) in get_args(MemberKind)
    assert (kind_of(member) == "anthropic") == (member == MEMBER)


@pytest.mark.parametrize(
    ("member", "kind"),
    [
        (MEMBER, "anthropic"),
        ("allUsers", "public"),
        ("allAuthenticatedUsers", "public"),
        (f"user:{SERVICE_ACCOUNT}", "look_alike"),
        (f"deleted:serviceAccount:{SERVICE_ACCOUNT}?uid=1", "deleted"),
        (MEMBER.upper(), "look_alike"),
        (MEMBER.replace("clients", "cIients"), "look_alike"),
        ("serviceAccount:anthropic-cmek-client-us@acme.iam.gserviceaccount.com", "look_alike"),
        ("serviceAccount:anthropic-cmek-automation@acme-kms-prod.iam.gserviceaccount.com", "other"),
        ("user:ada@example.com", "other"),
        ("deleted:user:ada@example.com?uid=1", "other"),
        ("domain:example.com", "other"),
    ],
)
def test_who_a_member_is(member: str, kind: str) -> None:
    """A look-alike is an impostor; a customer's own automation account is not."""
    assert kind_of(member) == kind


def test_a_failure_has_a_remedy_and_an_unknown_says_who_can_tell() -> None:
    """A check without them cannot be constructed."""
    for status in ("fail", "unknown"):
        with pytest.raises(ValidationError):
            Check(id="x", title="x", status=status, evidence="x")


@patient
@given(st.lists(st.sampled_from(get_args(CheckStatus)), max_size=5), texts)
def test_a_table_has_one_line_a_check_whatever_the_text(found: list[str], text: str) -> None:
    """Outside text cannot break the table; a failure comes first."""
    checks = tuple(
        Check(id=str(i), title=text, status=one, evidence=text, remedy="do", who_can_tell="ada")
        for i, one in enumerate(found)
    )
    report = CheckReport(checks=checks)
    lines = checks_table(report).split("\n")[2:]
    assert len(lines) == len(found)
    borders = [re.sub(r"\\.", "", line).count("|") for line in lines]
    assert borders == [5] * len(found)
    if "fail" in found:
        assert "fail" in lines[0]
    assert summary(report).count(" ") >= len(set(found))
