"""Causes that lie in IAM: which of the two grants is not there, and what stands in its place.

Each missing grant has one explanation, the most telling one: conditional, to a wrong member, on
the wrong level, kept out by an organization policy, or simply missing. Source: guide step 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from google.iam.v1 import policy_pb2

from cmek.anthropic_identity import ENCRYPTER_DECRYPTER, MEMBER, ROLES, SERVICE_ACCOUNT, VIEWER
from cmek.checks.commands import grant, revoke
from cmek.checks.domain_sharing import check_legacy, check_managed
from cmek.checks.members import Grant, grants_in, kind_of
from cmek.checks.model import Check
from cmek.checks.outcome import Answer, Read, value_of
from cmek.diagnosis.key_causes import without_key
from cmek.diagnosis.model import Cause, DiagnosisFacts, KnownCause, Rule

ON_KEY: Final = "GetIamPolicy on the key"
ABOVE: Final = "GetIamPolicy on key, ring, project and above"
SETTLING: Final = timedelta(minutes=7)
"""Google: an IAM change works within 2 minutes as a rule, within 7 or more at times."""

CONDITIONAL: Final = KnownCause("grant_conditional", "A grant has a condition", ON_KEY)
WRONG_MEMBER: Final = KnownCause("grant_wrong_member", "A grant names another member", ON_KEY)
WRONG_LEVEL: Final = KnownCause("grant_wrong_level", "A grant stands above the key only", ABOVE)
SHARING: Final = KnownCause(
    "domain_sharing",
    "Domain restricted sharing keeps the grant out",
    f"{ON_KEY}, effective organization policies",
)
ENCRYPTER: Final = KnownCause(
    "encrypter_missing", "The encrypter/decrypter grant is missing", ON_KEY
)
VIEWER_MISSING: Final = KnownCause("viewer_missing", "The viewer grant is missing", ON_KEY)
UNSETTLED: Final = KnownCause("iam_settling", "IAM is still settling", ON_KEY)


@dataclass(frozen=True, slots=True)
class _Grants:
    """The missing roles, each under its explanation."""

    conditional: list[Grant] = field(default_factory=list)
    wrong_member: list[Grant] = field(default_factory=list)
    above: list[Grant] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    """Roles on the key that Anthropic's account has beyond the two."""


def grant_conditional(facts: DiagnosisFacts) -> Cause:
    """A condition is for Google to evaluate; Anthropic's calls may not meet it."""
    return _of_grants(facts, CONDITIONAL, lambda grants: grants.conditional)


def grant_wrong_member(facts: DiagnosisFacts) -> Cause:
    """A look-alike, a deleted account, or the right address as another kind of member."""
    return _of_grants(facts, WRONG_MEMBER, lambda grants: grants.wrong_member)


def grant_wrong_level(facts: DiagnosisFacts) -> Cause:
    """Inherited grants work for a while, and for every other key below too."""
    return _of_grants(facts, WRONG_LEVEL, lambda grants: grants.above)


def domain_sharing(facts: DiagnosisFacts) -> Cause:
    """The grant is missing and the organization would not let it be written."""
    verdicts = _sharing_checks(facts)
    command = next((one.remedy for one in verdicts if one.remedy), None) or "none needed"
    grants = _explained(facts)
    if grants is None:
        return _unreadable(facts, SHARING, command)
    if not grants.missing:
        return SHARING.excluded("no grant is missing")
    why = "; ".join(one.evidence for one in verdicts)
    if any(one.status == "fail" for one in verdicts):
        again = " && ".join(grant(facts.request.key_name, role) for role in grants.missing)
        return SHARING.proved(why, f"{command}; then {again}")
    if any(one.status == "unknown" for one in verdicts):
        return SHARING.open(why, command)
    return SHARING.excluded(why)


def missing_rule(known: KnownCause, role: str) -> Rule:
    """The role is on the key for nobody of Anthropic's, and nothing else explains it."""

    def rule(facts: DiagnosisFacts) -> Cause:
        command = grant(facts.request.key_name, role)
        grants = _explained(facts)
        if grants is None:
            return _unreadable(facts, known, command)
        if role not in grants.missing:
            return known.excluded(f"{role} is on the key, or another cause explains it")
        if domain_sharing(facts).verdict == "proved":
            return known.excluded(f"{role} is missing because domain restricted sharing forbids it")
        others = f"; it has {', '.join(grants.others)}" if grants.others else ""
        return known.proved(f"{SERVICE_ACCOUNT} lacks {role} on the key{others}", command)

    return rule


