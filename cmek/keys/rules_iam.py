"""Rules about IAM: the two grants on the key, and all other members who can use it.

A missing grant gets one explanation (`conditions.grant_statuses`). Source: guide step 3 (both
roles on the key itself); CIS Google Cloud Foundations 1.9 and 1.11.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Final

from google.iam.v1 import policy_pb2

from cmek._http import Failed, Ok, Result
from cmek.anthropic_identity import ENCRYPTER_DECRYPTER, MEMBER, ROLES, VIEWER
from cmek.errors import listed
from cmek.gcp.gcloud import grant, revoke
from cmek.gcp.iam import (
    BASIC_ROLES,
    PUBLIC,
    Grant,
    PolicyView,
    describe,
    grants_in,
    is_project,
    kind_of,
    of_kind,
    reaches_kms,
)
from cmek.keys.conditions import (
    DECRYPTING_ROLES,
    Condition,
    GrantState,
    GrantStatus,
    exceeding_grants,
    grant_statuses,
    granted,
    granted_in_another_form,
    grants_in_another_form,
    may_decrypt,
)
from cmek.keys.rules import Cause, CauseRule, DiagnosisFacts, Finding, KnownCause
from cmek.keys.rules_key import without_key
from cmek.keys.rules_org import check_legacy, check_managed
from cmek.keys.snapshot import Findings, KeySnapshot
from cmek.keys.verdicts import Check, Prerequisite
from cmek.names import KeyName, is_custom_role
from cmek.onboarding.request import OnboardingRequest

READS: Final = (
    "cloudkms GetIamPolicy on the ring and on the key",
    "cloudresourcemanager getIamPolicy on project, folders, organization (v3)",
)
WHO: Final = (
    "whoever has getIamPolicy on key ring, project, folders and organization "
    "(roles/iam.securityReviewer)"
)
BROADER: Final = Prerequisite(
    "broader_grants",
    "Anthropic's account has the two roles on the key only",
    READS,
    WHO,
    "A grant above the key lets Anthropic's account use every key below it.",
)
PUBLIC_MEMBERS: Final = Prerequisite(
    "public_members",
    "The public has no access to key and ring",
    READS,
    WHO,
    "Anybody, or anybody with a Google account, could use or inspect the key.",
)
LOOK_ALIKES: Final = Prerequisite(
    "look_alike_members",
    "No member imitates Anthropic's account",
    READS,
    WHO,
    "A spoofed account with the crypto role can read the data; a deleted one can do nothing.",
)


def check_broader(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """Roles of Anthropic's account other than the two on the key."""
    grants, unreadable = _grants(request, findings)
    broader = list(exceeding_grants(str(request.key_name), grants))
    if broader:
        first = _on_the_key_first(request.key_name, grants)
        found = describe(broader) + _others_below(broader, str(request.key_name))
        yield BROADER.warned(found, " && ".join([*first, _revoke_all(broader)]))
    else:
        yield _nothing_found(BROADER, unreadable)


def _on_the_key_first(name: KeyName, grants: Iterable[Grant]) -> tuple[str, ...]:
    """Commands that grant on the key what Anthropic has elsewhere only; else its access ends."""
    statuses = grant_statuses(name, list(grants))
    return tuple(grant(name, one.role) for one in statuses if one.state != "on_key")


def _others_below(grants: Iterable[Grant], key: str) -> str:
    if all(one.resource == key for one in grants):
        return ""
    return (
        ". Before you take it away: first grant both roles on every other key below that Anthropic "
        "uses"
    )


