"""The gateway over HTTP, through the product's own client and against the sandbox."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from cmek.anthropic.errors import (
    AdminApiError,
    ApprovalSpentError,
    ExternalKeyValidationFailedError,
    GatewayNotSentError,
    GatewayRefusedError,
    InternalServerError,
    NotFoundError,
)
from cmek.anthropic_identity import ENCRYPTER_DECRYPTER
from cmek.errors import CmekError
from cmek.keys.prerequisites import CATALOGUE
from cmek.onboarding.plan import possible_titles
from cmek.signatures.statement import MAX_SIGNATURES, MAX_TEXT, signed_list
from cmek.tags import CREATED_BY_TAG
from gateway.app import gateway_app
from gateway.attach import SteadyClock
from gateway.journal import IntentOutcome, Journal
from gateway.settings import (
    FederationSettings,
    GatewaySettings,
    GatewaySettingsError,
    load_settings,
)
from sandbox.world import Fault
from tests.support.gateway import NEW_NAME, RUN_ID, Gateways, through
from tests.support.google import BAD_KEY_FILES, bad_key_file
from tests.support.signing import GRACE, KATHERINE
from tests.support.staging import EXTERNAL_KEY, KEY

pytestmark = pytest.mark.anyio


async def fetch(url: str, method: str = "GET", **options: Any) -> httpx.Response:
    """Send any request, as every user of this machine can."""
    async with httpx.AsyncClient(trust_env=False) as http:
        return await http.request(method, url, **options)


def outcomes(gate: Gateways) -> list[str | None]:
    """The outcomes of the journal's entries, in order."""
    journal = Journal(gate.journal)
    found = journal.of_run(RUN_ID)
    journal.close()
    return [one.outcome for one in found]


async def test_reads_registration_validation_and_evidence_pass(gate: Gateways) -> None:
    with gate.running() as url:
        async with through(url) as api:
            assert str((await api.organization.me()).id) == gate.sandbox.organization_id
            keys = [one async for one in api.external_keys.list()]
            assert [one.id for one in keys] == [EXTERNAL_KEY]
            assert (await api.external_keys.retrieve(EXTERNAL_KEY)) == keys[0]
            assert (await api.external_keys.validate(EXTERNAL_KEY)).succeeded
            listed = [one async for one in api.workspaces.list(include_archived=True)]
            assert gate.workspace_id in {one.id for one in listed}
            made = await api.external_keys.create(
                "projects/acme-kms-prod/locations/us-east5/keyRings/r/cryptoKeys/k", "another"
            )
            assert made.display_name == "another"
            tags = {"cmek-evidence": "ab" * 32}
            tagged = await api.workspaces.update(gate.workspace_id, tags=tags)
            assert tagged.tags == tags
            assert tagged.request_id


async def test_a_signed_approval_attaches_and_the_journal_keeps_it(gate: Gateways) -> None:
    approvals = gate.approvals()
    with gate.running() as url:
        async with through(url) as api:
            done = await api.workspaces.update(
                gate.target.workspace_id,
                external_key_id=EXTERNAL_KEY,
                signed_approvals=approvals,
            )
        entries = (await fetch(f"{url}/gateway/journal/{RUN_ID}")).json()["entries"]
    assert (done.id, done.external_key_id) == (gate.keys_attached()[0], EXTERNAL_KEY)
    (entry,) = entries
    assert entry["outcome"] == "attached"
    assert entry["signed_approvals"] == approvals
    assert entry["approvers"][0].startswith(f"{GRACE} (ED25519 key SHA256:")
    assert entry["workspace_id"] == done.id


async def test_a_signed_approval_creates_a_workspace_with_its_key(gate: Gateways) -> None:
    approvals = gate.approvals(gate.statement(new=True))
    with gate.running() as url:
        async with through(url) as api:
            made = await api.workspaces.create(
                NEW_NAME,
                EXTERNAL_KEY,
                tags={"cmek-run": RUN_ID},
                data_residency=gate.new.data_residency,
                signed_approvals=approvals,
            )
    assert gate.keys_attached() == [made.id]
    assert made.name == NEW_NAME


