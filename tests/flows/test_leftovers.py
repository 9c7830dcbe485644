"""Everything that a run without an attach leaves behind is listed, wherever it ended."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import typer
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.filters import ArtifactCollectionFilter
from prefect.states import Scheduled
from typer.testing import CliRunner

import tasks.leftovers
from cli.leftovers import leftovers_command
from cmek.anthropic.client import ExternalKeys
from cmek.evidence.leftovers import Leftover
from cmek.names import ORGANIZATION_LABEL_PREFIX, artifact_key, in_use_label
from cmek.tags import LEFTOVERS
from tasks.clients import close_clients
from tasks.leftovers import read_leftovers, read_table
from tests.support.fleet import Fleet
from tests.support.kept import forget_made_keys, records_folder
from tests.support.onboarding import Onboardings, Run
from tests.support.revalidation import Revalidations

COMMAND = typer.Typer(add_completion=False)
COMMAND.command()(leftovers_command)
RING, KEY, LABEL = "key ring", "crypto key", "organization label"
GRANTS, EXTERNAL = "grants", "external key"
DENIED = {"status": "PERMISSION_DENIED", "times": 9}


def leftovers() -> tuple[Leftover, ...]:
    """The leftovers that the command finds."""

    async def read() -> tuple[Leftover, ...]:
        try:
            return (await read_leftovers("anthropic-admin", "google-kms")).rows
        finally:
            await close_clients()

    return asyncio.run(read())


def table(bench: Onboardings) -> tuple[Leftover, ...]:
    """The leftovers that the last run published, which `cmek status` counts."""
    wanted = ArtifactCollectionFilter.model_validate({"key": {"any_": [LEFTOVERS]}})
    found = bench.client.read_latest_artifacts(artifact_filter=wanted, limit=1)
    return (read_table(found[0].data) or ()) if found else ()


def rejected(bench: Onboardings) -> Run:
    return bench.asked().approve(decision="reject")


def expired(bench: Onboardings) -> Run:
    run = bench.asked()
    state = run.read().state
    assert state is not None
    past = datetime.now(UTC) - timedelta(minutes=1)
    state.state_details = state.state_details.model_copy(update={"pause_timeout": past})
    run.force(state)
    return run


def failing(call: str, **fault: object) -> Callable[[Onboardings], Run]:
    """A run whose call is refused."""

    def end(bench: Onboardings) -> Run:
        bench.control.fault(call, **fault)
        run = bench.start().execute()
        bench.control.clear_faults()
        assert run.state == "Failed", run.message
        return run

    return end


def killed_at_the_registration(bench: Onboardings) -> Run:
    """A run whose process ends before it has published anything; nobody retries it."""

    async def end(*_: object, **__: object) -> None:
        raise asyncio.CancelledError

    run = bench.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ExternalKeys, "create", end)
        with pytest.raises(asyncio.CancelledError):
            run.execute()
    assert run.state == "Crashed"
    return run


def refused_at_the_attach(bench: Onboardings, **request: object) -> Run:
    run = bench.asked(**request)
    bench.control.fault("workspaces.update", status=403, times=9)
    run.approve()
    bench.control.clear_faults()
    assert run.state == "Failed", run.message
    return run


def rejected_after_a_lost_registration(bench: Onboardings) -> Run:
    """The external key was made, and only a later attempt of the task has seen it."""
    bench.control.fault("external_keys.create", when="after", kind="reset")
    return rejected(bench)


ENDS: dict[str, tuple[Callable[[Onboardings], Run], set[str], str]] = {
    "the key ring is refused": (failing("CreateKeyRing", **DENIED), set(), ""),
    "the crypto key is refused": (failing("CreateCryptoKey", **DENIED), {RING}, "not approved"),
    "the grants are refused": (failing("SetIamPolicy", **DENIED), {RING, KEY}, "not approved"),
    "the registration is refused": (
        failing("external_keys.create", status=403, times=9),
        {RING, KEY, GRANTS},
        "not approved",
    ),
    "the validation is refused": (
        failing("external_keys.validate", status=403, times=9),
        {RING, KEY, GRANTS, EXTERNAL},
        "not approved",
    ),
    "a lost registration": (
        rejected_after_a_lost_registration,
        {RING, KEY, GRANTS, EXTERNAL},
        "rejected",
    ),
    "rejected": (rejected, {RING, KEY, GRANTS, EXTERNAL}, "rejected"),
    "expired": (expired, {RING, KEY, GRANTS, EXTERNAL}, "not approved"),
    "killed": (killed_at_the_registration, {RING, KEY, GRANTS}, "not approved"),
    "the attach is refused": (
        refused_at_the_attach,
        {RING, KEY, GRANTS, EXTERNAL},
        "approved",
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_all_that_a_run_made_is_listed_with_the_run_and_the_way_back(
    bench: Onboardings, name: str
) -> None:
    """They are in a safe order, and listed at the run's end or after its expiry."""
    end, kinds, approval = ENDS[name]
    before = datetime.now(UTC)
    run = end(bench)
    bench.control.clear_log()
    found = leftovers()
    assert bench.control.log(write=True) == []
    assert {one.kind for one in found} == kinds
    assert {one.run for one in found} <= {str(run.id)}
    assert {one.approval for one in found} <= {approval}
    assert all(before <= one.since <= datetime.now(UTC) for one in found)
    assert {one.subject for one in found} <= {bench.fresh}
    order = [EXTERNAL, GRANTS, KEY, RING]
    assert [one.kind for one in found] == [kind for kind in order if kind in kinds]
    for one in found:
        assert bool(one.take_back) is (one.kind != RING)
        assert bool(one.remark) is (one.kind != GRANTS)
    if name in {"expired", "killed"}:
        Revalidations.deployed(bench.client).run(depth="full", reads_per_minute=1_000_000)
    assert table(bench) == found


