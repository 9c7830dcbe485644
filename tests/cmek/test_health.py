"""Verdicts, follow-up checks, changes and pages: properties of the pure parts."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from datetime import date, datetime, timedelta
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from cli.deploy import automation_files
from cmek._http import Failed, Ok
from cmek.anthropic.models import Validation
from cmek.anthropic_identity import MEMBER, ROLES
from cmek.gcp.iam import PolicyBinding, PolicyView
from cmek.keys import unreachable
from cmek.keys.announcements import (
    agreed,
    announced_now,
    event_id,
    health_event,
    is_news,
)
from cmek.keys.health import (
    judge,
    needs_validation,
    unfinished,
)
from cmek.keys.history import SIGNS, key_page, onboarding_record, read_page, shown_time
from cmek.keys.snapshot import KeySnapshot
from cmek.keys.verdicts import (
    CLOCKS_DIFFER,
    CheckRun,
    Health,
    HealthReason,
    KeyRecord,
    Severity,
    UnreachableState,
)
from cmek.revalidation.fleet import (
    DAYS,
    MARKS,
    OVERDUE,
    SHOWN_KEYS,
    FleetRow,
    merged,
    overview,
    published,
    read_rows,
)
from cmek.revalidation.fleet import facts as facts_of
from cmek.revalidation.request import KeyRef, RateLimiter, by_ring
from tests.support.facts import KEY_NAME, NOW, ORGANIZATION, facts, key, version

GRANTED = PolicyView(
    bindings=tuple(PolicyBinding(role=role, members=(MEMBER,)) for role in ROLES), etag="AA=="
)
NOBODY = PolicyView(bindings=(), etag="AA==")
REFUSED = Failed("PERMISSION_DENIED", "not for you")
RUN = "3f1c9a52-0000-4000-8000-000000000001"


def look(
    minutes: float = 0, *, run: str = RUN, recheck_of: UnreachableState | None = None
) -> CheckRun:
    """A check, this many minutes later."""
    now = NOW + timedelta(minutes=minutes)
    return CheckRun(run_id=run, now=now, recheck_of=recheck_of)


def reading(**changes: Any) -> KeySnapshot:
    """A snapshot in which everything was read and is healthy."""
    healthy = key(
        rotation_period=timedelta(days=90),
        next_rotation_time=NOW + timedelta(days=30),
        destroy_scheduled_duration=timedelta(days=30),
    )
    values: dict[str, Any] = {
        "external_key_id": "ekey_01TestKey",
        "registered_name": KEY_NAME,
        "registered_at": NOW - timedelta(days=60),
        "workspaces": ("search (wrkspc_01Search)",),
        "organization_id": ORGANIZATION,
        "now": NOW,
        "depth": "full",
        "validation": validated(),
        "key": Ok(healthy),
        "versions": Ok((version(),)),
        "policy": Ok(GRANTED),
        "ring_policy": Ok(NOBODY),
    }
    return KeySnapshot(**(values | changes))


def validated(error: str | None = None) -> Ok[Validation]:
    """Anthropic's answer."""
    status = "failure" if error else "success"
    return Ok(Validation(status=status, error=error, request_id="req_01"))


def record(verdict: Health, **changes: Any) -> KeyRecord:
    """A record with this verdict."""
    values = {
        "external_key_id": "ekey_01TestKey",
        "key_name": KEY_NAME,
        "workspaces": ("search (wrkspc_01Search)",),
        "verdict": verdict,
        "since": NOW,
        "checked_at": NOW,
        "depth": "full",
        "run_id": RUN,
        "reasons": (),
        "announced": verdict,
        "announced_before": Health.HEALTHY,
    }
    return KeyRecord(**(values | changes))


def test_a_correct_key_is_healthy_and_recorded_for_later_checks() -> None:
    """The first full check becomes the baseline of later checks."""
    found = judge(reading(), None, look())
    assert (found.verdict, found.reasons) == (Health.HEALTHY, ())
    assert found.baseline is not None
    assert found.baseline.source == "first look"


@given(
    st.sets(st.sampled_from(["validation", "key", "versions", "policy", "ring_policy"]), min_size=1)
)
def test_a_check_that_could_not_read_everything_is_never_healthy(parts: set[str]) -> None:
    """Whatever was refused, the verdict is unknown, and the reason says who can tell."""
    found = judge(reading(**dict.fromkeys(parts, REFUSED)), None, look())
    assert found.verdict is Health.UNKNOWN
    assert all(r.who_can_tell for r in found.reasons if r.means is Health.UNKNOWN)
    assert found.unreachable is not None
    assert found.baseline is None or parts == {"validation"}


@given(st.sampled_from(["validation", "versions", "policy", "ring_policy"]))
def test_what_is_broken_is_broken_whatever_else_could_not_be_read(part: str) -> None:
    """A refused read does not hide a cause that was found."""
    broken = Ok(key(primary=version(1, "DISABLED")))
    found = judge(reading(key=broken, **{part: REFUSED}), None, look())
    assert found.verdict is Health.BROKEN
    assert found.unreachable is None


def test_a_grant_that_may_be_on_the_project_is_not_missing_while_nobody_can_tell() -> None:
    """If Anthropic cannot use the key either, the grant that we do not see is the cause."""
    nowhere_seen = {"policy": Ok(NOBODY), "project_policy": REFUSED}
    found = judge(reading(**nowhere_seen), None, look())
    assert found.verdict is Health.UNKNOWN
    assert [r.subject for r in found.reasons if r.who_can_tell] == ["the project's policy"]
    failed = judge(reading(**nowhere_seen, validation=validated("no permission")), None, look())
    assert failed.verdict is Health.BROKEN
    on_key = judge(reading(project_policy=REFUSED), None, look())
    assert on_key.verdict is Health.HEALTHY


def test_a_second_check_keeps_every_date() -> None:
    """The `since` of verdict and reasons does not move with each check."""
    broken = reading(key=Ok(key(primary=version(1, "DISABLED"))))
    first = judge(broken, None, look())
    second = judge(broken, first, look(60, run="another"))
    assert second.since == first.since
    assert [r.since for r in second.reasons] == [r.since for r in first.reasons]


