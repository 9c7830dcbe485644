"""Who else can use the key: broader grants of Anthropic's account, the public, impostors.

Source: guide step 3 (both roles on the key itself); CIS Google Cloud Foundations 1.9.

Rules about who may use the key: both grants, and nobody who should not.

Causes that lie in IAM: which of the two grants is not there, and what stands in its place.

Each missing grant has one explanation, the most telling one: conditional, to a wrong member, on
the wrong level, kept out by an organization policy, or simply missing. Source: guide step 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from google.iam.v1 import policy_pb2

from cmek._http import Failed, Ok, Result, ok_value
from cmek.anthropic_identity import ENCRYPTER_DECRYPTER, MEMBER, ROLES, SERVICE_ACCOUNT, VIEWER
from cmek.gcp.gcloud import grant, revoke
from cmek.gcp.iam import Grant, describe, grants_in, kind_of, of_kind
from cmek.keys.rules import Cause, CauseRule, DiagnosisFacts, Finding, KnownCause
from cmek.keys.rules_key import DECRYPTING_ROLES, without_key
from cmek.keys.rules_org import check_legacy, check_managed
from cmek.keys.snapshot import Findings, KeySnapshot
from cmek.keys.verdicts import Check, Prerequisite
from cmek.onboarding.request import OnboardingRequest

READS: Final = (
    "cloudkms GetIamPolicy on the ring and on the key",
    "cloudresourcemanager getIamPolicy on project, folders, organization (v3)",
)
WHO: Final = (
    "whoever has getIamPolicy on key ring, project, folders and organization "
    "(roles/iam.securityReviewer)"
)
KMS_ROLES: Final = ("roles/cloudkms.", "roles/owner", "roles/editor", "roles/viewer")
"""Roles by which a binding above the ring reaches into Cloud KMS."""

BROADER: Final = Prerequisite(
    "broader_grants",
    "Anthropic's account has the two roles on the key only",
    READS,
    WHO,
    "A grant above the key lets Anthropic's account use every key below it.",
)
PUBLIC: Final = Prerequisite(
    "public_members",
    "The public has no access to key and ring",
    READS,
    WHO,
    "Anybody, or anybody with a Google account, could use or inspect the key.",
)
LOOK_ALIKES: Final = Prerequisite(
    "look_alike_members",
    "Nobody only looks like Anthropic's account",
    READS,
    WHO,
    "A spoofed account with the crypto role can read the data; a deleted one can do nothing.",
)


def check_broader(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """Whatever Anthropic's account has beyond the two roles on the key."""
    grants, unreadable = _grants(request, findings)
    key = str(request.key_name)
    broader = [
        one
        for one in of_kind(grants, "anthropic")
        if not (one.resource == key and one.role in ROLES)
    ]
    if broader:
        yield BROADER.warned(describe(broader), _revoke_all(broader))
    else:
        yield _nothing_found(BROADER, unreadable)


def check_public(request: OnboardingRequest, findings: Findings) -> Iterator[Check]:
    """`allUsers` and `allAuthenticatedUsers`."""
    grants, unreadable = _grants(request, findings)
    public = of_kind(grants, "public")
    if public:
        yield PUBLIC.failed(describe(public), _revoke_all(public))
    else:
        yield _nothing_found(PUBLIC, unreadable)


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


def _grants(request: OnboardingRequest, findings: Findings) -> tuple[list[Grant], list[str]]:
    """All bindings on key and ring, those above that reach Cloud KMS, and what was unreadable."""
    key = request.key_name
    below: dict[str, Result[policy_pb2.Policy] | None] = {
        str(key): findings.kms.key_policy,
        key.key_ring_name: findings.kms.ring_policy,
    }
    grants: list[Grant] = []
    for resource, read in (below | dict(findings.google.policies)).items():
        if isinstance(read, Ok):
            everywhere = grants_in(resource, read.value)
            grants += [
                one for one in everywhere if resource in below or one.role.startswith(KMS_ROLES)
            ]
    unreadable = [
        resource
        for resource, read in (below | dict(findings.google.policies)).items()
        if read is not None and not isinstance(read, Ok)
    ]
    hidden = _hidden(request, findings)
    return grants, unreadable + hidden


def _hidden(request: OnboardingRequest, findings: Findings) -> list[str]:
    """Policies that nobody asked for, since already the resource could not be read."""
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
    return ", ".join(dict.fromkeys(names))


def _revoke_all(grants: list[Grant]) -> str:
    return " && ".join(revoke(one.resource, one.member, one.role) for one in grants)