@pytest.mark.parametrize("call", ["external_keys.retrieve", "workspaces.retrieve"])
async def test_what_the_gateway_can_not_read_is_no_attach_of_unknown_outcome(
    gate: Gateways, call: str
) -> None:
    """Nothing was sent, and the approval can be used again."""
    approvals = gate.approvals()
    gate.sandbox.world.faults.add(Fault(call=call, status=503, times=4))
    with gate.running() as url:
        async with through(url) as api:

            async def attach() -> Any:
                return await api.workspaces.update(
                    gate.target.workspace_id,
                    external_key_id=EXTERNAL_KEY,
                    signed_approvals=approvals,
                )

            with pytest.raises(GatewayNotSentError) as caught:
                await attach()
            assert not caught.value.ambiguous
            assert gate.sent() == []
            assert (await attach()).external_key_id == EXTERNAL_KEY


async def test_a_refused_credential_of_the_gateway_is_no_attach_of_unknown_outcome(
    gate: Gateways,
) -> None:
    gate.sandbox.world.faults.add(Fault(call="workspaces.update", status=401, times=9))
    with gate.running() as url:
        async with through(url) as api:
            with pytest.raises(GatewayRefusedError, match="restart cmek-gateway"):
                await api.workspaces.update(
                    gate.target.workspace_id,
                    external_key_id=EXTERNAL_KEY,
                    signed_approvals=gate.approvals(),
                )


async def test_the_gateways_own_calls_are_three_reads(gate: Gateways) -> None:
    """They are counted apart from the flow's: the flow itself makes one call."""
    log = gate.sandbox.world.log
    log.clear()
    with gate.running() as url:
        async with through(url) as api:
            await api.workspaces.update(
                gate.target.workspace_id,
                external_key_id=EXTERNAL_KEY,
                signed_approvals=gate.approvals(),
            )
    calls = [one.call for one in log.entries]
    assert calls == [
        "external_keys.retrieve",
        "workspaces.retrieve",
        "external_keys.validate",
        "workspaces.update",
    ]


async def refused(gate: Gateways, url: str, approvals: str, **request: Any) -> str:
    """Send an attach that is refused before it reaches Anthropic; returns the reason."""
    before = len(gate.sent())
    async with through(url) as api:
        with pytest.raises((GatewayRefusedError, ApprovalSpentError)) as caught:
            await api.workspaces.update(
                request.get("workspace_id", gate.workspace_id),
                external_key_id=request.get("external_key_id", EXTERNAL_KEY),
                signed_approvals=approvals,
            )
    assert len(gate.sent()) == before
    assert not caught.value.ambiguous
    return caught.value.message


async def test_without_a_good_approval_nothing_is_sent(gate: Gateways) -> None:
    gate.office.new_key("eve@example.com")
    mine = gate.statement()
    good = gate.approvals(mine)
    altered = good.replace('"comment":"fine"', '"comment":"fire"')
    with gate.running() as url:
        assert "must end with" in await refused(gate, url, "")
        assert "must end with" in await refused(gate, url, "please")
        assert "does not fit its text" in await refused(gate, url, altered)
        forged = gate.approvals(gate.statement(), by="eve@example.com")
        assert "is not enrolled for them" in await refused(gate, url, forged)
        unknown = gate.approvals(gate.statement("eve@example.com"))
        assert "is not enrolled for them" in await refused(gate, url, unknown)
        other = gate.approvals(gate.statement(workspace_id="wrkspc_01SandboxOther"))
        assert "another workspace" in await refused(gate, url, other)
        wrong_key = gate.approvals(gate.statement(key_name="projects/p/locations/l/keyRings/r/k"))
        assert "is registered for" in await refused(gate, url, wrong_key)
        old = gate.approvals(gate.statement(expires_at=datetime(2026, 1, 1, tzinfo=UTC)))
        assert "expired at" in await refused(gate, url, old)
    assert gate.keys_attached() == []
    assert outcomes(gate) == []


async def test_revoked_keys_and_the_minimum_are_the_gateways_own(gate: Gateways) -> None:
    (gate.office.directory / "minimum_signatures").write_text("2\n")
    with gate.running() as url:
        assert "1 of 2 required" in await refused(gate, url, gate.approvals())
        gate.office.revoke(KATHERINE)
        mine = gate.statement()
        both = gate.approvals(mine, mine.model_copy(update={"approver": KATHERINE}))
        assert "is revoked by" in await refused(gate, url, both)
        (gate.office.directory / "revoked_keys").unlink()
        async with through(url) as api:
            await api.workspaces.update(
                gate.workspace_id, external_key_id=EXTERNAL_KEY, signed_approvals=both
            )
    assert len(gate.keys_attached()) == 1


