"""Alert, evidence query and the sink of `cmek listen` match every cause of a critical rule."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from google.iam.v1 import policy_pb2

from cmek.evidence.report import signals_filter, threats_filter
from cmek.keys.health_rules import HEALTH_RULES
from cmek.keys.rules import HealthRule
from cmek.keys.verdicts import Health, Severity
from cmek.names import KeyName
from sandbox import seed
from tests.support.conditions import HEALTH
from tests.support.staging import KEY, Stage

CRITICAL = [
    rule
    for rule in HEALTH_RULES
    if rule.severity is Severity.CRITICAL or rule.means is Health.BROKEN
]
FIXED_AT_REGISTRATION = {"name-malformed", "wrong-location", "wrong-kind", "primary-missing"}
"""Anthropic validates a key when it registers it, and none of this can be changed afterwards."""
BEHIND_THE_LOG = {
    "the external key names another key",
    "the label is in upper case",
    "the primary version could not be made",
}
"""Conditions that no call of an administrator causes; the sandbox's state is changed directly."""
SERVICE = "google.cloud.kms.v1.KeyManagementService"


@dataclass
class AuditedStage(Stage):
    """Writes an Admin Activity entry for each call of an administrator, as Cloud KMS does."""

    entries: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def new(cls) -> AuditedStage:
        """A stage in a new world."""
        return cls(seed.new_world(minimal=True))

    def administer(self, request: Any) -> Any:
        """Make the call and its entry; an update names the resource inside its request."""
        made = super().administer(request)
        method = type(request).__name__.removesuffix("Request")
        about = getattr(request, "crypto_key", None) or getattr(request, "crypto_key_version", None)
        named = about.name if method.startswith("Update") and about else ""
        self.log(method, named or getattr(request, "name", "") or getattr(request, "parent", ""))
        return made

    @contextmanager
    def policy_change(self, resource: str) -> Iterator[policy_pb2.Policy]:
        """Change a policy, and write its entry."""
        with super().policy_change(resource) as policy:
            yield policy
        self.log("SetIamPolicy", resource)

    def remove_key(self, key_name: str) -> None:
        """Delete a key, and write its entry."""
        super().remove_key(key_name)
        self.log("DeleteCryptoKey", key_name)

    def log(self, method: str, resource: str) -> None:
        """Write one entry."""
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
    """Evaluate what we use of the Logging query language: equality and RE2, joined by AND."""
    comparisons = re.findall(r'^([\w.]+)(=~?)"(.*)"$', log_filter, re.MULTILINE)
    assert len(comparisons) == len(log_filter.splitlines())
    return all(
        bool(re.search(wanted, entry[name])) if how == "=~" else entry[name] == wanted
        for name, how, wanted in comparisons
    )


@pytest.mark.parametrize("rule", CRITICAL, ids=lambda rule: rule.id)
def test_the_cause_of_every_critical_rule_matches_the_filters(rule: HealthRule) -> None:
    """A change in the sandbox that the rule finds writes an entry that the filters match."""
    if rule.id in FIXED_AT_REGISTRATION:
        assert rule.caused_by == ()
        return
    causing = [condition for condition, says in HEALTH if says.rule == rule.id]
    audited = [one for one in causing if one.name not in BEHIND_THE_LOG]
    assert audited
    for condition in audited:
        stage = AuditedStage.new()
        condition.bring_about(stage)
        causes = [
            one
            for one in stage.entries
            if one["protoPayload.methodName"].rpartition(".")[2] in rule.caused_by
        ]
        assert causes, stage.entries
        assert matches(threats_filter(KEY), causes[-1])
        assert matches(signals_filter(KEY.project), causes[-1])
        assert not matches(threats_filter(KeyName.parse(f"{KEY}-2")), causes[-1])


def test_making_a_key_is_no_threat_and_a_grant_on_its_ring_is_one() -> None:
    stage = AuditedStage.new()
    stage.key()
    made = next(
        e for e in stage.entries if e["protoPayload.methodName"].endswith("CreateCryptoKey")
    )
    assert not matches(threats_filter(KEY), made)
    assert not matches(signals_filter("acme-kms-prod"), made)
    stage.grant(KEY.key_ring_name, "roles/cloudkms.admin", "allUsers")
    assert matches(threats_filter(KEY), stage.entries[-1])
    assert not matches(
        threats_filter(KEY),
        stage.entries[-1] | {"protoPayload.resourceName": f"{KEY.key_ring_name}-2"},
    )
