"""An onboarding that creates its workspace with the key in the create call."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from prefect.states import Completed, Scheduled

from cmek.evidence.record import loads
from cmek.onboarding.policy import key_id_for
from cmek.outcomes import RunOutcome
from cmek.tags import CREATE_SENT_PREFIX, CREATED_BY_TAG, EVIDENCE_TAG, workspace_tag
from tests.flows.outcomes import assert_stopped
from tests.support.born import NAME, asked_to_create, born, creates, start_to_create
from tests.support.command import exit_code
from tests.support.onboarding import Onboardings, Run


def test_a_new_workspace_is_born_with_its_key(bench: Onboardings) -> None:
    """There is one create, with key, tag and residency; no update ever sets a key."""
    run = asked_to_create(bench, data_residency="us_only")
    assert creates(bench) == []
    run.approve()
    assert run.state == "Attached", run.message
    assert bench.writes() == [
        "CreateKeyRing",
        "CreateCryptoKey",
        "SetIamPolicy",
        "external_keys.create",
        "workspaces.create",
        "workspaces.update",  # the tag with the evidence's hash
        "UpdateCryptoKey",  # the label that says who depends on the key
    ]
    assert bench.attaches() == []
    (workspace,) = born(bench)
    (sent,) = creates(bench)
    del sent["request"]["_http"]
    assert sent["request"] == {
        "name": NAME,
        "external_key_id": workspace.external_key_id,
        "tags": {CREATED_BY_TAG: str(run.id)},
        "data_residency": {
            "workspace_geo": "us",
            "allowed_inference_geos": ["us"],
            "default_inference_geo": "us",
        },
    }
    assert workspace.external_key_id is not None
    assert workspace.id in run.message


def test_a_name_that_exists_stops_the_run_before_anything_is_made(bench: Onboardings) -> None:
    """The message has the id and the remedy; a name that only looks the same is refused too."""
    bench.sandbox.world.admin.workspaces[bench.fresh].name = "Ｐayments (eu) - live"
    run = start_to_create(bench).execute()
    assert_stopped(run, bench.fresh, "onboard that one by its id")


@pytest.mark.parametrize("settings", [{}, {"data_residency": "us_only"}])
def test_a_second_run_for_a_created_workspace_writes_nothing(
    bench: Onboardings, settings: dict[str, str]
) -> None:
    asked_to_create(bench, **settings).approve()
    (workspace,) = born(bench)
    bench.control.clear_log()
    again = start_to_create(bench, **settings).execute()
    assert again.state == "Already attached", again.message
    assert workspace.id in again.message
    reports = [str(one.data) for one in bench.artifacts(again)]
    assert reports
    assert not any("has changed since" in one for one in reports)
    key = key_id_for(NAME)
    by_id = bench.start(workspace_id=workspace.id, crypto_key=key).execute()
    assert by_id.state == "Already attached", by_id.message
    assert bench.writes() == []


@pytest.mark.parametrize(
    "said",
    [
        *("", "yesterday", "2026-11-24T12:00:00", "9999-12-31T23:59:59+00:00"),
        *("9999-12-31T23:59:59-05:00", "0001-01-01T00:00:00+05:00"),
    ],
)
def test_a_tag_that_does_not_say_when_a_create_was_sent_stops_the_next_one(
    bench: Onboardings, said: str
) -> None:
    """The message names run and tag, and the command after which the run goes on."""
    tag = f"{CREATE_SENT_PREFIX}{said}"
    run = start_to_create(bench)
    tags = run.read().tags
    bench.client.update_flow_run(run.id, tags=[*tags, tag])
    run.execute()
    assert_stopped(run, str(run.id), tag, "Console")
    method, path, _, data = shlex.split(run.message.partition("prefect api ")[2])
    assert (method, path) == ("PATCH", f"/flow_runs/{run.id}")
    assert set(json.loads(data)["tags"]) >= set(tags)
    bench.client.update_flow_run(run.id, **json.loads(data))
    run.force(Scheduled(name="AwaitingRetry"))
    assert run.execute().state == "Suspended", run.message


def test_a_create_of_unknown_outcome_counts_whatever_became_of_its_run(bench: Onboardings) -> None:
    """Retried beside another run it ends as a duplicate, which settles nothing."""
    sender = start_to_create(bench)
    sent = f"{CREATE_SENT_PREFIX}{datetime.now(UTC).isoformat(timespec='seconds')}"
    tags = [*sender.read().tags, sent, workspace_tag(f"new:{NAME}")]
    bench.client.update_flow_run(sender.id, tags=tags)
    sender.force(Completed(name=RunOutcome.DUPLICATE))
    run = start_to_create(bench).execute()
    assert_stopped(run, str(sender.id), "may still appear")
    assert creates(bench) == []


def test_two_runs_for_one_name_never_work_at_once(bench: Onboardings) -> None:
    first = asked_to_create(bench)
    second = start_to_create(bench).execute()
    assert second.state == "Duplicate"
    assert str(first.id) in second.message


def test_a_workspace_of_the_name_that_appears_while_the_run_waits_is_never_doubled(
    bench: Onboardings,
) -> None:
    """The gate reads all workspaces again before the create."""
    run = asked_to_create(bench)
    bench.sandbox.world.admin.workspaces[bench.fresh].name = NAME
    run.approve()
    assert run.state == "Failed"
    assert f"a workspace of this name exists by now: {bench.fresh}" in run.message
    assert creates(bench) == []


@pytest.mark.parametrize("kind", ["reset", "html"])
def test_a_create_whose_answer_is_lost_is_found_by_its_tag(bench: Onboardings, kind: str) -> None:
    """A search over all pages shows that it took effect; nothing is sent again."""
    run = asked_to_create(bench)
    bench.control.fault("workspaces.create", when="after", kind=kind, status=502)
    run.approve()
    assert run.state == "Attached", run.message
    assert len(creates(bench)) == len(born(bench)) == 1


def test_a_create_that_takes_effect_late_is_never_doubled(
    bench: Onboardings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its outcome is unknown neither a retry nor another run creates; later it is found."""
    monkeypatch.setattr("tasks.attachment.SEARCH_AFTER_SECONDS", (0.0,))
    run = asked_to_create(bench, "late")
    bench.control.fault("workspaces.create", kind="late")
    run.approve()
    assert run.state == "Failed"
    assert "it may still appear" in run.message
    run.force(Scheduled(name="AwaitingRetry"))
    assert run.execute().state == "Failed"
    assert "it may still appear" in run.message
    other = start_to_create(bench, "late").execute()
    assert other.state == "Failed"
    assert str(run.id) in other.message
    assert len(creates(bench)) == 1
    assert born(bench, "late") == []
    bench.control.fault("workspaces.list", kind="release")
    run.force(Scheduled(name="AwaitingRetry"))
    run.execute()
    assert run.state == "Already attached", run.message
    assert len(creates(bench)) == len(born(bench, "late")) == 1


