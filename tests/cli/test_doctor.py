"""`cmek doctor` finds what is not set up, and says what to do."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prefect.automations import AutomationCore
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import WorkPool
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_SSL_CERT_FILE,
    PREFECT_API_URL,
    PREFECT_CLIENT_CUSTOM_HEADERS,
    temporary_settings,
)

from blocks.onboarding_policy import OnboardingPolicy
from cli.client import PAGE, RunError, every
from cli.deploy import PREFECT_FILE, PROJECT, REMINDER, create_work_pool, deploy, install
from cli.doctor.command import _approvals, examine
from cli.doctor.credentials import check_gateway
from cli.doctor.finding import DoctorFinding
from cli.doctor.server import _jobs, check_automations
from cli.doctor.web import _ui, check_proxy, check_web
from cmek.signatures import signers as signers_module
from cmek.signatures.signers import REQUIRED_VARIABLE, SignersRefusedError, required_signatures
from tests.support.command import clean_environment, cmek, exit_code
from tests.support.signing import GRACE, KATHERINE, Office
from tests.support.stack import Stack
from tests.support.web_server import QuietHandler, certificate_for, serving

pytestmark = pytest.mark.e2e
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["upstream", "problems", "unsettled", "error"]), inner)
    ),
    max_leaves=8,
)


def by_check(findings: list[DoctorFinding]) -> dict[str, DoctorFinding]:
    """The findings by check; each check must be there only once."""
    assert len({one.check for one in findings}) == len(findings)
    return {one.check: one for one in findings}


def test_a_running_stack_passes_but_for_what_a_rehearsal_does_not_need(
    stack: Stack, tmp_path: Path
) -> None:
    """Each fault has its remedy; `--json` gives the same as data."""
    stack.deploy()
    environment = clean_environment(tmp_path, PREFECT_API_URL=stack.local.api_url)
    done = cmek("doctor", "--json", environment=environment, directory=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    found = by_check([DoctorFinding.model_validate(one) for one in json.loads(done.stdout)])
    faults = {name for name, one in found.items() if one.status != "pass"}
    assert faults <= {"approvals", "login", "automations", "schedules"}
    assert {"approvals", "login"} <= faults
    assert all(one.remedy for name, one in found.items() if name in faults)
    assert found["policy"].found == "default is as the guide recommends"
    assert "has all" in found["Google credential"].found
    assert "Acme" in found["Anthropic credential"].found


def test_a_server_with_nothing_on_it_fails_where_each_thing_is_missing(
    prefect_server: None,
) -> None:
    """Pool, deployments and blocks fail; the first fault does not stop the rest."""
    found = by_check(list(examine("no-admin", "no-kms", None)))
    failing = ("work pool cmek", "deployments", "policy", "Anthropic credential")
    for check in (*failing, "Google credential"):
        assert found[check].status == "fail", check
        assert found[check].remedy or "Make or fix it" in found[check].found
    assert found["server"].status == "pass"


def test_the_policy_names_the_blocks_and_its_accepted_warnings_are_checked(
    prefect_server: None,
) -> None:
    OnboardingPolicy(
        anthropic_block="elsewhere", kms_block="far-away", accepted_warnings=("audit-logz",)
    ).save("strict", overwrite=True)
    found = by_check(list(examine(None, None, None, "strict")))
    assert found["policy"].status == "warn"
    assert "no check has: audit-logz" in found["policy"].found
    assert "anthropic-admin/elsewhere" in found["Anthropic credential"].found
    assert "google-kms/far-away" in found["Google credential"].found


def test_a_pool_of_prefects_own_template_fails(prefect_server: None) -> None:
    """A worker makes such a pool when there is none."""
    template = {
        "job_configuration": {"command": "{{ command }}"},
        "variables": {"type": "object", "properties": {"command": {"type": "string"}}},
    }
    with get_client(sync_client=True) as client:
        client.create_work_pool(
            WorkPoolCreate(name="cmek", type="process", base_job_template=template)
        )
        try:
            found = by_check(list(examine("no-admin", "no-kms", None)))
        finally:
            client.delete_work_pool("cmek")
    assert found["work pool cmek"].status == "fail"
    assert "lets whoever starts a run choose command" in found["work pool cmek"].found


def test_a_worker_that_must_have_signatures_and_has_no_approvers_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """This happens in a container, or on a worker's new machine; and it attaches nothing."""
    monkeypatch.setattr(signers_module, "DIRECTORY", tmp_path / "cmek")
    monkeypatch.setattr(
        signers_module.find_signers, "__defaults__", (tmp_path / "cmek", signers_module.facts_of)
    )
    monkeypatch.setenv(REQUIRED_VARIABLE, "1")
    with temporary_settings({PREFECT_API_URL: None}):
        assert exit_code("doctor", "--json") == 1
    (approvals, _) = json.loads(capsys.readouterr().out)
    assert (approvals["check"], approvals["status"]) == ("approvals", "fail")
    assert "1 signatures are required" in approvals["found"]
    with pytest.raises(SignersRefusedError, match="enrol the approvers"):
        required_signatures(None, 0)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_approvers_are_counted_in_every_valid_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    office = Office(tmp_path)
    office.enrol(GRACE)
    office.enrol(KATHERINE)
    file = office.directory / "allowed_signers"
    file.write_bytes(f"# people\r\n\r\n{file.read_text()}".encode(encoding))
    monkeypatch.setattr("cli.doctor.command.find_signers", office.finder)
    assert "2 people are enrolled; an attach needs 1 signatures" in _approvals().found