def test_a_foreign_decrypter_that_was_recorded_is_known_and_a_new_one_is_not() -> None:
    """The recorded users of an adopted key give no reason."""
    decrypter = PolicyBinding(
        role="roles/cloudkms.cryptoKeyDecrypter",
        members=("user:old@example.com", "user:new@example.com"),
    )
    policy = PolicyView(bindings=(*GRANTED.bindings, decrypter), etag="AA==")
    first = judge(reading(), None, look())
    assert first.baseline is not None
    baseline = first.baseline.model_copy(update={"decrypters": ("user:old@example.com",)})
    found = judge(reading(policy=Ok(policy), baseline=baseline), None, look())
    subjects = [r.subject for r in found.reasons if r.rule == "foreign-decrypter"]
    assert subjects == [f"{KEY_NAME} roles/cloudkms.cryptoKeyDecrypter user:new@example.com"]


PROJECT = f"projects/{KEY_NAME.split('/')[1]}"
SPOOFED = MEMBER.replace("@", "@evil-")


@pytest.mark.parametrize(
    ("role", "member", "on_key", "found"),
    [
        ("roles/cloudkms.cryptoKeyDecrypter", "user:new@example.com", False, True),
        ("roles/cloudkms.cryptoKeyDecrypter", "user:old@example.com", False, False),
        ("projects/p/roles/any", "user:new@example.com", True, True),
        ("projects/p/roles/any", "user:old@example.com", True, False),
        ("projects/p/roles/any", "user:new@example.com", False, True),
        ("roles/owner", "user:new@example.com", False, False),
        ("roles/cloudkms.viewer", SPOOFED, False, True),
        ("roles/cloudkms.cryptoKeyEncrypterDecrypter", f"deleted:{SPOOFED}?uid=1", False, False),
    ],
)
def test_who_may_decrypt_by_project_or_custom_role_is_compared_with_the_approved_plan(
    role: str, member: str, on_key: bool, found: bool
) -> None:
    """Without a plan nobody knows who was there before, so only a look-alike counts."""
    binding = PolicyBinding(role=role, members=(member,))
    policy = PolicyView(bindings=(*GRANTED.bindings, *([binding] if on_key else [])), etag="AA==")
    above = PolicyView(bindings=() if on_key else (binding,), etag="AA==")
    first = judge(reading(), None, look())
    assert first.baseline is not None
    resource = KEY_NAME if on_key else PROJECT
    approved = (f"user:old@example.com ({role} on {resource})",)
    for known, expected in ((approved, found), (None, found and member == SPOOFED)):
        baseline = first.baseline.model_copy(update={"approved_decrypters": known})
        now = reading(policy=Ok(policy), project_policy=Ok(above), baseline=baseline)
        reasons = [r.subject for r in judge(now, None, look()).reasons]
        assert (f"{resource} {role} {member}" in reasons) is expected


def test_what_was_found_on_the_project_stays_while_its_policy_can_not_be_read() -> None:
    """Else a refused read would be announced as a recovery, and its end as a new risk."""
    public = PolicyBinding(
        role="roles/cloudkms.cryptoKeyDecrypter", members=("allAuthenticatedUsers",)
    )
    above = PolicyView(bindings=(public,), etag="AA==")
    found = judge(reading(project_policy=Ok(above)), None, look())
    refused = reading(project_policy=Failed("UNAVAILABLE", "no answer"))
    unread = judge(refused, found, look(60, run="another"))
    assert (found.verdict, unread.verdict) == (Health.AT_RISK, Health.AT_RISK)
    assert unread.announced_at == found.announced_at
    gone = judge(reading(project_policy=Ok(NOBODY)), unread, look(120, run="3"))
    assert gone.verdict is Health.HEALTHY
    on_key = reading(policy=Ok(PolicyView(bindings=(*GRANTED.bindings, public), etag="AA==")))
    mended = judge(refused, judge(on_key, None, look()), look(60, run="another"))
    assert mended.verdict is Health.HEALTHY


def test_a_failed_validation_is_asked_for_again_until_one_succeeds() -> None:
    """Anthropic's own time limit counts as a failure, and a harmless risk would explain it."""
    conditional = PolicyView(
        bindings=tuple(
            one.model_copy(update={"condition": 'expression: "true"'}) for one in GRANTED.bindings
        ),
        etag="AA==",
    )
    first = judge(reading(policy=Ok(conditional)), None, look())
    failing = reading(policy=Ok(conditional), validation=validated("no answer"))
    failed = judge(failing, first, look(60, run="another"))
    assert failed.verdict is Health.BROKEN
    assert needs_validation(reading(policy=Ok(conditional), validation=None), failed)
    again = judge(reading(policy=Ok(conditional)), failed, look(120, run="3"))
    assert again.verdict is Health.AT_RISK


def test_a_key_of_an_external_key_manager_that_validates_is_not_broken() -> None:
    """Cloud KMS shows another algorithm for it; somebody attached it in the Console."""
    external = {
        "protection_level": "EXTERNAL",
        "algorithm": "EXTERNAL_SYMMETRIC_ENCRYPTION",
        "destroy_scheduled_duration": timedelta(days=30),
    }
    found = judge(reading(key=Ok(key(**external))), None, look())
    assert found.verdict is not Health.BROKEN, found.reasons


def test_the_command_that_takes_a_grant_above_the_key_away_first_grants_on_the_key() -> None:
    """Else the workspace stops; other keys below may also work by that grant only."""
    above = PolicyView(
        bindings=tuple(PolicyBinding(role=role, members=(MEMBER,)) for role in ROLES), etag="AA=="
    )
    now = reading(policy=Ok(NOBODY), project_policy=Ok(above))
    reasons = [r for r in judge(now, None, look()).reasons if r.rule == "broader-grant"]
    assert len(reasons) == 2
    for reason in reasons:
        *grants, last = reason.commands
        assert len(grants) == 2
        assert all("kms keys add-iam-policy-binding" in one for one in grants)
        assert "projects remove-iam-policy-binding" in last
        assert "other key below" in reason.says


@pytest.mark.parametrize(
    ("reason", "who"),
    [("CONNECTION", "network"), ("CLOCK", "clock"), ("CREDENTIALS", "lacks the right")],
)
def test_without_a_token_the_cause_is_said_where_it_is_known(reason: str, who: str) -> None:
    """Where no token server is reached nobody has refused anything."""
    lost = Failed("UNAUTHENTICATED", "no Google credentials", reason=reason)
    found = judge(reading(key=lost), None, look())
    assert all(who in str(one.who_can_tell) for one in found.reasons if one.rule == "unread")