@pytest.mark.parametrize("decision", ["failed", "rejected"])
def test_what_the_retry_of_an_earlier_run_made_is_listed(bench: Onboardings, decision: str) -> None:
    """The newest record on the server is the later run's, which the earlier one does not know."""
    refused = failing("CreateKeyRing", **DENIED)
    earlier, _ = refused(bench), refused(bench)
    assert leftovers() == ()
    if decision == "failed":
        bench.control.fault("external_keys.create", status=403, times=9)
    earlier.force(Scheduled(name="AwaitingRetry"))
    earlier.execute()
    bench.control.clear_faults()
    if decision == "rejected":
        earlier.approve(decision="reject")
    found = leftovers()
    assert {one.kind for one in found} >= {RING, KEY, GRANTS}
    assert {one.run for one in found} == {str(earlier.id)}


def test_what_waits_or_is_attached_is_not_left_over(bench: Onboardings) -> None:
    """An onboarding that continues where a rejected one stopped uses all of it."""
    rejected(bench)
    assert leftovers()
    run = bench.asked()
    assert leftovers() == ()
    assert run.approve().state == "Attached"
    assert leftovers() == ()
    Revalidations.deployed(bench.client).run(depth="full", reads_per_minute=1_000_000)
    assert table(bench) == ()


def test_a_key_that_others_may_have_used_gets_no_command_that_destroys_it(
    bench: Onboardings,
) -> None:
    """A key that cannot be read gets none either; the remark says why."""
    rejected(bench)
    decrypter = "roles/cloudkms.cryptoKeyDecrypter"
    bench.kms.grant(bench.key_name, decrypter, "user:eve@example.com")
    (key,) = [one for one in leftovers() if one.kind == KEY]
    assert key.take_back == ()
    assert "user:eve@example.com" in key.remark
    bench.control.fault("GetIamPolicy", **DENIED)
    (key,) = [one for one in leftovers() if one.kind == KEY]
    assert key.take_back == ()
    assert "could not be read" in key.remark


@pytest.mark.parametrize(
    "label", [f"{ORGANIZATION_LABEL_PREFIX}{UUID(int=8)}", in_use_label("wrkspc_01Other")[0]]
)
def test_a_key_that_another_organization_shares_keeps_grants_and_versions(
    bench: Onboardings, label: str
) -> None:
    """Its workspace uses the key by the same service account; the registration here is ours."""
    rejected(bench)
    fleet = Fleet(bench.sandbox.world)
    labels = dict(bench.sandbox.world.kms.crypto_keys[bench.key_name].labels)
    fleet.update_key(bench.key_name, labels=labels | {label: "true"})
    found = leftovers()
    assert [one.kind for one in found if one.take_back] == [EXTERNAL]
    assert [one.kind for one in found if label in one.remark] == [GRANTS, KEY]