def test_fewer_people_than_an_attach_needs_signatures_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found out at the last step otherwise, after people have signed; two keys may be one's."""
    office = Office(tmp_path)
    office.enrol(GRACE)
    office.enrol(KATHERINE)
    file = office.directory / "allowed_signers"
    line = next(iter(file.read_text().splitlines()))
    for text, needed, status in (
        (file.read_text(), 2, "warn"),
        (file.read_text(), 3, "fail"),
        (f"{line}\n{line}\n", 2, "fail"),
        (line.replace(" ", " cert-authority ", 1), 2, "warn"),
    ):
        file.write_text(text)
        (office.directory / "minimum_signatures").write_text(str(needed))
        monkeypatch.setattr("cli.doctor.command.find_signers", office.finder)
        assert _approvals().status == status, text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CMEK_REQUIRED_SIGNATURES", "0"),
        ("CMEK_REQUIRED_SIGNATURES", None),
        ("CMEK_RECORDS", None),
        ("CMEK_RECORDS", "gs://BUCKET/cmek-records"),
        ("CMEK_RECORDS", "/var/lib/cmek"),
        ("CMEK_RECORDS_KEY_FILE", None),
    ],
)
def test_the_variables_of_jobs_are_read_with_their_values(name: str, value: str | None) -> None:
    """A name that is only a part of another one, or a value of the template, is none."""
    for file in ("work_pool_kubernetes.json", "work_pool_cloud_run.json"):
        text = (PROJECT / "deploy" / file).read_text()
        good = text.replace("gs://BUCKET/", "gs://acme/")
        assert _jobs(_pool(good)).status == "pass"
        (line,) = [one for one in good.splitlines() if f'"{name}"' in one]
        new = "" if value is None else re.sub('"value": "[^"]*"', f'"value": "{value}"', line)
        found = _jobs(_pool(re.sub(r",(\s*\])", r"\1", good.replace(line, new))))
        assert found.status == "fail"
        assert name in found.found


def _pool(template: str) -> WorkPool:
    given = {"name": "cmek-jobs", "type": "kubernetes", "base_job_template": json.loads(template)}
    return WorkPool.model_construct(**given)