def test_a_version_that_was_usable_meanwhile_is_no_longer_excused() -> None:
    """It may have data of Anthropic's from then on; a quick check sees it as the primary."""
    first = judge(reading(), None, look())
    assert first.baseline is not None
    excused = first.baseline.model_copy(update={"unusable_versions": ("1", "7")})
    seen = judge(reading(baseline=excused, versions=None), None, look())
    assert seen.baseline is not None
    assert seen.baseline.unusable_versions == ("7",)


def test_a_version_that_was_disabled_at_onboarding_protects_no_data_of_ours() -> None:
    """The same state without that record is broken."""
    first = judge(reading(), None, look())
    assert first.baseline is not None
    versions = Ok((version(1, "DISABLED"), version(2)))
    rotated = Ok(key(primary=version(2), rotation_period=timedelta(days=90)))
    known = {"source": "onboarding", "unusable_versions": ("1",)}
    for update, verdict in ((known, "healthy"), ({"source": "onboarding"}, "broken")):
        baseline = first.baseline.model_copy(update=update | {"destroy_scheduled_duration": None})
        found = judge(reading(key=rotated, versions=versions, baseline=baseline), None, look())
        assert found.verdict == verdict


@pytest.mark.parametrize("role", ROLES)
def test_a_grant_to_a_deleted_account_is_named_as_such(role: str) -> None:
    """A binding for `deleted:` looks like a grant, but has no effect."""
    gone = PolicyBinding(role=role, members=(f"deleted:{MEMBER}?uid=1",))
    kept = tuple(b for b in GRANTED.bindings if b.role != role)
    found = judge(reading(policy=Ok(PolicyView(bindings=(*kept, gone), etag=""))), None, look())
    assert found.worst is not None
    assert found.worst.subject == role
    assert "deleted:" in found.worst.says


def test_it_is_checked_again_each_minute_five_times_then_each_five_minutes_for_a_day() -> None:
    """Other services with customers' keys publish the same schedule."""
    state: UnreachableState | None = None
    now, waits = NOW, []
    while True:
        step = CheckRun(run_id=RUN, now=now, recheck_of=state)
        state = unreachable.record_failed_check(state, step, "ekey_01TestKey", validated=False)
        if state.next_check is None:
            break
        waits.append(state.next_check - now)
        now = state.next_check
    assert waits[:5] == [timedelta(minutes=1)] * 5
    assert set(waits[5:]) == {timedelta(minutes=5)}
    assert now - NOW == timedelta(days=1)
    assert unreachable.has_failed_for_a_day(state, now)


@given(
    late=st.lists(st.floats(0, 600), min_size=1, max_size=9),
    swept=st.lists(st.floats(0, 1430), max_size=30),
)
@example(late=[40.0], swept=[15.5 * quarter for quarter in range(90)])
def test_a_key_has_one_chain_of_follow_ups_however_late_they_are_and_whoever_checks_it_meanwhile(
    late: list[float], swept: list[float]
) -> None:
    """Of those that are to come, one only is that of the record; each other just checks once."""
    state: UnreachableState | None = None
    waiting: list[tuple[datetime, int, UnreachableState | None]] = [
        (NOW + timedelta(minutes=minutes), number, None)
        for number, minutes in enumerate([0, *swept])
    ]
    heapify(waiting)
    others, runs = len(waiting), 0
    while waiting:
        now, number, recheck_of = heappop(waiting)
        runs += 1
        at = CheckRun(run_id=str(number), now=now, recheck_of=recheck_of)
        state = unreachable.record_failed_check(state, at, "ekey_01TestKey", validated=False)
        if state.scheduled_by == at.run_id and state.next_check:
            delay = timedelta(seconds=late[runs % len(late)])
            heappush(waiting, (state.next_check + delay, others + runs, state))
        current = [one for *_, one in waiting if one and one.scheduled_by == state.scheduled_by]
        assert len(current) == (state.next_check is not None)
    # five after a minute each, then one in five minutes; each other run adds itself and one more
    assert runs <= 2 * others + 5 + 24 * 60 / 5


ANSWERS: dict[str, dict[str, Any]] = {
    "success": {},
    "failure": {"validation": validated("timed out")},
    "no answer": {"validation": Failed("529", "overloaded")},
}


def checked_again(previous: KeyRecord | None, minutes: float, **changes: Any) -> KeyRecord:
    """One more check, which continues from the last record."""
    unreachable = previous.unreachable if previous else None
    at = look(minutes, run=f"run-{minutes}", recheck_of=unreachable)
    return judge(reading(now=at.now, unreachable=unreachable, **changes), previous, at)


@given(
    st.lists(st.tuples(st.sampled_from(list(ANSWERS)), st.integers(1, 900)), max_size=12),
    st.booleans(),
)
def test_a_day_without_a_success_since_the_first_failure_breaks_a_key(
    answers: list[tuple[str, int]], can_read: bool
) -> None:
    """Whether the reads show nothing or are refused, and however many calls get no answer."""
    refused = {} if can_read else {"versions": REFUSED}
    previous: KeyRecord | None = None
    minutes, failing_since = 0, None
    for answer, wait in answers:
        minutes += wait
        previous = checked_again(previous, minutes, **refused, **ANSWERS[answer])
        if answer == "success":
            failing_since = None
        elif answer == "failure" and failing_since is None:
            failing_since = minutes
        failing_for_a_day = failing_since is not None and minutes - failing_since >= 24 * 60
        broken = answer == "failure" and failing_for_a_day
        assert (previous.verdict is Health.BROKEN) == broken
        assert (previous.verdict is Health.HEALTHY) == (answer == "success" and can_read)


@pytest.mark.parametrize("can_read", [True, False])
def test_one_call_without_an_answer_among_many_failures_does_not_keep_a_dead_key_unknown(
    can_read: bool,
) -> None:
    """Some 290 checks a day, one of them at an overloaded API."""
    refused = {} if can_read else {"key": REFUSED, "versions": None, "policy": None}
    previous = checked_again(None, 0, **refused)
    for number in range(1, 291):
        answer = ANSWERS["no answer" if number == 100 else "failure"]
        previous = checked_again(previous, 5 * number, **refused, **answer)
    assert (previous.verdict, health_event(previous)) == (Health.BROKEN, None)
    assert previous.announced is Health.BROKEN