encrypter_missing: Final = missing_rule(ENCRYPTER, ENCRYPTER_DECRYPTER)
viewer_missing: Final = missing_rule(VIEWER_MISSING, VIEWER)


def iam_settling(facts: DiagnosisFacts) -> Cause:
    """Both grants stand, but were written too recently to have reached everywhere."""
    grants = _explained(facts)
    command = "wait a few minutes, then validate again"
    if grants is None:
        return _unreadable(facts, UNSETTLED, command)
    if grants.missing or grants.conditional or grants.wrong_member or grants.above:
        return UNSETTLED.excluded("not both grants stand on the key")
    if facts.granted_at is None:
        return UNSETTLED.open("both grants stand; since when is not known", command)
    age = facts.now - facts.granted_at
    minutes = age.total_seconds() // 60
    since = f"both grants stand since {facts.granted_at:%H:%M:%S} UTC, {minutes:.0f} min"
    if age < SETTLING:
        until = facts.granted_at + SETTLING
        return UNSETTLED.open(since, f"wait until {until:%H:%M} UTC, then validate again")
    return UNSETTLED.excluded(f"{since}: long enough")


def _of_grants(
    facts: DiagnosisFacts, known: KnownCause, pick: Callable[[_Grants], list[Grant]]
) -> Cause:
    name = facts.request.key_name
    grants = _explained(facts)
    if grants is None:
        both = " && ".join(grant(name, role) for role in ROLES)
        return _unreadable(facts, known, both)
    found = pick(grants)
    if not found:
        return known.excluded("no grant is of that kind")
    why = "; ".join(_describe(one) for one in found)
    if known is WRONG_LEVEL:
        why += "; Google inherits it, but the guide asks for the key itself"
    take = [] if known is WRONG_LEVEL else [_revoke(one) for one in found]
    put = [grant(name, role) for role in dict.fromkeys(one.role for one in found)]
    return known.proved(why, " && ".join(dict.fromkeys(take + put)))


def _describe(one: Grant) -> str:
    condition = f" if {one.condition}" if one.condition else ""
    return f"{one.role} to {one.member} on {one.resource}{condition}"


def _revoke(one: Grant) -> str:
    return revoke(one.resource, one.member, one.role)


def _explained(facts: DiagnosisFacts) -> _Grants | None:
    """Sort the missing roles by explanation; None when the key's policy could not be read."""
    policy = value_of(facts.findings.kms.key_policy)
    if policy is None:
        return None
    name = str(facts.request.key_name)
    on_key = list(grants_in(name, policy))
    ours = [one for one in on_key if one.member == MEMBER]
    held = {one.role for one in ours if one.condition is None}
    found = _Grants(others=sorted({one.role for one in ours}.difference(ROLES)))
    above = list(_above(facts))
    for role in ROLES:
        if role in held:
            continue
        conditional = [one for one in ours if one.role == role]
        wrong = [one for one in on_key if one.role == role and _is_impostor(one.member)]
        higher = [one for one in above if one.role == role and one.condition is None]
        if conditional:
            found.conditional.extend(conditional)
        elif wrong:
            found.wrong_member.extend(wrong)
        elif higher:
            found.above.extend(higher)
        else:
            found.missing.append(role)
    return found


def _is_impostor(member: str) -> bool:
    return kind_of(member) in {"look_alike", "deleted"}


def _above(facts: DiagnosisFacts) -> Iterator[Grant]:
    levels: dict[str, Read[policy_pb2.Policy] | None] = {
        facts.request.key_name.key_ring_name: facts.findings.kms.ring_policy,
        **facts.findings.google.policies,
    }
    for resource, read in levels.items():
        if isinstance(read, Answer):
            yield from (one for one in grants_in(resource, read.value) if one.member == MEMBER)


def _sharing_checks(facts: DiagnosisFacts) -> list[Check]:
    return [
        *check_legacy(facts.request, facts.findings),
        *check_managed(facts.request, facts.findings),
    ]


def _unreadable(facts: DiagnosisFacts, known: KnownCause, command: str) -> Cause:
    if facts.key is None:
        return without_key(facts, known, command)
    return known.open(
        f"the key's policy could not be read: {facts.findings.kms.key_policy}", command
    )