async def test_the_longest_signed_approvals_pass_in_the_header(gate: Gateways) -> None:
    """Of as many approvers as may be asked for; one byte more is refused by name, not by HTTP."""
    people = [GRACE, KATHERINE, *(f"approver-{n}@example.com" for n in range(MAX_SIGNATURES - 2))]
    for one in people[2:]:
        gate.office.enrol(one)
    (gate.office.directory / "minimum_signatures").write_text(str(MAX_SIGNATURES))
    names = [f"user:{n}-{'é' * 140}@example.com (roles/owner on projects/x)" for n in range(40)]
    mine = gate.statement(
        acknowledged_warnings=possible_titles(CATALOGUE),
        comment="\x01" * 2000,
        other_decrypters=signed_list(names),
        other_workspaces=signed_list(names),
    )
    all_signed = gate.approvals(*(mine.model_copy(update={"approver": one}) for one in people))
    longest = all_signed + " " * (MAX_TEXT - len(all_signed.encode()))
    with gate.running() as url:
        assert "longer than" in await refused(gate, url, longest + " ")
        assert f"{len(people) - 1} of 9 required" in await refused(
            gate, url, longest.partition("-----END SSH SIGNATURE-----")[2]
        )
        async with through(url) as api:
            await api.workspaces.update(
                gate.workspace_id, external_key_id=EXTERNAL_KEY, signed_approvals=longest
            )
    assert len(gate.keys_attached()) == 1


async def test_without_signers_nothing_is_attached_and_health_says_so(gate: Gateways) -> None:
    approvals = gate.approvals()
    (gate.office.directory / "allowed_signers").unlink()
    with gate.running() as url:
        assert "no approver is enrolled" in await refused(gate, url, approvals)
        health = await fetch(f"{url}/gateway/health")
    assert health.status_code == 503
    assert "no approver is enrolled" in health.text


async def test_an_approval_counts_once(gate: Gateways) -> None:
    """A second request is settled by a read while the key is attached, never by a second send."""
    approvals, target = gate.approvals(), gate.target
    with gate.running() as url:
        async with through(url) as api:
            for _ in range(2):
                done = await api.workspaces.update(
                    target.workspace_id, external_key_id=EXTERNAL_KEY, signed_approvals=approvals
                )
                assert done.external_key_id == EXTERNAL_KEY
            assert len(gate.sent()) == 1
        # no API can do this: the workspace loses its key
        gate.sandbox.world.admin.workspaces[target.workspace_id].external_key_id = None
        why = await refused(gate, url, approvals, workspace_id=target.workspace_id)
    assert why == "this approval was used before, outcome: attached; it counts once"


async def test_two_requests_at_once_send_one(gate: Gateways) -> None:
    approvals, target = gate.approvals(), gate.target
    with gate.running() as url:
        async with through(url) as api:
            done = await asyncio.gather(
                *(
                    api.workspaces.update(
                        target.workspace_id,
                        external_key_id=EXTERNAL_KEY,
                        signed_approvals=approvals,
                    )
                    for _ in range(4)
                )
            )
    assert {one.external_key_id for one in done} == {EXTERNAL_KEY}
    assert gate.sent() == [True]


async def test_a_failed_validation_spends_nothing_and_names_its_kind(gate: Gateways) -> None:
    approvals, target = gate.approvals(), gate.target
    gate.stage.revoke(ENCRYPTER_DECRYPTER)
    with gate.running() as url:
        async with through(url) as api:
            with pytest.raises(ExternalKeyValidationFailedError):
                await api.workspaces.update(
                    target.workspace_id, external_key_id=EXTERNAL_KEY, signed_approvals=approvals
                )
            assert gate.sent() == []
            gate.stage.grant(str(KEY), ENCRYPTER_DECRYPTER)
            await api.workspaces.update(
                target.workspace_id, external_key_id=EXTERNAL_KEY, signed_approvals=approvals
            )
    assert outcomes(gate) == ["attached"]