def test_a_key_that_dies_weeks_after_our_reads_were_refused_is_broken_a_day_later() -> None:
    """Its validation succeeded while the reads were refused already."""
    blind: dict[str, Any] = {"key": REFUSED, "versions": None, "policy": None, "ring_policy": None}
    previous = checked_again(None, 0, **blind)
    verdicts = []
    for day in (20, 20.5, 21):
        previous = checked_again(previous, day * 24 * 60, **blind, **ANSWERS["failure"])
        verdicts.append(previous.verdict)
    assert verdicts == [Health.UNKNOWN, Health.UNKNOWN, Health.BROKEN]
    assert health_event(previous) == "cmek.key.broken"
    assert previous.worst is not None
    assert previous.worst.since == NOW + timedelta(days=20)


def test_the_state_of_an_older_release_continues_its_day() -> None:
    """It has no time of the first failure: then it had failed at every check."""
    old = {"external_key_id": "ekey_01TestKey", "since": NOW, "rechecks": 9}
    for failed, verdict in ((True, Health.BROKEN), (False, Health.UNKNOWN)):
        state = UnreachableState.model_validate(old | {"anthropic_failed": failed})
        at = look(60 * 24)
        found = judge(reading(now=at.now, unreachable=state, **ANSWERS["failure"]), None, at)
        assert found.verdict is verdict


BLIND: dict[str, Any] = {"versions": None, "policy": None, "ring_policy": None}
STOPPED = {
    "BILLING_DISABLED": "billing account to projects/123",
    "SERVICE_DISABLED": "enables cloudkms.googleapis.com in projects/123",
    "CONSUMER_INVALID": "owns projects/123",
    "CONSUMER_SUSPENDED": "owns projects/123",
    "SECURITY_POLICY_VIOLATED": "VPC Service Controls around projects/123",
}


def stopped(reason: str, consumer: str = "projects/123") -> Failed:
    """Cloud KMS refuses a read for a reason that is not the caller's rights."""
    text = f"GetCryptoKey: PERMISSION_DENIED {reason}: refused"
    service = "cloudkms.googleapis.com"
    return Failed("PERMISSION_DENIED", text, reason=reason, service=service, consumer=consumer)


@pytest.mark.parametrize("reason", STOPPED)
def test_what_stops_every_caller_of_cloud_kms_explains_a_failed_validation_at_once(
    reason: str,
) -> None:
    """With the cause in the reason that people are notified of, and who can end it."""
    refused = {**BLIND, "key": stopped(reason)}
    found = judge(reading(**refused, validation=validated("permission denied")), None, look())
    assert (found.verdict, health_event(found)) == (Health.BROKEN, "cmek.key.broken")
    assert found.worst is not None
    assert (found.worst.rule, found.worst.severity) == ("validation-failed", Severity.CRITICAL)
    assert reason in found.worst.says
    assert "no cause" not in found.worst.says
    (unread,) = [one.who_can_tell for one in found.reasons if one.rule == "unread"]
    assert unread is not None
    assert STOPPED[reason] in unread
    assert "right" not in unread


@pytest.mark.parametrize("reason", STOPPED)
@pytest.mark.parametrize("answer", ["success", "no answer"])
def test_a_refusal_of_our_own_reads_alone_proves_nothing_about_anthropic(
    reason: str, answer: str
) -> None:
    """A perimeter, say, that lets Anthropic in and us not; it still says who can tell."""
    found = judge(reading(**BLIND, key=stopped(reason), **ANSWERS[answer]), None, look())
    assert (found.verdict, health_event(found)) == (Health.UNKNOWN, None)
    assert any(STOPPED[reason] in (one.who_can_tell or "") for one in found.reasons)


@pytest.mark.parametrize(
    "refused", [REFUSED, stopped("SERVICE_DISABLED", "projects/quota-of-the-worker")]
)
def test_a_refusal_that_is_about_us_explains_no_failed_validation(refused: Failed) -> None:
    """Missing rights, or an API that is off in our quota project: Anthropic has its own."""
    found = judge(reading(**BLIND, key=refused, **ANSWERS["failure"]), None, look())
    assert found.verdict is Health.UNKNOWN


def test_a_key_that_is_reached_again_forgets_that_it_was_not() -> None:
    """When it is unreachable again, a new day begins."""
    first = judge(reading(validation=validated("no")), None, look())
    again = judge(
        reading(unreachable=first.unreachable), first, look(1, recheck_of=first.unreachable)
    )
    assert (again.verdict, again.unreachable) == (Health.HEALTHY, None)


READINGS: dict[Health, dict[str, Any]] = {
    Health.HEALTHY: {},
    Health.AT_RISK: {
        "key": Ok(
            key(rotation_period=timedelta(days=90), destroy_scheduled_duration=timedelta(days=2))
        )
    },
    Health.BROKEN: {"key": Ok(None)},
    Health.UNKNOWN: {"versions": REFUSED},
}


@given(st.lists(st.sampled_from(list(Health)), min_size=1, max_size=8))
def test_people_are_notified_of_every_change_and_of_nothing_else(verdicts: list[Health]) -> None:
    """Without the unknown ones, each verdict that differs from the one before is an event."""
    events, previous = [], None
    for number, verdict in enumerate(verdicts):
        previous = judge(reading(**READINGS[verdict]), previous, look(number, run=str(number)))
        assert previous.verdict is verdict
        events.append(health_event(previous))
    known = [Health.HEALTHY, *(v for v in verdicts if v is not Health.UNKNOWN)]
    changes = [new for old, new in pairwise(known) if old is not new]
    words = {"healthy": "cmek.key.recovered"}
    assert [str(one) for one in events if one] == [words.get(v, f"cmek.key.{v}") for v in changes]