def check_public(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """`allUsers` and `allAuthenticatedUsers` must not have any role."""
    grants, unreadable = _grants(request, findings)
    public = of_kind(grants, "public")
    if public:
        yield PUBLIC_MEMBERS.failed(describe(public), _revoke_all(public))
    else:
        yield _nothing_found(PUBLIC_MEMBERS, unreadable)


def check_look_alikes(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """Look-alikes fail, deleted accounts warn; both are named."""
    grants, unreadable = _grants(request, findings)
    alike, deleted = of_kind(grants, "look_alike"), of_kind(grants, "deleted")
    if alike:
        yield LOOK_ALIKES.failed(describe(alike + deleted), _revoke_all(alike + deleted))
    elif deleted:
        yield LOOK_ALIKES.warned(describe(deleted), _revoke_all(deleted))
    else:
        yield _nothing_found(LOOK_ALIKES, unreadable)


def other_decrypters(
    request: OnboardingRequest, findings: Findings
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Members besides Anthropic who can decrypt with the key, and the policies that were not read.

    Members of bindings on the key, its ring, its project and above, as `MEMBER (ROLE on RESOURCE)`.
    Custom roles are included, since only their names are known.
    """
    grants, unreadable = _grants(request, findings)
    found = {
        _holder(one)
        for one in grants
        # deleted members can't decrypt any more
        if may_decrypt(one.role) and one.member != MEMBER and not one.member.startswith("deleted:")
    }
    return tuple(sorted(found)), tuple(dict.fromkeys(unreadable))


def _holder(one: Grant) -> str:
    return f"{one.member} ({one.role} on {one.resource})"


def _grants(request: OnboardingRequest, findings: Findings) -> tuple[list[Grant], list[str]]:
    """Grants on key and ring, grants above that allow something in KMS, and unreadable policies."""
    key = request.key_name
    below: dict[str, Result[policy_pb2.Policy] | None] = {
        str(key): findings.kms.key_policy,
        key.key_ring_name: findings.kms.ring_policy,
    }
    grants: list[Grant] = []
    for resource, read in (below | dict(findings.google.policies)).items():
        if isinstance(read, Ok):
            everywhere = grants_in(resource, PolicyView.of(read.value))
            grants += [one for one in everywhere if resource in below or reaches_kms(one.role)]
    unreadable = [
        resource
        for resource, read in (below | dict(findings.google.policies)).items()
        if read is not None and not isinstance(read, Ok)
    ]
    hidden = _hidden(request, findings)
    return grants, unreadable + hidden


def _hidden(request: OnboardingRequest, findings: Findings) -> list[str]:
    """Policies that were not requested, because the resource itself could not be read."""
    key = request.key_name
    reads = {
        str(key): findings.kms.key,
        key.key_ring_name: findings.kms.key_ring,
        "folders and organization": findings.google.ancestors,
    }
    return [name for name, read in reads.items() if not isinstance(read, Ok)]


def _nothing_found(check: Prerequisite, unreadable: list[str]) -> Check:
    if unreadable:
        return check.unknown(f"nothing found where we can read; not readable: {_list(unreadable)}")
    return check.passed("nothing found on key, ring, project and above")


def _list(names: list[str]) -> str:
    return listed(dict.fromkeys(names))


_AT_ONCE: Final = 8
"""Most commands in one remedy."""


def _revoke_all(grants: Iterable[Grant]) -> str:
    """The commands; of many only the first ones: the next check shows the rest."""
    commands = [revoke(one.resource, one.member, one.role) for one in grants]
    return " && ".join(commands[:_AT_ONCE])


ADMIN: Final = "roles/cloudkms.admin"


def _statuses(snapshot: KeySnapshot) -> Iterator[GrantStatus]:
    """The status of both roles; nothing if the key's policy was not requested."""
    if snapshot.policy is not None and snapshot.name is not None:
        yield from grant_statuses(snapshot.name, snapshot.all_grants())


def _grants_that_are(snapshot: KeySnapshot, *states: GrantState) -> Iterator[Finding]:
    for status in _statuses(snapshot):
        if status.state in states and snapshot.name is not None:
            yield from Finding.of(granted(status, snapshot.name))


def _missing_grants(
    snapshot: KeySnapshot,
) -> Iterator[tuple[GrantStatus, KeyName, tuple[Grant, ...]]]:
    """Each role that is not granted, with grants that may allow Anthropic the same."""
    for status in _statuses(snapshot):
        if status.state in {"missing", "wrong_member"} and snapshot.name is not None:
            others = grants_in_another_form(status.role, snapshot.all_grants())
            yield status, snapshot.name, others


def grant_missing(snapshot: KeySnapshot) -> Iterator[Finding]:
    """Anthropic can't read or use the key without both roles."""
    if not grant_may_be_on_project(snapshot):
        for status, name, others in _missing_grants(snapshot):
            if not others:
                yield from Finding.of(granted(status, name))


def grant_in_another_form(snapshot: KeySnapshot) -> Iterator[Finding]:
    """Another role may allow Anthropic the same; a failed validation shows that it does not."""
    for status, name, others in _missing_grants(snapshot):
        if others:
            yield from Finding.of(granted_in_another_form(status.role, others, name))


def grant_conditional(snapshot: KeySnapshot) -> Iterator[Finding]:
    """A grant under a condition may be refused at any moment."""
    return _grants_that_are(snapshot, "conditional")


def grant_inherited(snapshot: KeySnapshot) -> Iterator[Finding]:
    """It works, but only by a grant on ring or project, which somebody may remove there."""
    return _grants_that_are(snapshot, "inherited")


def public_member(snapshot: KeySnapshot) -> Iterator[Finding]:
    """Anybody may do with the key what this role allows."""
    return _each(one for one in snapshot.all_grants() if one.member in PUBLIC)


def unexpected_decrypter(snapshot: KeySnapshot) -> Iterator[Finding]:
    """A member may decrypt who could not when the key was recorded, or imitates Anthropic's."""
    known = set(snapshot.baseline.decrypters) if snapshot.baseline else set()
    expected = known | PUBLIC | {MEMBER}  # the public has a rule of its own
    return _each(
        one
        for one in snapshot.all_grants()
        if one.member not in expected
        and not one.member.startswith("deleted:")
        and (kind_of(one.member) == "look_alike" or _is_new_decrypter(one, snapshot))
    )


def _is_new_decrypter(one: Grant, snapshot: KeySnapshot) -> bool:
    """Whether this grant may allow to decrypt, and was not there when the key was recorded.

    Who could decrypt by a grant on the project or by a custom role is known from the approved plan
    only. Basic roles on the project are left out: who owns a project changes all the time.
    """
    if not may_decrypt(one.role):
        return False
    on_project = is_project(one.resource)
    if not on_project and not is_custom_role(one.role):
        return True
    approved = snapshot.baseline.approved_decrypters if snapshot.baseline else None
    basic = on_project and one.role in BASIC_ROLES
    return approved is not None and not basic and _holder(one) not in approved


def may_be_on_unread_project(rule: str, subject: str, snapshot: KeySnapshot) -> bool:
    """Whether a reason of an earlier check may be about the project, which can't be read now."""
    if not isinstance(snapshot.project_policy, Failed):
        return False
    resource, _, grant = subject.partition(" ")  # as `_each` writes it
    return is_project(resource) if grant else rule in _ALSO_ON_PROJECT


_ALSO_ON_PROJECT: Final = frozenset({"grant-inherited", "kms-role-separation"})
"""Rules that find grants on the project, and whose subjects do not say so."""


def broader_grant(snapshot: KeySnapshot) -> Iterator[Finding]:
    """Anthropic's service account holds more than the guide gives it."""
    grants = list(snapshot.all_grants())
    first = _on_the_key_first(snapshot.name, grants) if snapshot.name else ()
    for one in exceeding_grants(snapshot.registered_name, grants):
        (finding,) = _each([one])
        yield Finding(
            finding.says + _others_below([one], snapshot.registered_name),
            (*first, *finding.commands),
            finding.subject,
        )


def _each(grants: Iterable[Grant]) -> Iterator[Finding]:
    """One finding for each grant that should not exist."""
    for one in grants:
        subject = f"{one.resource} {one.role} {one.member}"
        yield Finding(describe((one,)), (revoke(one.resource, one.member, one.role),), subject)


def project_unread(snapshot: KeySnapshot) -> Iterator[Finding]:
    """Grants on the project are not seen; the verdict does not depend on them."""
    if isinstance(snapshot.project_policy, Failed):
        yield Finding(
            "the project's IAM policy could not be read, so grants there are not seen: "
            f"{snapshot.project_policy.text}"
        )


def separation_of_duties(snapshot: KeySnapshot) -> Iterator[Finding]:
    """One person may both administer the key and use it."""
    admins = {one.member: one for one in snapshot.all_grants() if one.role == ADMIN}
    using = DECRYPTING_ROLES - {"roles/owner", "roles/admin"}
    users = {one.member for one in snapshot.all_grants() if one.role in using}
    for member in sorted(users.intersection(admins)):
        if member.startswith("user:"):
            yield Finding(
                f"{member} both administers the key and may use it",
                (revoke(admins[member].resource, member, ADMIN),),
                member,
            )


def grant_may_be_on_project(snapshot: KeySnapshot) -> bool:
    """Whether a missing grant may be on the project, whose policy could not be read.

    If Anthropic's validation failed as well, the grant is certainly missing.
    """
    seen = isinstance(snapshot.policy, Ok) and isinstance(snapshot.ring_policy, Ok)
    unseen = isinstance(snapshot.project_policy, Failed) and not snapshot.anthropic_failed
    missing = any(not others for _, _, others in _missing_grants(snapshot))
    return seen and unseen and missing


ON_KEY: Final = "GetIamPolicy on the key"
ABOVE: Final = "GetIamPolicy on key, ring, project and above"
PROPAGATION_TIME: Final = timedelta(minutes=7)
"""Google: an IAM change takes effect within 2 minutes as a rule, sometimes after 7 or more."""

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
IAM_PROPAGATION: Final = KnownCause("iam_settling", "IAM is still settling", ON_KEY)


def grant_in_state(known: KnownCause, state: GrantState) -> CauseRule:
    """A rule whose cause is proved by a role with a grant in this state."""

    def rule(facts: DiagnosisFacts) -> Cause:
        statuses = _explained(facts)
        if statuses is None:
            return _unreadable(facts, known, _grant_both(facts, ROLES))
        found = [granted(one, facts.request.key_name) for one in statuses if one.state == state]
        if not found:
            return known.excluded("no grant is of that kind")
        return known.judge(_together(found))

    return rule


def _together(conditions: list[Condition]) -> Condition:
    """One condition for both roles; not doubtful, since the validation has failed."""
    remedy = dict.fromkeys(command for one in conditions for command in one.remedy)
    return Condition(False, "; ".join(one.evidence for one in conditions), tuple(remedy))


grant_conditional_cause: Final = grant_in_state(CONDITIONAL, "conditional")
grant_wrong_member: Final = grant_in_state(WRONG_MEMBER, "wrong_member")
grant_wrong_level: Final = grant_in_state(WRONG_LEVEL, "inherited")


def domain_sharing(facts: DiagnosisFacts) -> Cause:
    """A grant is missing, and an organization policy would refuse it."""
    checks = [
        *check_legacy(facts.request, facts.findings),
        *check_managed(facts.request, facts.findings),
    ]
    command = next((one.remedy for one in checks if one.remedy), None) or "none needed"
    missing = _missing(facts)
    if missing is None:
        return _unreadable(facts, SHARING, command)
    if not missing:
        return SHARING.excluded("no grant is missing")
    why = "; ".join(one.evidence for one in checks)
    if any(one.status == "fail" for one in checks):
        return SHARING.proved(why, f"{command}; then {_grant_both(facts, missing)}")
    if any(one.status == "unknown" for one in checks):
        return SHARING.open(why, command)
    return SHARING.excluded(why)


def missing_rule(known: KnownCause, role: str) -> CauseRule:
    """A rule: the role is not granted to Anthropic's account, and no other cause explains it."""

    def rule(facts: DiagnosisFacts) -> Cause:
        statuses = _explained(facts)
        if statuses is None:
            return _unreadable(facts, known, grant(facts.request.key_name, role))
        status = next(one for one in statuses if one.role == role)
        if status.state != "missing":
            return known.excluded(f"{role} is on the key, or another cause explains it")
        if domain_sharing(facts).verdict == "proved":
            return known.excluded(f"{role} is missing because domain restricted sharing forbids it")
        cause = known.judge(granted(status, facts.request.key_name))
        others = sorted({one.role for one in _on_key(facts)}.difference(ROLES))
        more = f"; it has {', '.join(others)}" if others else ""
        return cause.model_copy(update={"why": cause.why + more})

    return rule


encrypter_missing: Final = missing_rule(ENCRYPTER, ENCRYPTER_DECRYPTER)
viewer_missing: Final = missing_rule(VIEWER_MISSING, VIEWER)


def iam_propagation(facts: DiagnosisFacts) -> Cause:
    """Both grants exist, but were written so recently that they may not be effective everywhere."""
    statuses = _explained(facts)
    command = "wait a few minutes, then validate again"
    if statuses is None:
        return _unreadable(facts, IAM_PROPAGATION, command)
    if any(one.state != "on_key" for one in statuses):
        return IAM_PROPAGATION.excluded("not both grants are on the key")
    if facts.granted_at is None:
        return IAM_PROPAGATION.open("both grants exist; since when is not known", command)
    age = facts.now - facts.granted_at
    minutes = age.total_seconds() // 60
    since = f"both grants exist since {facts.granted_at:%H:%M:%S} UTC, {minutes:.0f} min"
    if age < PROPAGATION_TIME:
        until = facts.granted_at + PROPAGATION_TIME
        return IAM_PROPAGATION.open(since, f"wait until {until:%H:%M} UTC, then validate again")
    return IAM_PROPAGATION.excluded(f"{since}: long enough")


def _grant_both(facts: DiagnosisFacts, roles: Iterable[str]) -> str:
    return " && ".join(grant(facts.request.key_name, role) for role in roles)


def _explained(facts: DiagnosisFacts) -> tuple[GrantStatus, ...] | None:
    """The status of both roles; None when the key's policy could not be read."""
    if not isinstance(facts.findings.kms.key_policy, Ok):
        return None
    grants, _ = _grants(facts.request, facts.findings)
    return grant_statuses(facts.request.key_name, grants)


def _missing(facts: DiagnosisFacts) -> list[str] | None:
    statuses = _explained(facts)
    if statuses is None:
        return None
    return [one.role for one in statuses if one.state == "missing"]


def _on_key(facts: DiagnosisFacts) -> list[Grant]:
    """The grants of Anthropic's account on the key itself."""
    key = str(facts.request.key_name)
    grants, _ = _grants(facts.request, facts.findings)
    return [one for one in of_kind(grants, "anthropic") if one.resource == key]


def _unreadable(facts: DiagnosisFacts, known: KnownCause, command: str) -> Cause:
    if facts.key is None:
        return without_key(facts, known, command)
    return known.open(
        f"the key's policy could not be read: {facts.findings.kms.key_policy}", command
    )