def test_where_only_the_package_is_installed_the_missing_file_is_named(
    prefect_server: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """After `uv tool install`, doctor has one unknown row, and deploy deploys nothing."""
    missing = tmp_path / "prefect.yaml"
    monkeypatch.setattr("cli.doctor.server.PREFECT_FILE", missing)
    found = by_check(list(examine("no-admin", "no-kms", None)))
    assert found["deployments"].status == "unknown"
    assert str(missing) in found["deployments"].found
    assert ".venv/bin/cmek" in found["deployments"].remedy
    assert found["server"].status == "pass"
    assert "policy" in found
    with get_client(sync_client=True) as client, pytest.raises(RunError) as refused:
        deploy(client, missing, None)
    assert str(missing) in str(refused.value)
    assert ".venv/bin/cmek" in str(refused.value)


@pytest.mark.parametrize("text", ["one", "10", "-1"])
def test_an_invalid_number_of_signatures_is_refused(text: str) -> None:
    """It is never read as "no signature"."""
    with pytest.raises(SignersRefusedError, match="must be one digit"):
        required_signatures(None, 0, {REQUIRED_VARIABLE: text})


def test_image_and_templates_refuse_typed_approvals_by_themselves() -> None:
    """The setting is in every place where a job may start without signers."""
    files = [PROJECT / "Dockerfile", PROJECT / "deploy" / "env" / "worker.env"]
    files += [PROJECT / "deploy" / f"work_pool_{one}.json" for one in ("cloud_run", "kubernetes")]
    assert [one.name for one in files if REQUIRED_VARIABLE not in one.read_text()] == []


@pytest.mark.parametrize(
    ("url", "proxies", "status"),
    [
        ("https://prefect.example.com/api", {"https": "http://proxy:3128"}, "warn"),
        ("https://prefect.example.com/api", {"all": "http://proxy:3128", "no": "other"}, "warn"),
        (
            "https://prefect.example.com/api",
            {"https": "http://proxy", "no": ".example.com"},
            "pass",
        ),
        ("https://prefect.example.com/api", {"https": "http://proxy", "no": "*"}, "pass"),
        ("https://prefect.example.com/api", {"http": "http://proxy:3128"}, "pass"),
        ("http://127.0.0.1:4200/api", {"http": "http://proxy:3128"}, "pass"),
        ("https://prefect.example.com/api", {}, "pass"),
    ],
)
def test_a_proxy_between_worker_and_server_is_named(
    url: str, proxies: dict[str, str], status: str
) -> None:
    """Prefect's client sends the login to the proxy that the environment names."""
    found = check_proxy(url, proxies)
    assert found.status == status
    assert ("NO_PROXY" in found.remedy) == (status == "warn")


def gateway_found(status: int, content: bytes) -> DoctorFinding:
    """What is said where this is the answer to the question for the gateway's health."""

    class Answering(QuietHandler):
        def do_GET(self) -> None:
            self.reply(status, content)

    with serving(Answering) as address:
        return asyncio.run(check_gateway(address))


HEALTHY = {"upstream": "https://api.anthropic.com", "problems": []}
"""Of a gateway that is ready; its numbers may be missing."""
REFUSED = "host 'gw.example' is none of this process: use 127.0.0.1, localhost"


@pytest.mark.parametrize(
    ("status", "answer", "shown"),
    [
        (403, {"type": "error", "error": {"message": REFUSED}}, REFUSED),
        (200, [], "HTTP 200, []"),
        (200, {"problems": None}, '{"problems": null}'),
        (200, {"upstream": "x", "problems": "none"}, "none"),
        (200, {"problems": []}, '{"problems": []}'),
        (200, None, "null"),
        (502, {"error": ["\x1b[2Jbad\u202e gateway"]}, "HTTP 502"),
        (404, {"error": {"message": "\x1b[2Jgone" + "!" * 9_000}}, "gone!!!"),
        (503, HEALTHY, "HTTP 503 without a reason"),
        (503, HEALTHY | {"problems": ["the clock is behind"]}, "the clock is behind"),
        (200, HEALTHY | {"unsettled": 2}, "2 attaches without a known outcome"),
    ],
    ids=lambda one: str(one)[:60],
)
def test_an_answer_that_is_no_healthy_gateways_is_shown_as_it_is(
    status: int, answer: object, shown: str
) -> None:
    """The server's own reason, short and harmless, whatever it answers."""
    found = gateway_found(status, json.dumps(answer).encode())
    assert found.status == "fail"
    assert found.remedy
    assert shown in found.found
    assert found.found.isprintable()
    assert len(found.found) < 1_000


@given(
    st.sampled_from([200, 204, 302, 403, 500, 503]),
    st.binary(max_size=40) | values.map(lambda one: json.dumps(one).encode()),
)
@example(200, b"[" * 50_000)
def test_no_answer_in_the_place_of_a_gateways_ends_in_a_traceback(
    status: int, content: bytes
) -> None:
    """Nor does one of another shape pass as healthy."""
    assert gateway_found(status, content).status == "fail"


def test_a_gateway_that_is_ready_passes() -> None:
    found = gateway_found(200, json.dumps(HEALTHY | {"minimum_signatures": 2}).encode())
    assert found.status == "pass"
    assert "needs 2 signatures" in found.found


@pytest.mark.parametrize("answer", ["[]", "null", '{"available_uis": 1}', "<html>", ""])
def test_a_servers_settings_of_another_shape_are_not_known(answer: str) -> None:
    request = httpx.Request("GET", "https://prefect.example/ui-settings")
    response = httpx.Response(200, text=answer, request=request)
    assert _ui(response, "https://prefect.example/api").status in {"unknown", "fail"}


def web_server(
    paths: list[str], status: int, content: bytes = b"", kind: str = "text/html"
) -> type:
    """A Prefect server behind a proxy that answers so, unless a request has the proxy's header."""

    class Proxy(QuietHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            paths.append(path)
            if self.headers.get("x-proxy") != "let me in":
                self.send_response(status)
                self.send_header("location", "https://login.example/start?next=secret")
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            elif path == "/ui-settings":
                self.reply(200, b'{"available_uis": ["v2"], "api_url": "%s/api"}' % self.base)
            elif not self.headers.get("authorization"):
                self.reply(401, b"{}")
            else:
                self.reply(200, b'"3.9.1"')

        @property
        def base(self) -> bytes:
            scheme = b"https" if isinstance(self.connection, ssl.SSLSocket) else b"http"
            return scheme + b"://" + self.headers["host"].encode()

    return Proxy


PATHS = ["/api/admin/version", "/api/csrf-token", "/ui-settings"]
"""What doctor asks for by itself, each once, whatever is answered."""


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_bare_requests_go_where_and_with_what_prefects_client_goes(slash: str) -> None:
    """Through a proxy that wants a header; a login among the headers proves nothing of the API."""
    paths: list[str] = []
    own = {PREFECT_CLIENT_CUSTOM_HEADERS: {"X-Proxy": "let me in", "Authorization": "Bearer x"}}
    with serving(web_server(paths, 302)) as address, temporary_settings(own):
        found = by_check(list(check_web(f"{address}/api{slash}")))
    assert {name: one.status for name, one in found.items()} == {
        "login": "pass",
        "CSRF protection": "pass",
        "UI": "pass",
    }
    assert paths == PATHS


@pytest.mark.parametrize(
    ("status", "content"), [(302, b""), (200, b"<html>sign in"), (404, b"no"), (502, b"bad")]
)
def test_what_a_proxy_answers_is_no_word_about_the_api(status: int, content: bytes) -> None:
    """It is not known then, with the answer."""
    paths: list[str] = []
    with serving(web_server(paths, status, content)) as address:
        found = by_check(list(check_web(f"{address}/api")))
    assert f"HTTP {status}" in found["login"].found
    assert found["login"].remedy
    if status == 302:
        assert found["login"].found.endswith(" to https://login.example/start")
    assert {one.status for one in found.values()} == {"unknown"}
    assert paths == PATHS


@pytest.mark.parametrize("known", [True, False])
def test_an_authority_of_ones_own_is_believed_and_another_ends_no_check(
    tmp_path: Path, known: bool
) -> None:
    paths: list[str] = []
    certificate = certificate_for(tmp_path, ["localhost"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    own: dict[Any, Any] = {PREFECT_API_SSL_CERT_FILE: str(certificate) if known else None}
    own[PREFECT_CLIENT_CUSTOM_HEADERS] = {"X-Proxy": "let me in"}
    own[PREFECT_API_AUTH_STRING] = "operator:fake"
    with serving(web_server(paths, 302), context) as address, temporary_settings(own):
        found = by_check(list(check_web(f"{address.replace('127.0.0.1', 'localhost')}/api")))
    assert list(found) == ["login", "CSRF protection", "UI"]
    assert {one.status for one in found.values()} == {"pass" if known else "unknown"}
    assert known or "CERTIFICATE_VERIFY_FAILED" in found["login"].found


@pytest.fixture
def deployed(prefect_server: None) -> Iterator[SyncPrefectClient]:
    """A client of a server with every deployment, of which a test may change any.

    They stay for the next test if they are as before: a deploy takes seconds.
    """
    with get_client(sync_client=True) as client:
        if not client.read_deployments():
            create_work_pool(client, "cmek", PROJECT / "deploy" / "work_pool.json", 4)
            deploy(client, PREFECT_FILE, "acme-kms-prod")
        before, triggers = _state(client), _automations(client)
        yield client
        for automation in _automations(client).keys() - triggers.keys():
            client.delete_automation(automation)
        if (_state(client), _automations(client)) != (before, triggers):
            _remove(client)


def _automations(client: SyncPrefectClient) -> dict[UUID, bool]:
    """Which are on; at first those of the deployments' triggers only."""
    return {one.id: one.enabled for one in every(client.read_automations)}


def _state(client: SyncPrefectClient) -> list[Any]:
    """What a test may have changed."""
    pools = [(one.is_paused, one.base_job_template) for one in client.read_work_pools()]
    queues = sorted((one.name, one.is_paused) for one in client.read_work_queues())
    deployments = {one.id: (one.paused, one.schedules) for one in client.read_deployments()}
    return [pools, queues, deployments]


def _remove(client: SyncPrefectClient) -> None:
    for one in client.read_deployments():
        client.delete_deployment(one.id)
    client.delete_work_pool("cmek")


def test_a_deployment_is_missing_by_its_whole_name(deployed: SyncPrefectClient) -> None:
    """Two are named `scheduled`: without the check of all keys the other one does not count."""
    found = by_check(list(examine("no-admin", "no-kms", None)))
    assert (found["deployments"].status, found["schedules"].status) == ("pass", "pass")
    hourly = deployed.read_deployment_by_name("discover-workspaces/scheduled")
    deployed.pause_deployment(hourly.id)
    quick = deployed.read_deployment_by_name("revalidate-keys/quick")
    deployed.delete_deployment_schedule(quick.id, quick.schedules[0].id)
    daily = deployed.read_deployment_by_name("revalidate-keys/scheduled")
    deployed.delete_deployment(daily.id)
    found = by_check(list(examine("no-admin", "no-kms", None)))
    assert found["deployments"].status == "fail"
    assert found["deployments"].found == "missing: revalidate-keys/scheduled"
    assert found["schedules"].status == "warn"
    assert found["schedules"].found == (
        "paused: discover-workspaces/scheduled; without a schedule: revalidate-keys/quick"
    )


def test_a_paused_pool_or_queue_fails(deployed: SyncPrefectClient) -> None:
    """An upgrade pauses the pool. When it stays so, no run starts, and nothing else says why."""

    def found() -> DoctorFinding:
        return by_check(list(examine("no-admin", "no-kms", None)))["work pool cmek"]

    assert found().status == "pass"
    deployed.update_work_pool("cmek", WorkPoolUpdate(is_paused=True))
    assert (found().status, found().remedy) == ("fail", "prefect work-pool resume cmek")
    deployed.update_work_pool("cmek", WorkPoolUpdate(is_paused=False))
    queue = deployed.read_work_queue_by_name("default", work_pool_name="cmek")
    deployed.update_work_queue(queue.id, is_paused=True)
    resume = "prefect work-queue resume default --pool cmek"
    assert (found().status, found().remedy) == ("fail", resume)
    deployed.update_work_queue(queue.id, is_paused=False)


def test_an_automation_that_is_as_wanted_is_left_alone(deployed: SyncPrefectClient) -> None:
    """An update gives its trigger a new id, so that the server forgets each wait that has begun."""

    def triggers() -> dict[str, str]:
        found = deployed.request("POST", "/automations/filter", json={}).json()
        return {one["name"]: one["trigger"]["id"] for one in found}

    CustomWebhookNotificationBlock(name="kept", url="http://127.0.0.1:1/").save("kept")
    block = "custom-webhook/kept"
    assert set(install(deployed, [block]).values()) == {"installed"}
    before = triggers()
    assert set(install(deployed, [block]).values()) == {"unchanged"}
    assert triggers() == before
    (silent,) = deployed.read_automations_by_name("cmek: run is silent")
    deployed.pause_automation(silent.id)
    again = install(deployed, [block], within={"approval-waits": 60})
    assert {name for name, change in again.items() if change == "updated"} == {
        REMINDER,
        silent.name,
    }
    assert {name for name, one in triggers().items() if before[name] != one} == {
        REMINDER,
        silent.name,
    }


def test_an_automation_whose_block_or_deployment_was_made_anew_does_nothing(
    deployed: SyncPrefectClient,
) -> None:
    """It keeps the old id. Every page of the server's automations is read."""

    def save_block() -> None:
        CustomWebhookNotificationBlock(name="ops", url="http://127.0.0.1:1/").save("ops")

    other = {
        "trigger": {"type": "event", "posture": "Reactive", "threshold": 1},
        "actions": [{"type": "do-nothing"}],
    }
    for number in range(PAGE + 1):  # the first page, by name
        name = {"name": f"another {number}"}
        deployed.create_automation(AutomationCore.model_validate(other | name))
    save_block()
    block = "custom-webhook/ops"
    install(deployed, [block])
    assert check_automations(deployed).status == "pass"

    document = deployed.read_block_document_by_name("ops", "custom-webhook")
    deployed.delete_block_document(document.id)
    save_block()
    found = check_automations(deployed)
    assert found.status == "fail"
    assert "cmek: key broken" in found.found
    assert "cmek: run is silent" not in found.found
    assert "install again" in found.remedy
    install(deployed, [block])
    assert check_automations(deployed).status == "pass"

    watchdog = deployed.read_deployment_by_name("crash-stale-run/watchdog")
    deployed.delete_deployment(watchdog.id)
    deploy(deployed, PREFECT_FILE, None)
    (silent,) = deployed.read_automations_by_name("cmek: run is silent")
    (broken,) = deployed.read_automations_by_name("cmek: key broken")
    deployed.pause_automation(broken.id)
    found = check_automations(deployed)
    assert found.status == "fail"
    assert ": cmek: run is silent; not installed or switched off: cmek: key broken" in found.found
    deployed.pause_automation(silent.id)
    assert check_automations(deployed).status == "warn"