def test_a_run_that_is_retried_sends_the_same_event() -> None:
    """It has the same id, so that the server accepts it once."""
    gone = reading(key=Ok(None))
    first = judge(gone, None, look())
    again = judge(gone, first, look(1))
    what = health_event(again)
    assert what is not None
    assert event_id(first, what, first.worst) == event_id(again, what, again.worst)
    assert health_event(judge(gone, again, look(2, run="another"))) is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from([Health.HEALTHY, Health.AT_RISK, Health.BROKEN]),
            st.sampled_from([0, 0, -60, 60, 3700, -3700, 10**6]),
            st.booleans(),
        ),
        max_size=8,
    ),
    st.sampled_from([Health.HEALTHY, Health.BROKEN]),
)
def test_what_people_know_is_what_they_were_told_however_runs_overlap(
    looks: list[tuple[Health, int, bool]], end: Health
) -> None:
    """One run an hour: some clocks are wrong, and some runs read the history too early.

    The last event is about what the last run finds, whose clock is right.
    """
    history: list[KeyRecord] = []
    told: dict[Any, str] = {}
    for number, (verdict, seconds, is_stale) in enumerate([*looks, (end, 0, False)]):
        at = look(60 * number + seconds / 60, run=f"run-{number}")
        known = history[:-1] if is_stale and verdict is not Health.HEALTHY else history
        previous = known[-1] if known else None
        found = judge(reading(**READINGS[verdict]), previous, at)
        if found.announced is not Health.HEALTHY or health_event(found):
            found = agreed(found, previous, reversed(history[-4:]))
        history.append(found)
        if what := health_event(found):
            told.setdefault(event_id(found, what, found.worst), what)
    words = {"healthy": "cmek.key.recovered", "broken": "cmek.key.broken"}
    assert (list(told.values()) or [words["healthy"]])[-1] == words[end]


SHORT_DELAY = key(
    rotation_period=timedelta(days=90),
    next_rotation_time=NOW + timedelta(days=30),
    destroy_scheduled_duration=timedelta(days=7),
)
DECRYPTER = "roles/cloudkms.cryptoKeyDecrypter"
OPENINGS = tuple((DECRYPTER, member) for member in ("allUsers", "allAuthenticatedUsers"))


def opened(*grants: tuple[str, str]) -> Ok[PolicyView]:
    """The key's policy with these grants besides Anthropic's."""
    more = (PolicyBinding(role=role, members=(member,)) for role, member in grants)
    return Ok(PolicyView(bindings=(*GRANTED.bindings, *more), etag="AA=="))


def events_of(found: KeyRecord) -> dict[Any, tuple[str, str]]:
    """Each event of this check, by its id: its kind and what it names."""
    what = health_event(found)
    if what is None:
        return {}
    reasons = announced_now(found)
    return {event_id(found, what, one): (what, one.subject if one else "") for one in reasons}


@given(st.lists(st.tuples(st.sets(st.sampled_from(OPENINGS)), st.booleans()), max_size=9))
def test_each_new_critical_reason_under_one_verdict_is_announced_once_however_runs_overlap(
    looks: list[tuple[set[tuple[str, str]], bool]],
) -> None:
    """A key at risk for ever: what comes, goes and comes again within a day is one event."""
    at_risk = reading(key=Ok(SHORT_DELAY))
    history = [judge(at_risk, None, look(run="first"))]
    assert health_event(history[0]) == "cmek.key.at_risk"
    told: dict[Any, tuple[str, str]] = {}
    present: set[tuple[str, str]] = set()
    for number, (grants, is_stale) in enumerate([*looks, (set(OPENINGS[:1]), False)], start=1):
        # a run that began before the last record was there
        previous = history[-2] if is_stale and number > 1 else history[-1]
        at = look(60 * number, run=f"run-{number}")
        found = judge(replace(at_risk, now=at.now, policy=opened(*sorted(grants))), previous, at)
        history.append(agreed(found, previous, reversed(history)))
        told |= events_of(history[-1])
        present |= grants
    assert sorted(told.values()) == sorted(
        ("cmek.key.at_risk", f"{KEY_NAME} {role} {member}") for role, member in present
    )


def test_two_runs_that_find_the_same_critical_reason_send_one_event_and_a_retry_the_same() -> None:
    """Neither has seen the other's record; a third run sends none."""
    before = judge(reading(key=Ok(SHORT_DELAY)), None, look())
    public = reading(key=Ok(SHORT_DELAY), policy=opened(OPENINGS[0]))
    found = [judge(public, before, look(15 + n, run=f"run-{n}")) for n in (1, 2)]
    retried = judge(public, found[0], look(18, run="run-1"))
    assert len(set().union(*map(events_of, [*found, retried]))) == 1
    assert [health_event(one) for one in [*found, retried]] == ["cmek.key.at_risk"] * 3
    assert health_event(judge(public, retried, look(30, run="run-3"))) is None


def test_a_deadline_that_begins_on_a_key_that_is_broken_for_ever_is_announced() -> None:
    """An old version was destroyed long ago; now its primary is scheduled for destruction."""
    old = version(1, "DESTROYED")
    lost = judge(
        reading(key=Ok(key(primary=version(2))), versions=Ok((old, version(2)))), None, look()
    )
    dying = version(2, "DESTROY_SCHEDULED").model_copy(
        update={"destroy_time": NOW + timedelta(days=7)}
    )
    now_dying = reading(key=Ok(key(primary=dying)), versions=Ok((old, dying)))
    found = judge(now_dying, lost, look(15, run="another"))
    assert (lost.verdict, found.verdict) == (Health.BROKEN, Health.BROKEN)
    assert health_event(found) == "cmek.key.broken"
    (told,) = announced_now(found)
    assert told is not None
    assert (told.rule, told.final_at) == ("primary-destroy-scheduled", dying.destroy_time)


def test_a_critical_reason_is_announced_again_only_after_it_was_gone_for_a_day() -> None:
    """Something that comes and goes for ever does not notify people for ever."""
    at_risk, public = (
        reading(key=Ok(SHORT_DELAY), policy=opened(*grants)) for grants in ((), OPENINGS[:1])
    )
    previous = judge(at_risk, None, look())
    told = []
    for number in range(1, 300):  # three days
        previous = judge(
            public if number % 2 else at_risk, previous, look(15 * number, run=str(number))
        )
        told.append(health_event(previous))
    assert sum(1 for one in told if one) == 1
    first = events_of(judge(public, judge(at_risk, None, look()), look(15, run="1")))
    for minutes in (4500, 4500 + 24 * 60):
        previous = judge(at_risk, previous, look(minutes, run=f"{minutes}"))
    again = events_of(judge(public, previous, look(6000, run="again")))
    assert list(again.values()) == list(first.values())
    assert again.keys().isdisjoint(first)


def test_a_critical_reason_in_a_record_of_an_older_release_counts_as_announced() -> None:
    """An upgrade does not notify people again, and writes no record of every key."""
    public = reading(key=Ok(SHORT_DELAY), policy=opened(OPENINGS[0]))
    new = judge(public, None, look())
    fields = {"announced_reasons", "announced_reasons_before"}
    old = KeyRecord.model_validate_json(new.model_dump_json(exclude=fields))
    found = judge(replace(public, baseline=old.baseline), old, look(15, run="another"))
    assert health_event(found) is None
    assert not is_news(found, old)
    both = judge(replace(public, policy=opened(*OPENINGS)), found, look(30, run="third"))
    assert len(events_of(both)) == 1