def test_a_create_that_was_lost_is_sent_again_after_a_new_approval_only(
    bench: Onboardings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.attachment.SEARCH_AFTER_SECONDS", (0.0,))
    run = asked_to_create(bench, "lost")
    bench.control.fault("workspaces.create", kind="reset")
    run.approve()
    assert run.state == "Failed"
    monkeypatch.setattr(
        "tasks.attachment.PENDING_CREATE_LIFETIME", timedelta(0)
    )  # ten minutes have passed
    run.force(Scheduled(name="AwaitingRetry"))
    run.execute()
    assert run.state == "Suspended", run.message
    run.approve()
    assert run.state == "Attached", run.message
    assert [one["effect"] for one in creates(bench)] == [False, True]


SAYS = "Set the key of the workspace in the Console."


def _incomplete(bench: Onboardings, *without: str, name: str = NAME) -> Run:
    run = asked_to_create(bench, name)
    bench.control.fault("workspaces.create", kind="incomplete", without=list(without), message=SAYS)
    return run.approve()


def test_an_incomplete_create_that_has_its_key_is_finished(bench: Onboardings) -> None:
    """It is found by the id in the answer, since the run's tag was lost."""
    run = _incomplete(bench, "tags", name="finished")
    assert run.state == "Attached", run.message
    (workspace,) = born(bench, "finished")
    assert workspace.id in run.message
    assert len(creates(bench)) == 1


@pytest.mark.parametrize(
    "without",
    [
        ("external_key_id", "tags"),
        ("external_key_id",),
    ],
    ids=str,
)
def test_an_incomplete_create_without_its_key_ends_in_anthropics_words_and_is_never_repeated(
    bench: Onboardings, without: tuple[str, ...]
) -> None:
    """No retry and no other run for the name repeats it, even if no list shows the workspace."""
    name = f"incomplete {len(without)}"
    run = _incomplete(bench, *without, name=name)
    (workspace,) = born(bench, name)
    assert run.state == "Failed"
    assert SAYS in run.message
    assert f"{workspace.id} ({name}) was created" in run.message
    assert "nothing was created" not in run.message
    run.force(Scheduled(name="AwaitingRetry"))
    assert run.execute().state == "Failed"
    assert workspace.id in run.message
    # eventual consistency, or renamed by a person: no search finds it
    workspace.name, workspace.tags = "another", {}
    run.force(Scheduled(name="AwaitingRetry"))
    for again in (run, start_to_create(bench, name)):
        assert again.execute().state == "Failed"
        assert workspace.id in again.message
        assert "nothing is created again" in again.message
    assert len(creates(bench)) == 1


@pytest.mark.parametrize("saved", [True, False])
def test_an_update_of_unknown_outcome_is_read_and_sent_again_only_if_it_was_not_saved(
    bench: Onboardings, saved: bool
) -> None:
    run = bench.asked()
    when = "after" if saved else "before"
    bench.control.fault(
        "workspaces.update", when=when, status=503, error_code="change_outcome_unknown"
    )
    run.approve()
    assert run.state == "Attached", run.message
    assert len(bench.attaches()) == (1 if saved else 2)


def test_a_storage_that_does_not_fit_the_workspace_is_not_blamed_on_the_key(
    bench: Onboardings,
) -> None:
    run = bench.asked()
    bench.control.fault(
        "workspaces.update",
        status=400,
        error_code="storage_profile_mismatch",
        details={"field": "transcripts"},
    )
    run.approve()
    assert run.state == "Failed"
    assert "external storage and its user profile" in run.message
    assert "Most likely" not in run.message


def test_a_refused_create_says_why_and_leaves_no_doubt(bench: Onboardings) -> None:
    """The service may refuse even an archived workspace's name: the run ends, a retry may go on."""
    run = asked_to_create(bench)
    bench.control.fault("workspaces.create", status=409, message="name in use")
    run.approve()
    assert run.state == "Failed"
    assert "name in use" in run.message
    run.force(Scheduled(name="AwaitingRetry"))
    assert run.execute().state == "Suspended", run.message


def test_the_record_is_found_by_the_name_and_by_the_id(
    bench: Onboardings, capsys: pytest.CaptureFixture[str]
) -> None:
    """The workspace had no id when its run began."""
    run = asked_to_create(bench)
    run.approve()
    (workspace,) = born(bench)
    capsys.readouterr()
    for subject in (f"new:{NAME}", workspace.id):
        assert exit_code("evidence", "export", subject) == 0
        record = capsys.readouterr().out
        assert loads(record).entries[-1].run == str(run.id)
        assert f'"subject":"{workspace.id}"' in record
        assert exit_code("history", subject, "--json") == 0
        assert str(run.id) in {one["where"] for one in json.loads(capsys.readouterr().out)}
    assert f"workspace:{workspace.id}" in run.read().tags
    assert workspace.tags[EVIDENCE_TAG]
    keys = [one.key for one in bench.artifacts(run) if one.key]
    kinds = Counter(key.split("-")[1] for key in keys)
    assert kinds == {"onboarding": 2, "evidence": 2, "terraform": 1, "key": 1}


def test_the_plan_of_a_new_workspace_says_what_will_be_made(bench: Onboardings) -> None:
    text = asked_to_create(bench).text()
    assert f"create workspace `{NAME}` with" in text
    assert "Type the name of the new workspace" in text
    assert "can never be deleted, only archived" in text
    bench.control.clear_log()
    dry = start_to_create(bench, "another", plan_only=True).execute()
    assert dry.state == "Planned", dry.message
    assert "New workspace" in dry.message
    assert bench.writes() == []
