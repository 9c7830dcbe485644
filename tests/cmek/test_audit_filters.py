"""Alert, evidence query and the sink of `cmek listen` see all that makes a key critical."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import pytest

from cmek.evidence.report import signals_filter, threats_filter
from cmek.keys.health import HEALTH_RULES
from cmek.keys.rules import HealthRule
from cmek.keys.verdicts import Health, Severity
from cmek.names import KeyName
from sandbox import seed
from tests.support.ailments import AILMENTS
from tests.support.fleet import Fleet

CRITICAL = [
    rule
    for rule in HEALTH_RULES
    if rule.severity is Severity.CRITICAL or rule.means is Health.BROKEN
]
FIXED_AT_REGISTRATION = {"name-malformed", "wrong-location", "wrong-kind", "primary-missing"}
"""Anthropic validates a key when it registers it, and none of this can be changed afterwards."""
SERVICE = "google.cloud.kms.v1.KeyManagementService"


@dataclass
class AuditedFleet(Fleet):
    """Writes an Admin Activity entry of what an administrator does, as Cloud KMS does."""

    entries: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def new(cls) -> AuditedFleet:
        """In a new world."""
        fleet = cls.__new__(cls)
        fleet.entries = []
        Fleet.__init__(fleet, seed.new_world(minimal=True))
        return fleet

    def administer(self, request: Any) -> Any:
        """The call, and its entry: an update names the resource inside of the request."""
        made = super().administer(request)
        method = type(request).__name__.removesuffix("Request")
        about = getattr(request, "crypto_key", None) or getattr(request, "crypto_key_version", None)
        named = about.name if method.startswith("Update") and about else ""
        self.log(method, named or getattr(request, "name", "") or getattr(request, "parent", ""))
        return made

    def set_policy(
        self, resource: str, bindings: dict[str, list[str]], condition: str | None = None
    ) -> None:
        """A policy, and its entry."""
        super().set_policy(resource, bindings, condition)
        self.log("SetIamPolicy", resource)

    def delete(self, name: str) -> None:
        """A deletion, and its entry."""
        super().delete(name)
        self.log("DeleteCryptoKey", self.key(name))

    def log(self, method: str, resource: str) -> None:
        """One entry."""
        self.entries.append(
            {
                "logName": "projects/acme-kms-prod/logs/cloudaudit.googleapis.com%2Factivity",
                "protoPayload.serviceName": "cloudkms.googleapis.com",
                "protoPayload.methodName": f"{SERVICE}.{method}"
                if method != "SetIamPolicy"
                else method,
                "protoPayload.resourceName": resource,
            }
        )


def matches(log_filter: str, entry: dict[str, Any]) -> bool:
    """What we use of the Logging query language: equality and RE2 search, all must hold."""
    comparisons = re.findall(r'^([\w.]+)(=~?)"(.*)"$', log_filter, re.MULTILINE)
    assert len(comparisons) == len(log_filter.splitlines())
    return all(
        bool(re.search(wanted, entry[name])) if how == "=~" else entry[name] == wanted
        for name, how, wanted in comparisons
    )


@pytest.mark.parametrize("rule", CRITICAL, ids=lambda rule: rule.id)
def test_the_cause_of_every_critical_rule_matches_the_filters(rule: HealthRule) -> None:
    """A change in the sandbox that the rule finds, its audit method, and the alert's filter."""
    if rule.id in FIXED_AT_REGISTRATION:
        assert rule.caused_by == ()
        return
    for ailment in (one for one in AILMENTS if one.rule == rule.id):
        fleet = AuditedFleet.new()
        ailment.bring_about(fleet, ailment.key)
        causes = [
            one
            for one in fleet.entries
            if one["protoPayload.methodName"].rpartition(".")[2] in rule.caused_by
        ]
        assert causes, fleet.entries
        key = KeyName.parse(fleet.key(ailment.key))
        assert matches(threats_filter(key), causes[-1])
        assert matches(signals_filter("acme-kms-prod"), causes[-1])
        assert not matches(threats_filter(KeyName.parse(f"{key}-2")), causes[-1])


def test_making_a_key_is_no_threat_and_a_grant_on_its_ring_is_one() -> None:
    fleet = AuditedFleet.new()
    fleet.make_key("new")
    made = next(
        e for e in fleet.entries if e["protoPayload.methodName"].endswith("CreateCryptoKey")
    )
    key = KeyName.parse(fleet.key("new"))
    assert not matches(threats_filter(key), made)
    assert not matches(signals_filter("acme-kms-prod"), made)
    fleet.set_policy(key.key_ring_name, {"roles/cloudkms.admin": ["allUsers"]})
    assert matches(threats_filter(key), fleet.entries[-1])
    assert not matches(
        threats_filter(key),
        fleet.entries[-1] | {"protoPayload.resourceName": f"{key.key_ring_name}-2"},
    )