def test_what_is_found_while_the_verdict_is_unknown_is_announced_once_it_is_known() -> None:
    """People are not notified of an unknown health, so the reason is still news then."""
    public = reading(key=Ok(SHORT_DELAY), policy=opened(OPENINGS[0]))
    previous = judge(reading(key=Ok(SHORT_DELAY)), None, look())
    previous = judge(replace(public, versions=REFUSED), previous, look(15, run="refused"))
    assert (previous.verdict, health_event(previous)) == (Health.UNKNOWN, None)
    assert health_event(judge(public, previous, look(30, run="read"))) == "cmek.key.at_risk"


def granted_roles(*roles: str) -> Ok[PolicyView]:
    """Anthropic's account with these roles on the key."""
    given = tuple(PolicyBinding(role=role, members=(MEMBER,)) for role in roles)
    return Ok(PolicyView(bindings=given, etag="AA=="))


ENCRYPTER_DECRYPTER, VIEWER = (
    f"roles/cloudkms.{name}" for name in ("cryptoKeyEncrypterDecrypter", "viewer")
)
OTHER_FORMS = {
    "custom role": granted_roles("projects/p/roles/anthropicCmek"),
    "cryptoOperator": granted_roles("roles/cloudkms.cryptoOperator", VIEWER),
    "admin": granted_roles(ENCRYPTER_DECRYPTER, "roles/cloudkms.admin"),
    "owner": granted_roles("roles/owner"),
}
SEEN_NOWHERE = {"on the folder": Ok(NOBODY), "half": granted_roles(VIEWER)}
LOOK_ALIKES = PolicyView(
    bindings=tuple(
        PolicyBinding(role=role, members=(f"deleted:{MEMBER}?uid=1",)) for role in ROLES
    ),
    etag="AA==",
)


@pytest.mark.parametrize("project", [Ok(NOBODY), REFUSED], ids=["project read", "project unread"])
@pytest.mark.parametrize("form", OTHER_FORMS)
def test_a_grant_in_another_form_is_a_risk_and_broken_once_a_validation_fails(
    form: str, project: Any
) -> None:
    """Whether another role is enough only a validation shows; the text says what it is."""
    found = {"policy": OTHER_FORMS[form], "project_policy": project}
    works = judge(reading(**found), None, look())
    assert (works.verdict, health_event(works)) == (Health.AT_RISK, "cmek.key.at_risk")
    assert works.worst is not None
    assert works.worst.rule == "grant-in-another-form"
    assert "may allow the same" in works.worst.says
    assert works.worst.commands
    fails = judge(reading(**found, **ANSWERS["failure"]), works, look(15, run="another"))
    assert (fails.verdict, health_event(fails)) == (Health.BROKEN, "cmek.key.broken")


@pytest.mark.parametrize("where", [*SEEN_NOWHERE, "deleted"])
def test_while_a_validation_succeeds_a_missing_grant_is_a_critical_risk(where: str) -> None:
    """It may stand on a folder, or was removed just now; people are notified in any case."""
    found = {"policy": SEEN_NOWHERE.get(where, Ok(LOOK_ALIKES)), "project_policy": Ok(NOBODY)}
    works = judge(reading(**found), None, look())
    assert (works.verdict, health_event(works)) == (Health.AT_RISK, "cmek.key.at_risk")
    assert works.worst is not None
    assert (works.worst.rule, works.worst.severity) == ("grant-missing", Severity.CRITICAL)
    assert "above the project" in works.worst.says
    assert "removed just now" in works.worst.says
    fails = judge(reading(**found, **ANSWERS["failure"]), works, look(15, run="another"))
    assert (fails.verdict, health_event(fails)) == (Health.BROKEN, "cmek.key.broken")
    assert fails.worst is not None
    assert "removed just now" not in fails.worst.says


def test_a_grant_that_is_removed_from_a_key_at_risk_is_announced_before_its_validation_fails() -> (
    None
):
    """The verdict stays for some minutes, since IAM changes take that long."""
    before = judge(reading(key=Ok(SHORT_DELAY)), None, look())
    removed = reading(key=Ok(SHORT_DELAY), policy=granted_roles(VIEWER))
    found = judge(removed, before, look(15, run="removed"))
    assert list(events_of(found).values()) == [("cmek.key.at_risk", ENCRYPTER_DECRYPTER)]
    failed = replace(removed, validation=validated("no permission"))
    assert health_event(judge(failed, found, look(30, run="failed"))) == "cmek.key.broken"


def test_quick_checks_validate_for_a_day_after_a_grant_was_removed_and_no_longer() -> None:
    """A success right after the removal is stale; a grant on a folder stays as it is for ever."""
    missing = reading(policy=granted_roles(VIEWER), project_policy=Ok(NOBODY), depth="quick")
    previous = judge(missing, judge(reading(), None, look()), look(15, run="found"))
    for hours, asks in ((1, True), (23, True), (25, False)):
        later = replace(missing, now=NOW + timedelta(hours=hours))
        assert needs_validation(later, previous) is asks
    # without a new result the last one counts, also for a call that got no answer
    for answer, verdict in ((None, Health.AT_RISK), (Failed("529", "busy"), Health.UNKNOWN)):
        found = judge(replace(missing, validation=answer), previous, look(1600, run="later"))
        assert (found.verdict, health_event(found)) == (verdict, None)
        assert next(r.means for r in found.reasons if r.rule == "grant-missing") is Health.AT_RISK


@pytest.mark.parametrize("answer", [None, Failed("529", "busy"), validated("no permission")])
def test_a_missing_grant_is_broken_unless_a_validation_has_succeeded(answer: Any) -> None:
    """Nothing says that Anthropic can use the key."""
    missing = reading(policy=Ok(NOBODY), project_policy=Ok(NOBODY), validation=answer)
    assert judge(missing, None, look()).verdict is Health.BROKEN


def test_an_unfinished_check_is_unknown_and_keeps_what_was_found() -> None:
    """It keeps the reasons and the announced verdict."""
    broken = judge(reading(key=Ok(key(primary=version(1, "DISABLED")))), None, look())
    nothing = reading(key=None, versions=None, policy=None, ring_policy=None)
    found = unfinished(nothing, broken, look(1, run="another"), "no time")
    assert (found.verdict, found.announced) == (Health.UNKNOWN, Health.BROKEN)
    assert {"unfinished", "primary-disabled"} <= {r.rule for r in found.reasons}