PUBLIC_MEMBERS: Final = frozenset({"allUsers", "allAuthenticatedUsers"})
ENCRYPT_ONLY: Final = "roles/cloudkms.cryptoKeyEncrypter"
COVERING: Final = {
    ENCRYPTER_DECRYPTER: frozenset({ENCRYPTER_DECRYPTER, "roles/owner"}),
    ROLES[1]: frozenset({ROLES[1], "roles/cloudkms.admin", "roles/owner", "roles/viewer"}),
}
"""Roles that hold at least what a grant holds."""
ADMIN: Final = "roles/cloudkms.admin"


def grant_missing(snapshot: KeySnapshot) -> Iterator[Finding]:
    """Anthropic can't read or use the key without both roles."""
    for role in () if grant_may_be_on_project(snapshot) else _unheld(snapshot):
        lost = any(
            binding.role == role and any(_is_deleted_twin(m) for m in binding.members)
            for _, binding in snapshot.bindings()
        )
        why = " (there is one for a deleted account of that name)" if lost else ""
        yield Finding(
            f"the grant of {role} to Anthropic's service account is missing{why}",
            (grant(snapshot.name, role),) if snapshot.name else (),
            role,
        )


def grant_conditional(snapshot: KeySnapshot) -> Iterator[Finding]:
    """A grant under a condition may be refused at any moment."""
    for role in _lacking(snapshot):
        for condition in _conditions(snapshot, role):
            yield Finding(
                f"the grant of {role} holds only under the condition {condition}",
                (grant(snapshot.name, role),) if snapshot.name else (),
                role,
            )


def grant_inherited(snapshot: KeySnapshot) -> Iterator[Finding]:
    """It works, but by a grant on ring or project, which somebody may clean up."""
    for role in _lacking(snapshot):
        if _inherited(snapshot, role) and not _conditions(snapshot, role):
            yield Finding(
                f"the grant of {role} is on the key ring or project only, not on the key",
                (grant(snapshot.name, role),) if snapshot.name else (),
                role,
            )


def public_member(snapshot: KeySnapshot) -> Iterator[Finding]:
    """Anybody may do with the key what this role allows."""
    for where, binding in snapshot.all_bindings():
        for member in sorted(PUBLIC_MEMBERS & set(binding.members)):
            yield Finding(
                f"{member} has {binding.role} on {where}",
                (revoke(where, member, binding.role),),
                f"{where} {binding.role} {member}",
            )


def unexpected_decrypter(snapshot: KeySnapshot) -> Iterator[Finding]:
    """Somebody else may decrypt; those who could when it was recorded are known."""
    known = set(snapshot.baseline.decrypters) if snapshot.baseline else set()
    for where, binding in snapshot.bindings():
        if binding.role not in DECRYPTING_ROLES - {ENCRYPT_ONLY}:
            continue
        for member in binding.members:
            if (
                member == MEMBER
                or member in known
                or member in PUBLIC_MEMBERS
                or _is_deleted(member)
            ):
                continue
            yield Finding(
                f"{member} may decrypt ({binding.role} on {where})",
                (revoke(where, member, binding.role),),
                f"{where} {binding.role} {member}",
            )


def broader_grant(snapshot: KeySnapshot) -> Iterator[Finding]:
    """Anthropic's service account holds more than the guide gives it."""
    for where, binding in snapshot.all_bindings():
        on_key_itself = where == snapshot.registered_name
        if MEMBER in binding.members and not (on_key_itself and binding.role in ROLES):
            yield Finding(
                f"Anthropic's service account has {binding.role} on {where}",
                (revoke(where, MEMBER, binding.role),),
                f"{where} {binding.role}",
            )


def project_unread(snapshot: KeySnapshot) -> Iterator[Finding]:
    """Nothing hangs on it, but a grant above the ring would not be seen."""
    if isinstance(snapshot.project_policy, Failed):
        yield Finding(
            "the project's IAM policy could not be read, so grants there are not seen: "
            f"{snapshot.project_policy.text}"
        )


def separation_of_duties(snapshot: KeySnapshot) -> Iterator[Finding]:
    """One person may both administer the key and use it."""
    admins = _users(snapshot, {ADMIN})
    for member in sorted(admins & _users(snapshot, set(DECRYPTING_ROLES) - {"roles/owner"})):
        where = next(w for w, b in snapshot.bindings() if b.role == ADMIN and member in b.members)
        yield Finding(
            f"{member} both administers the key and may use it",
            (revoke(where, member, ADMIN),),
            member,
        )