def test_a_forged_record_destroys_no_key_that_no_onboarding_of_this_worker_created(
    bench: Onboardings,
) -> None:
    """Nor does `cmek leftovers` on another machine, which reads none of the worker's records."""
    rejected(bench)
    files = list((records_folder() / "made-keys").iterdir())
    assert files
    for file in files:
        file.write_bytes(file.read_bytes().replace(b"confirmed", b"confirmee"))
    (key,) = [one for one in leftovers() if one.kind == KEY]
    assert key.take_back == ()
    assert "was not written by this worker" in key.remark
    forget_made_keys()
    (key,) = [one for one in leftovers() if one.kind == KEY]
    assert key.take_back == ()
    assert "run `cmek leftovers` there" in key.remark


def test_a_record_that_does_not_verify_is_named_and_nothing_is_said_to_be_all(
    bench: Onboardings,
) -> None:
    """Else one changed byte in Prefect would hide a key that Anthropic may use.

    On the worker's machine its own record of the run is read, too; elsewhere there is none.
    """
    run = rejected(bench)
    key = artifact_key("evidence", run.parameters["request"]["workspace"])
    (page,) = [str(one.data) for one in bench.artifacts(run) if one.key == key]
    forged = ArtifactCreate(key=key, type="markdown", data=page.replace("ada@", "eve@"))
    bench.client.create_artifact(forged)
    assert {one.run for one in leftovers()} == {str(run.id)}
    for there in (True, False):
        if not there:
            shutil.rmtree(records_folder() / str(run.id))
            assert leftovers() == ()
        for arguments in ([], ["--json"]):
            shown = CliRunner().invoke(COMMAND, arguments)
            assert shown.exit_code == 1
            assert key in str(shown.exception)


def test_nothing_is_left_over_while_an_attach_may_still_take_effect(
    bench: Onboardings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the commands that destroy a key would stand beside the doubt whether it is in use."""
    run = bench.asked()
    bench.control.fault("workspaces.update", when="before", kind="reset", times=9)
    bench.control.fault("workspaces.retrieve", skip=3, status=403, times=99)
    run.approve()
    bench.control.clear_faults()
    assert run.state == "Failed"
    assert "may still take effect" in run.message or "not known" in run.message
    assert leftovers() == table(bench) == ()
    monkeypatch.setattr(tasks.leftovers, "PENDING_CREATE_LIFETIME", timedelta(0))
    assert {one.kind for one in leftovers()} == {RING, KEY, GRANTS, EXTERNAL}


def test_an_adopted_key_keeps_everything_but_what_onboarding_added(bench: Onboardings) -> None:
    """Its label and grants are taken back, never its versions."""
    bench.kms.ring("anthropic-cmek")
    bench.kms.key(bench.fresh, ring=bench.key_name.partition("/cryptoKeys/")[0])
    refused_at_the_attach(bench, adopt_existing_key=True, protection_level="SOFTWARE")
    found = leftovers()
    commands = [command for one in found for command in one.take_back]
    assert {one.kind for one in found} == {LABEL, GRANTS, EXTERNAL}
    assert not any("versions destroy" in command for command in commands)


def test_what_was_taken_back_is_no_longer_listed(bench: Onboardings) -> None:
    """Here the effects of its commands are made directly."""
    rejected(bench)
    world = bench.sandbox.world
    (external,) = [one for one in leftovers() if one.kind == EXTERNAL]
    with world.lock:
        del world.admin.external_keys[external.resource]
    Fleet(world).set_policy(bench.key_name, {})
    assert {one.kind for one in leftovers()} == {KEY, RING}


def test_the_command_lists_the_commands_whole_and_as_data(bench: Onboardings) -> None:
    """A line that a person must copy is never wrapped."""
    run = rejected(bench)
    shown = CliRunner().invoke(COMMAND, [])
    assert shown.exit_code == 0, shown.output
    assert str(run.id) in shown.output
    for one in leftovers():
        assert all(f"    {line}\n" in shown.output for line in one.take_back)
    data = json.loads(CliRunner().invoke(COMMAND, ["--json"]).output)
    assert [one["kind"] for one in data] == [EXTERNAL, GRANTS, KEY, RING]