TEXTS = st.text(max_size=60) | st.sampled_from(["```json\n{}\n```", "a|b`c`", "<b>x</b>"])


@given(says=TEXTS, command=TEXTS, workspace=TEXTS)
def test_a_page_gives_back_the_record_whatever_texts_are_in_it(
    says: str, command: str, workspace: str
) -> None:
    """Outside text cannot end the record's block, nor add a block of its own."""
    reason = HealthReason(
        rule="drift",
        means=Health.BROKEN,
        severity=Severity.HIGH,
        says=says,
        commands=(command,),
        final_at=NOW,
    )
    kept = record(Health.BROKEN, reasons=(reason,), workspaces=(workspace,))
    assert read_page(key_page(kept)) == kept


def test_a_page_names_a_next_check_only_if_one_is_scheduled_and_is_still_to_come() -> None:
    """A run that can't schedule one leaves it to whoever checks next."""
    unread = {"versions": REFUSED}
    alone = judge(reading(**unread), None, replace(look(), schedules_follow_up=False))
    assert "no follow-up is scheduled" in key_page(alone)
    first = judge(reading(unreachable=alone.unreachable, **unread), alone, look(1))
    assert "next check at 2026" in key_page(first)
    for minutes, says in ((1.5, "next check at 2026"), (9, "which is late")):
        at = replace(look(minutes), schedules_follow_up=False)
        later = judge(reading(unreachable=first.unreachable, now=at.now, **unread), first, at)
        assert later.unreachable == first.unreachable
        assert says in key_page(later)


@given(st.text())
def test_a_page_of_somebody_else_is_no_record(text: str) -> None:
    """Any text may be stored under the artifact key."""
    assert read_page(text) is None
    assert read_page("```json\n" + text + "\n```") is None


def test_a_time_without_a_zone_makes_no_record() -> None:
    """Whoever may write to Prefect can publish one, and it can't be compared with any other."""
    page = key_page(record(Health.BROKEN))
    assert read_page(page) is not None
    for name in ("since", "checked_at"):
        forged = re.sub(rf'("{name}": ?"[0-9T:.-]+)(Z|\+00:00)"', r'\1"', page)
        assert forged != page
        assert read_page(forged) is None


def row(
    number: int, verdict: Health, days_ago: int = 0, before: FleetRow | None = None
) -> FleetRow:
    """A row of a check, this many days ago."""
    at = NOW - timedelta(days=days_ago)
    looked = record(
        verdict, external_key_id=f"ekey_{number:06}", checked_at=at, key_name=f"{KEY_NAME}-{number}"
    )
    return FleetRow.of(looked, before)


@given(st.lists(st.sampled_from(list(Health)), max_size=12), st.booleans())
def test_the_table_is_worst_first_and_survives_being_published(
    verdicts: list[Health], all_keys: bool
) -> None:
    """The rows that are read back are those that were published."""
    rows = merged({}, [row(n, v) for n, v in enumerate(verdicts)], all_keys=all_keys, now=NOW)
    ranks = [one.level.rank for one in rows]
    assert ranks == sorted(ranks, reverse=True)
    assert list(read_rows(published(rows), pytest.fail).values()) == rows


def test_a_row_remembers_its_days_and_the_worst_of_each() -> None:
    """A key that was broken in the morning keeps that mark for the day, though it recovered."""
    old = row(1, Health.AT_RISK, days_ago=2)
    morning = row(1, Health.BROKEN, before=old)
    evening = row(1, Health.HEALTHY, before=morning)
    assert evening.days == "_" * (DAYS - 3) + MARKS[Health.AT_RISK] + "_" + MARKS[Health.BROKEN]
    assert evening.marks_until(NOW.date() + timedelta(days=40)) == "_" * DAYS


def test_a_key_that_is_no_longer_registered_is_removed_from_the_table() -> None:
    """Only a check of all keys can know that."""
    before = {"ekey_000001": row(1, Health.HEALTHY)}
    new = [row(2, Health.HEALTHY)]
    assert len(merged(before, new, all_keys=True, now=NOW)) == 1
    assert len(merged(before, new, all_keys=False, now=NOW)) == 2


@given(st.integers(-3_000_000, 3_000_000), st.booleans())
def test_another_runs_row_stays_only_if_its_check_can_have_been_later(
    minutes: int, all_keys: bool
) -> None:
    """One run with a clock that is ahead must not hide what all later runs find."""
    other = replace(
        row(1, Health.HEALTHY), checked=f"{NOW + timedelta(minutes=minutes):%Y-%m-%d %H:%M}"
    )
    (kept,) = merged({"ekey_000001": other}, [row(1, Health.BROKEN)], all_keys=all_keys, now=NOW)
    assert kept.level is (Health.HEALTHY if 0 < minutes <= 5 else Health.BROKEN)


@given(st.lists(st.booleans(), max_size=6), st.booleans())
def test_a_row_without_its_record_still_names_its_users(archived: list[bool], kept: bool) -> None:
    """Each workspace is separate, although an archived one's text has a comma of its own."""
    users = tuple(f"a, b (wrkspc_{n}{', archived' * gone})" for n, gone in enumerate(archived))
    looked = record(Health.HEALTHY, workspaces=users)
    shown = facts_of(FleetRow.of(looked, None), looked if kept else None, NOW)
    assert shown["workspaces"] == list(users if kept else users[:3])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
COLUMNS = ("Verdict", "Why", "Since", "Checked", "Last 30 days", "Workspaces", "External key")
CELLS = st.dictionaries(st.sampled_from(COLUMNS), JSON, min_size=1, max_size=3)


@given(st.text() | JSON | st.just("[" * 100_000) | st.just("1" * 5_000))
def test_what_is_no_table_is_reported_and_gives_no_rows(damaged: Any) -> None:
    """Everybody with write access to Prefect's API may have stored anything under the key."""
    said: list[str] = []
    assert read_rows(damaged, said.append) == {}
    empty = damaged is None or damaged == [] or (isinstance(damaged, str) and _is_empty(damaged))
    assert bool(said) is not empty


def _is_empty(text: str) -> bool:
    try:
        return bool(json.loads(text) == [])
    except (ValueError, RecursionError):
        return False