def grant_may_be_on_project(snapshot: KeySnapshot) -> bool:
    """Whether only the project's policy could tell of a grant, and it was not read.

    What Anthropic can't use either is not in doubt.
    """
    seen = isinstance(snapshot.policy, Ok) and isinstance(snapshot.ring_policy, Ok)
    unseen = isinstance(snapshot.project_policy, Failed) and not snapshot.anthropic_failed
    return seen and unseen and any(_unheld(snapshot))


def _unheld(snapshot: KeySnapshot) -> Iterator[str]:
    """Roles that Anthropic has nowhere, as far as the policies were read."""
    for role in _lacking(snapshot):
        if not (_inherited(snapshot, role) or _conditions(snapshot, role)):
            yield role


def _lacking(snapshot: KeySnapshot) -> Iterator[str]:
    if snapshot.policy is None:
        return
    held = {
        binding.role
        for where, binding in snapshot.bindings()
        if where == snapshot.registered_name
        and MEMBER in binding.members
        and binding.condition is None
    }
    yield from (role for role in ROLES if role not in held)


def _conditions(snapshot: KeySnapshot, role: str) -> list[str]:
    return [
        binding.condition
        for _, binding in snapshot.bindings()
        if binding.role == role and MEMBER in binding.members and binding.condition
    ]


def _inherited(snapshot: KeySnapshot, role: str) -> bool:
    return any(
        binding.role in COVERING[role] and MEMBER in binding.members and binding.condition is None
        for where, binding in snapshot.all_bindings()
        if where != snapshot.registered_name
    )


def _users(snapshot: KeySnapshot, roles: set[str]) -> set[str]:
    return {
        member
        for _, binding in snapshot.all_bindings()
        if binding.role in roles
        for member in binding.members
        if member.startswith("user:")
    }


def _is_deleted(member: str) -> bool:
    return member.startswith("deleted:")


def _is_deleted_twin(member: str) -> bool:
    return _is_deleted(member) and SERVICE_ACCOUNT in member


ON_KEY: Final = "GetIamPolicy on the key"
ABOVE: Final = "GetIamPolicy on key, ring, project and above"
PROPAGATION_TIME: Final = timedelta(minutes=7)
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
IAM_PROPAGATION: Final = KnownCause("iam_settling", "IAM is still settling", ON_KEY)


@dataclass(frozen=True, slots=True)
class _Grants:
    """The missing roles, each under its explanation."""

    conditional: list[Grant] = field(default_factory=list)
    wrong_member: list[Grant] = field(default_factory=list)
    above: list[Grant] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    """Roles on the key that Anthropic's account has beyond the two."""


def grant_conditional_cause(facts: DiagnosisFacts) -> Cause:
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


def missing_rule(known: KnownCause, role: str) -> CauseRule:
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


def iam_propagation(facts: DiagnosisFacts) -> Cause:
    """Both grants stand, but were written too recently to have reached everywhere."""
    grants = _explained(facts)
    command = "wait a few minutes, then validate again"
    if grants is None:
        return _unreadable(facts, IAM_PROPAGATION, command)
    if grants.missing or grants.conditional or grants.wrong_member or grants.above:
        return IAM_PROPAGATION.excluded("not both grants stand on the key")
    if facts.granted_at is None:
        return IAM_PROPAGATION.open("both grants stand; since when is not known", command)
    age = facts.now - facts.granted_at
    minutes = age.total_seconds() // 60
    since = f"both grants stand since {facts.granted_at:%H:%M:%S} UTC, {minutes:.0f} min"
    if age < PROPAGATION_TIME:
        until = facts.granted_at + PROPAGATION_TIME
        return IAM_PROPAGATION.open(since, f"wait until {until:%H:%M} UTC, then validate again")
    return IAM_PROPAGATION.excluded(f"{since}: long enough")


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
    policy = ok_value(facts.findings.kms.key_policy)
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
        wrong = [one for one in on_key if one.role == role and _is_look_alike(one.member)]
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


def _is_look_alike(member: str) -> bool:
    return kind_of(member) in {"look_alike", "deleted"}


def _above(facts: DiagnosisFacts) -> Iterator[Grant]:
    levels: dict[str, Result[policy_pb2.Policy] | None] = {
        facts.request.key_name.key_ring_name: facts.findings.kms.ring_policy,
        **facts.findings.google.policies,
    }
    for resource, read in levels.items():
        if isinstance(read, Ok):
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