async def test_anthropics_own_errors_come_through(gate: Gateways) -> None:
    with gate.running() as url:
        async with through(url) as api:
            with pytest.raises(NotFoundError) as caught:
                await api.workspaces.retrieve("wrkspc_01SandboxNowhere")
    assert caught.value.request_id


async def test_a_refused_credential_is_the_gateways_matter(gate: Gateways, tmp_path: Path) -> None:
    """The worker's block has no credential, so the error must not advise to replace it."""
    key = tmp_path / "other_key"
    key.write_text("sk-ant-admin01-FAKE-REVOKED")
    with gate.running(admin_key_file=key) as url:
        async with through(url) as api:
            with pytest.raises(InternalServerError, match="gateway's own credential") as caught:
                await api.organization.me()
    assert "FAKE-REVOKED" not in str(caught.value)
    assert len(gate.sandbox.world.log.entries) == 1


@pytest.mark.parametrize(("mode", "said"), [(0o666, "written"), (0o620, "written"), (0o644, "")])
def test_a_credential_that_others_could_have_written_is_refused(
    gate: Gateways, mode: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One that every user can read is only logged: its content cannot have been changed."""
    settings = gate.settings
    assert settings.admin_key_file is not None
    settings.admin_key_file.chmod(mode)
    if said:
        with pytest.raises(GatewaySettingsError, match=said):
            settings.credential()
    else:
        settings.credential()
        assert "can be read by every user" in caplog.text


@pytest.mark.parametrize("value", ['"x"', "1", "true", '["x"]', "[1]", "{ a = 1 }"])
@pytest.mark.parametrize("name", GatewaySettings.model_fields)
def test_a_setting_of_a_wrong_type_is_refused_in_the_words_of_the_file(
    tmp_path: Path, name: str, value: str
) -> None:
    """Not in those of Python, which has tuples and classes."""
    file = tmp_path / "gateway.toml"
    usual = {"journal": '"/journal"', "admin_key_file": '"/key"'}
    given = usual | {name: value}
    file.write_text("".join(f"{one} = {text}\n" for one, text in given.items()))
    said = ""
    try:
        load_settings(file)
    except CmekError as error:
        said = str(error)
    assert not re.search("tuple|dictionary|instance|Settings|type=", said)
    if name == "names" and value != '["x"]':
        assert "wanted is a list, in square brackets" in said or "names.0: " in said


@pytest.mark.parametrize("name", BAD_KEY_FILES)
def test_a_google_key_that_can_not_sign_is_named_at_the_start(tmp_path: Path, name: str) -> None:
    """It would be too late at the first call, after a good health check; no content is shown."""
    file = bad_key_file(tmp_path, name)
    federation = FederationSettings(
        federation_rule_id="fdrl_01",
        organization_id=UUID(int=1),
        service_account_id="svac_01",
        google_credentials_file=file,
    )
    settings = GatewaySettings(journal=tmp_path / "journal", workload_identity=federation)
    with pytest.raises(GatewaySettingsError, match=r"key\.json") as refused:
        gateway_app(settings)
    assert "CANARY" not in f"{refused.value} {refused.value!r}"


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:80"},
        {"origin": "http://localhost:4200"},
        {"sec-fetch-site": "cross-site"},
        {"referer": "http://evil.example/"},
    ],
)
async def test_no_page_in_a_browser_can_use_it(gate: Gateways, headers: dict[str, str]) -> None:
    with gate.running() as url:
        for path in ("/v1/organizations/me", "/gateway/health", "/gateway/journal/x"):
            answer = await fetch(f"{url}{path}", headers=headers)
            assert answer.status_code == 403, path
    assert gate.sandbox.world.log.entries == []


@pytest.mark.parametrize("written", ["gateway.example.com", "Gateway.Example.COM"])
@pytest.mark.parametrize("sent", ["gateway.example.com", "GATEWAY.example.com:443"])
async def test_a_name_of_the_settings_counts_in_any_case(
    gate: Gateways, written: str, sent: str
) -> None:
    """As DNS takes it: in the settings as in a request."""
    with gate.running(names=(written,)) as url:
        answer = await fetch(f"{url}/gateway/health", headers={"host": sent})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("content", "kind", "why"),
    [
        (b'{"external_key_id": "ekey_x"}', "text/plain", "must be application/json"),
        (b"{", "application/json", "not JSON"),
        (b'{"tags": {}, "tags": {}}', "application/json", "more than once"),
        (b'{"tags": NaN}', "application/json", "not JSON"),
        (b"null", "application/json", "null"),
        (b" " * 70_000, "application/json", "longer than"),
        (b"[" * 60_000, "application/json", "not JSON"),
    ],
)
async def test_a_body_that_two_readers_could_read_differently_is_refused(
    gate: Gateways, content: bytes, kind: str, why: str
) -> None:
    with gate.running() as url:
        answer = await fetch(
            f"{url}/v1/organizations/workspaces/{gate.workspace_id}",
            "POST",
            content=content,
            headers={"content-type": kind},
        )
    assert answer.status_code == 403
    assert why in answer.json()["error"]["message"]
    assert gate.sandbox.world.log.entries == []


async def test_the_log_has_one_line_for_a_call_and_no_secret(
    gate: Gateways, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="cmek.gateway")
    with gate.running() as url:
        async with through(url) as api:
            await api.organization.me()
        await refused(gate, url, "")
        await fetch(f"{url}/v1/a%0ab%1b[31m")
        async with through(url) as api:
            await api.workspaces.update(
                gate.workspace_id, external_key_id=EXTERNAL_KEY, signed_approvals=gate.approvals()
            )
    lines = [record.getMessage() for record in caplog.records if record.name == "cmek.gateway"]
    assert [line.split(": ")[1].split()[0] for line in lines] == [
        "passed",
        "refused",
        "refused",
        "attached",
    ]
    assert all(line.isprintable() for line in lines)
    assert gate.sandbox.admin_key not in "".join(lines)


async def test_answers_hold_no_secret(gate: Gateways) -> None:
    secret = gate.sandbox.admin_key
    with gate.running() as url:
        for path in ("/gateway/health", "/v1/organizations/me", f"/gateway/journal/{RUN_ID}"):
            answer = await fetch(f"{url}{path}")
            assert secret not in answer.text + str(answer.headers)


async def test_a_clock_that_is_set_back_revives_no_approval(gate: Gateways) -> None:
    """This holds while the gateway runs, and when it starts again."""
    now = datetime.now(UTC)
    wall = [now]
    soon = gate.statement(expires_at=(now + timedelta(minutes=1)).replace(microsecond=0))

    def clock(journal: Journal) -> SteadyClock:
        return SteadyClock(journal.latest_time(), wall=lambda: wall[0])

    first = gate.approvals()
    with gate.running(clock=clock) as url:
        wall[0] = now + timedelta(minutes=2)
        async with through(url) as api:
            await api.workspaces.update(
                gate.workspace_id, external_key_id=EXTERNAL_KEY, signed_approvals=first
            )
    wall[0] = now - timedelta(days=1)
    with gate.running(clock=clock) as url:
        assert "expired at" in await refused(gate, url, gate.approvals(soon))
        health = await fetch(f"{url}/gateway/health")
    assert health.status_code == 503
    (problem,) = health.json()["problems"]
    assert problem.startswith("the clock is 1 day, 0:02:")


async def test_a_journal_that_cannot_be_written_attaches_nothing(gate: Gateways) -> None:
    target = gate.target
    with gate.running() as url:
        blocker = sqlite3.connect(gate.journal, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        why = await refused(gate, url, gate.approvals(), workspace_id=target.workspace_id)
        blocker.execute("ROLLBACK")
        blocker.close()
    assert "journal" in why
    assert "nothing is attached" in why
    assert gate.sent() == []


async def test_a_journal_that_cannot_be_written_after_the_intent_loses_no_answer(
    gate: Gateways, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk may become full meanwhile; the next start settles the intent by a read."""
    target, approvals = gate.target, gate.approvals()
    settle = Journal.settle

    def blocked(journal: Journal, *given: Any, **named: Any) -> None:
        blocker = sqlite3.connect(gate.journal, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        try:
            settle(journal, *given, **named)
        finally:
            blocker.execute("ROLLBACK")
            blocker.close()

    with monkeypatch.context() as patch, gate.running() as url:
        patch.setattr(Journal, "settle", blocked)
        async with through(url) as api:
            done = await api.workspaces.update(
                target.workspace_id, external_key_id=EXTERNAL_KEY, signed_approvals=approvals
            )
    assert done.external_key_id == EXTERNAL_KEY
    assert "is not in the journal" in caplog.text
    assert outcomes(gate) == [None]
    with gate.running() as url:
        await fetch(f"{url}/gateway/health")
    assert outcomes(gate) == [IntentOutcome.ATTACHED]
    assert gate.sent() == [True]


async def test_a_lost_answer_is_settled_by_a_read(gate: Gateways) -> None:
    gate.fault("workspaces.update", when="after", kind="reset")
    target = gate.target
    with gate.running() as url:
        async with through(url) as api:
            done = await api.workspaces.update(
                target.workspace_id, external_key_id=EXTERNAL_KEY, signed_approvals=gate.approvals()
            )
    assert done.external_key_id == EXTERNAL_KEY
    assert gate.sent() == [True]
    assert outcomes(gate) == ["attached"]


async def test_an_unknown_outcome_is_never_sent_again(gate: Gateways) -> None:
    """The attach is lost before its effect, but nobody can know that it will have none."""
    gate.fault("workspaces.update", when="before", kind="reset")
    target, approvals = gate.target, gate.approvals()
    with gate.running() as url:
        async with through(url) as api:
            with pytest.raises(AdminApiError) as caught:
                await api.workspaces.update(
                    target.workspace_id, external_key_id=EXTERNAL_KEY, signed_approvals=approvals
                )
        assert caught.value.ambiguous
        why = await refused(gate, url, approvals)
        assert "outcome: unknown" in why
        async with through(url) as api:
            await api.workspaces.update(
                target.workspace_id, external_key_id=EXTERNAL_KEY, signed_approvals=gate.approvals()
            )
    assert gate.sent() == [False, True]
    assert outcomes(gate) == [IntentOutcome.UNKNOWN, IntentOutcome.ATTACHED]


async def test_a_read_for_another_intent_does_not_hide_what_is_attached(gate: Gateways) -> None:
    """A create has an unknown outcome, and the workspaces can no longer be listed."""
    gate.fault("workspaces.create", when="before", kind="reset")
    target, approvals = gate.target, gate.approvals()
    new = gate.approvals(gate.statement(new=True))
    with gate.running() as url:
        async with through(url) as api:
            with pytest.raises(AdminApiError):
                await api.workspaces.create(
                    gate.new.name,
                    EXTERNAL_KEY,
                    tags={CREATED_BY_TAG: gate.new.run_id},
                    data_residency=gate.new.data_residency,
                    signed_approvals=new,
                )
            gate.fault("workspaces.list", status=500, times=100)
            for _ in range(2):
                done = await api.workspaces.update(
                    target.workspace_id, external_key_id=EXTERNAL_KEY, signed_approvals=approvals
                )
                assert done.external_key_id == EXTERNAL_KEY
    assert outcomes(gate) == [IntentOutcome.UNKNOWN, IntentOutcome.ATTACHED]


async def test_a_refusal_of_anthropic_leaves_the_approval_good(gate: Gateways) -> None:
    timed_out = "external_key_validation_timed_out"
    gate.fault("workspaces.update", status=400, error_code=timed_out)
    target, approvals = gate.target, gate.approvals()
    with gate.running() as url:
        async with through(url) as api:
            with pytest.raises(AdminApiError, match=timed_out):
                await api.workspaces.update(
                    target.workspace_id, external_key_id=EXTERNAL_KEY, signed_approvals=approvals
                )
            await api.workspaces.update(
                target.workspace_id, external_key_id=EXTERNAL_KEY, signed_approvals=approvals
            )
    assert outcomes(gate) == ["refused", "attached"]


def test_the_journal_is_its_users_alone(gate: Gateways) -> None:
    with gate.running():
        assert gate.journal.stat().st_mode & 0o077 == 0


async def test_health_says_what_is_ready(gate: Gateways) -> None:
    with gate.running() as url:
        answer = await fetch(f"{url}/gateway/health")
    assert answer.status_code == 200
    assert json.loads(answer.text) == {
        "upstream": gate.sandbox.http,
        "problems": [],
        "minimum_signatures": 1,
        "unsettled": 0,
    }