@given(CELLS, st.booleans())
def test_a_row_that_is_read_can_be_shown_and_another_is_said(
    cells: dict[str, Any], as_text: bool
) -> None:
    """It is shown as data and as a page; a damaged row does not affect the others."""
    table = json.loads(published([row(1, Health.BROKEN), row(2, Health.HEALTHY)]))
    table[0] |= cells
    said: list[str] = []
    rows = read_rows(json.dumps(table) if as_text else table, said.append)
    for one in rows.values():
        shown = facts_of(one, None, NOW)
        assert all(datetime.fromisoformat(shown[name]) for name in ("since", "checked_at"))
        overview([one], NOW.date(), lambda key: key)
    same_key = rows.keys() == {"ekey_000002"} and table[0]["External key"] == "ekey_000002"
    assert len(rows) + bool(said) == 2 - same_key


@given(st.lists(st.sampled_from(list(Health)), max_size=60))
def test_the_overview_counts_each_verdict_and_links_each_key_in_trouble(
    verdicts: list[Health],
) -> None:
    """The number of listed keys is limited, and the text says how many are not listed."""
    rows = merged({}, [row(n, v) for n, v in enumerate(verdicts)], all_keys=True, now=NOW)
    page = overview(rows, NOW.date(), lambda key: f"https://prefect.example/{key}")
    for verdict in Health:
        assert f"{verdicts.count(verdict)} {SIGNS[verdict]}" in page
    troubled = [one for one in rows if one.level is not Health.HEALTHY]
    linked = [one for one in rows if f"](https://prefect.example/{one.external_key_id})" in page]
    assert linked == troubled[:SHOWN_KEYS]
    assert ("more with trouble" in page) == (len(troubled) > SHOWN_KEYS)


def test_a_verdict_is_current_for_a_day_and_two_hours() -> None:
    """As long as the automation waits for the daily check; a time to come is a wrong clock's."""
    one = row(1, Health.HEALTHY)
    (automation,) = (f for f in automation_files() if f.name == "revalidation-missed.yaml")
    content = yaml.safe_load(automation.read_text())
    assert content["trigger"]["within"] == OVERDUE.total_seconds()
    assert f"{OVERDUE.total_seconds() / 3600:.0f} hours" in content["description"]
    assert one.outdated(NOW + OVERDUE) is None
    late = one.outdated(NOW + OVERDUE + timedelta(minutes=1))
    assert late == "not checked for 1 d 2 h"
    assert one.outdated(NOW - CLOCKS_DIFFER) is None
    assert "a wrong clock" in (one.outdated(NOW - timedelta(days=1)) or "")
    assert facts_of(one, None, NOW)["current"] is True
    assert facts_of(one, None, NOW + timedelta(days=2))["current"] is False


def test_a_healthy_key_that_was_not_checked_for_long_is_listed_in_the_overview() -> None:
    """A check of another key publishes it anew, with this row as it was."""
    old, new = row(1, Health.HEALTHY, days_ago=30), row(2, Health.HEALTHY)
    page = overview([old, new, row(3, Health.HEALTHY, days_ago=1)], NOW.date(), lambda key: key)
    (line,) = [line for line in page.splitlines() if "ekey_" in line]
    assert old.external_key_id in line
    assert f"Last checked at {old.checked} UTC" in line.replace("\\", "")
    assert "2 of 3 keys were checked in time" in page


def test_a_name_cannot_draw_in_the_overview() -> None:
    nasty = replace(row(1, Health.BROKEN), workspaces="](x) | <script>x</script>")
    page = overview([nasty], date(2026, 11, 24), lambda key: key)
    assert "<script" not in page
    assert len([line for line in page.splitlines() if line.startswith("|")]) == 3


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 99)), unique=True), st.text(max_size=9))
def test_keys_are_grouped_by_ring_in_an_order_of_the_seed(
    numbers: list[tuple[int, int]], seed: str
) -> None:
    """Each key is in one group, and the same seed gives the same order."""
    refs = [
        KeyRef(
            external_key_id=f"ekey_{r}{k}",
            key_name=f"l/keyRings/{r}/cryptoKeys/{k}",
            registered_at=None,
        )
        for r, k in numbers
    ]
    groups = by_ring(refs, seed)
    flat = [ref for group in groups for ref in group]
    assert sorted(flat, key=str) == sorted(refs, key=str)
    assert all(len({ref.key_ring for ref in group}) == 1 for group in groups)
    assert groups == by_ring(refs, seed)


def test_reads_are_paced_in_each_location_by_itself() -> None:
    """Sixty reads at twenty a second: the first twenty at once, the others in two seconds."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def turns() -> None:
        pacer = RateLimiter(reads_per_minute=1200, clock=lambda: 100.0, sleep=sleep)
        for _ in range(60):
            await pacer.acquire("here")
        await pacer.acquire("there")

    asyncio.run(turns())
    assert waits == pytest.approx([n / 20 for n in range(1, 40)])


def test_time_left_is_short_and_never_overstated() -> None:
    """It has the two largest units, rounded down, and is zero after the end."""
    shown = [shown_time(timedelta(hours=h)) for h in (-1, 0.5, 59.9 / 60, 23.9, 24, 100, 167.99)]
    assert shown == [
        "0 min", "30 min", "59 min", "23 h 54 min", "1 d 0 h", "4 d 4 h", "6 d 23 h"
    ]  # fmt: skip


def test_what_was_true_at_the_attach_is_the_baseline_of_later_checks() -> None:
    """Earlier users and unusable versions give no reason; every other change is drift."""
    read = facts(versions=(version(1, "DISABLED"), version(2)), key=key(primary=version(2)))
    users: dict[str, Any] = {"users_before": ("user:old@example.com",), "decrypters": ()}
    first = onboarding_record(read, **users, run_id=RUN, now=NOW)
    shared = read.model_copy(update={"other_workspaces": ("wrkspc_01Other",)})
    another = onboarding_record(shared, **users, run_id=RUN, now=NOW).baseline
    assert another is not None
    assert another.unusable_versions == ()  # it may have data of the other workspace
    assert first.baseline is not None
    assert first.baseline.source == "onboarding"
    assert first.baseline.unusable_versions == ("1",)
    changed = reading(baseline=first.baseline)
    found = judge(changed, first, look(60, run="another"))
    drifted = {r.subject for r in found.reasons if r.rule == "drift"}
    assert drifted == {"rotation_period", "destroy_scheduled_duration"}
