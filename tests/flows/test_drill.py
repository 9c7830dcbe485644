"""The drill, with the sandbox's key, and this test in place of the person."""

from __future__ import annotations

import asyncio
import io
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import psutil
import pytest
import typer
from prefect.client.orchestration import get_client
from rich.console import Console
from typer.testing import CliRunner

import cli.drill
from cli.approvals import ApprovalError
from cli.client import RunError
from cli.drill import NAMESPACE, DrillRunner, Observer, drill_command, sign_report
from cmek.keys.announcements import HealthEvent
from cmek.names import organization_label
from cmek.revalidation.drill import ALERT, Drill, DrillRefusedError
from cmek.signatures import statement
from tasks.clients import close_clients
from tests.support.fleet import LABEL, VALUE, Fleet
from tests.support.onboarding import Onboardings
from tests.support.revalidation import Revalidations
from tests.support.waiting import wait_until

COMMAND = typer.Typer()
COMMAND.command()(drill_command)


@pytest.fixture
def fleet(bench: Onboardings) -> Fleet:
    return Fleet(bench.sandbox.world)


@dataclass
class Canary:
    """A workspace for drills, the person, and the clock between their steps."""

    bench: Onboardings
    fleet: Fleet
    name: str = "canary"
    external_key: str = ""
    screen: io.StringIO = field(default_factory=io.StringIO)
    skip: float = 0
    """Seconds that pass at each pause, besides the real ones."""
    passed: timedelta = timedelta()
    steps: list[Callable[[], object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.external_key = self.fleet.onboard(self.name)
        self.revalidations = Revalidations.deployed(self.bench.client)
        self.revalidations.run(external_keys=[self.external_key])

    @property
    def workspace(self) -> str:
        """The workspace's id."""
        workspaces = self.bench.sandbox.world.admin.workspaces.values()
        return next(one.id for one in workspaces if one.external_key_id == self.external_key)

    def look(self) -> object:
        """Check the key, as a signal or a quick check does."""
        return self.revalidations.run(external_keys=[self.external_key])

    def disable(self) -> None:
        """Disable the version: the person's first step."""
        self.fleet.set_state(self.name, 1, "DISABLED")

    def enable(self) -> None:
        """Enable the version: the person's step once the command is printed."""
        self.fleet.set_state(self.name, 1, "ENABLED")

    async def pause(self, _seconds: float) -> None:
        """Let time pass, and do the next step."""
        self.passed += timedelta(seconds=self.skip)
        printed = "versions enable" in self.screen.getvalue()
        if self.steps and (self.steps[0] != self.enable or printed):
            await asyncio.to_thread(self.steps.pop(0))

    def now(self) -> datetime:
        """The time that the drill sees."""
        return datetime.now(UTC) + self.passed

    def drill(
        self,
        probe: str | None = None,
        *,
        alert: timedelta = ALERT,
        keep: Callable[[Drill], object] = lambda drill: None,
    ) -> Drill:
        """Run the drill from its confirmation to its report."""
        console = Console(file=self.screen, width=200)
        observer = Observer("anthropic-admin", "google-kms", self.workspace, probe)
        runner = DrillRunner(observer, console, keep, alert, pause=self.pause, now=self.now)

        async def run() -> Drill:
            try:
                await runner.prepare()
                return await runner.run()
            finally:
                await close_clients()

        return asyncio.run(run())


@pytest.fixture
def canary(bench: Onboardings, fleet: Fleet) -> Canary:
    return Canary(bench, fleet)


def nothing() -> None:
    """A moment in which nothing happens."""


def test_a_whole_drill_measures_both_changes_and_leaves_a_report(
    bench: Onboardings, canary: Canary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alert, validation and a probe; the drill itself writes nothing anywhere but its report."""
    monkeypatch.setattr(cli.drill, "ASK_SECONDS", 0.0)
    works = tmp_path / "works"
    works.touch()
    canary.steps = [
        nothing,
        canary.disable,
        canary.look,
        works.unlink,
        canary.enable,
        canary.look,
        works.touch,
    ]
    bench.control.clear_log()
    drill = canary.drill(f"test -e {works}")
    assert bench.control.calls(write=True) == []
    assert drill.passed, drill
    disabled, enabled = drill.phases
    assert [phase.change for phase in drill.phases] == ["disabled", "enabled"]
    assert [one.what for one in disabled.measured] == ["alert", "validation", "data plane"]
    assert disabled.measured[0].by == "revalidate-keys/scheduled"
    assert all(one.at for one in enabled.measured)
    shown = canary.screen.getvalue()
    version = "1 --key=canary --keyring=anthropic-cmek --location=us-east5 --project=acme-kms-prod"
    disable = shown.index(f"gcloud kms keys versions disable {version}\n")
    assert disable < shown.index(f"gcloud kms keys versions enable {version}\n")
    (page,) = [one for one in bench.client.read_artifacts() if "drill" in str(one.key)]
    assert str(page.data).startswith("# Drill of ")
    assert "passed" in str(page.data)


def test_a_drill_of_a_key_at_risk_ends_with_the_notice_that_it_is_at_risk_again(
    canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key does not recover then; what comes is the event of the verdict that it had before."""
    monkeypatch.setattr(cli.drill, "ASK_SECONDS", 0.0)
    canary.fleet.update("canary", rotation_period=timedelta(days=200))
    canary.look()
    canary.steps = [canary.disable, canary.look, canary.enable, canary.look]
    drill = canary.drill()
    assert canary.revalidations.events(canary.external_key)[-3:] == [
        "cmek.key.at_risk",
        "cmek.key.broken",
        "cmek.key.at_risk",
    ]
    assert drill.passed, drill


def test_a_key_that_counts_as_broken_is_refused_until_a_check_finds_it_repaired(
    canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """People know it already, so its verdict would change neither way."""
    monkeypatch.setattr(cli.drill, "ASK_SECONDS", 0.0)
    canary.disable()
    canary.look()
    canary.enable()
    canary.skip = 3600  # a drill that is not refused gives up soon
    with pytest.raises(DrillRefusedError, match="counts as broken") as refused:
        canary.drill()
    assert canary.external_key in str(refused.value)
    assert "revalidate-keys/scheduled" in str(refused.value)
    assert canary.screen.getvalue() == ""
    canary.skip = 0
    canary.look()
    canary.steps = [canary.disable, canary.look, canary.enable, canary.look]
    assert canary.drill().passed


def test_an_alert_that_never_comes_fails_the_drill(canary: Canary) -> None:
    """It fails after the hour, and still shows how to enable the version."""
    canary.skip = 31
    canary.steps = [canary.disable, *[nothing] * 120, canary.enable]
    drill = canary.drill()
    assert not drill.passed
    assert drill.phases[0].measured[0].at is None
    assert drill.phases[0].measured[1].at is not None
    assert "versions enable 1" in canary.screen.getvalue()
    assert "not seen" in canary.screen.getvalue()


def test_an_alert_is_waited_for_as_long_as_it_may_take(canary: Canary) -> None:
    """This may be longer than the hour that Anthropic documents."""
    canary.skip = 60
    looks: list[Callable[[], object]] = [nothing] * 80
    canary.steps = [canary.disable, *looks, canary.look, canary.enable]
    drill = canary.drill(alert=timedelta(minutes=90))
    assert drill.phases[0].measured[0].at is not None


def refusing() -> None:
    request = httpx.Request("POST", "http://prefect.example/api/events/filter")
    response = httpx.Response(503, request=request)
    raise httpx.HTTPStatusError("503 Service Unavailable", request=request, response=response)


def lost() -> None:
    raise httpx.ConnectError("connection refused")


@pytest.mark.parametrize("fault", [refusing, lost])
def test_a_server_that_is_away_for_a_moment_does_not_end_a_drill(
    canary: Canary, monkeypatch: pytest.MonkeyPatch, fault: Callable[..., None]
) -> None:
    """The key is disabled meanwhile; a failed read is reported once and repeated."""
    event, asked = Observer.event, 0

    async def often_away(self: Observer, names: Sequence[HealthEvent], since: datetime) -> object:
        nonlocal asked
        asked += 1
        if asked % 4:
            fault()
        return await event(self, names, since)

    monkeypatch.setattr(Observer, "event", often_away)
    canary.steps = [canary.disable, canary.look, *[nothing] * 8, canary.enable, canary.look]
    drill = canary.drill()
    assert [phase.measured[0].at is not None for phase in drill.phases] == [True, True]
    assert canary.screen.getvalue().count("can't be read now") == 1


@pytest.mark.parametrize("run", [str(uuid4()), "none"], ids=["deleted", "forged"])
def test_an_alert_of_a_run_that_can_not_be_found_counts(canary: Canary, run: str) -> None:
    """The event is valid; only its run is not known."""

    async def deployment() -> str:
        async with get_client() as client:
            return await cli.drill._deployment_of(client, f"prefect.flow-run.{run}")

    assert asyncio.run(deployment()) == ""


def test_the_report_is_kept_before_it_is_published_and_whether_or_not_it_is(
    canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The measurements of hours must not be lost with the server."""
    kept: list[Drill] = []

    async def away(**_: object) -> None:
        assert kept
        refusing()

    monkeypatch.setattr(cli.drill, "acreate_markdown_artifact", away)
    canary.steps = [canary.disable, canary.look, canary.enable, canary.look]
    drill = canary.drill(keep=kept.append)
    assert kept == [drill]
    assert "not published" in canary.screen.getvalue()


@pytest.mark.parametrize("place", ["missing/report.md", "folder"])
def test_a_report_that_can_not_be_written_is_refused_before_anything_is_asked(
    canary: Canary, tmp_path: Path, place: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "report.md").write_text("an older one")
    refused = CliRunner().invoke(COMMAND, [canary.workspace, "--out", str(tmp_path / place)])
    assert isinstance(refused.exception, OSError)
    assert "Type the workspace" not in refused.output
    CliRunner().invoke(COMMAND, [canary.workspace, "--out", str(tmp_path / "new.md")], input="x\n")
    CliRunner().invoke(
        COMMAND, [canary.workspace, "--out", str(tmp_path / "report.md")], input="x\n"
    )
    assert sorted(one.name for one in tmp_path.iterdir()) == ["folder", "report.md"]
    assert (tmp_path / "report.md").read_text() == "an older one"


def test_a_key_that_can_not_sign_is_refused_before_anything_is_asked(
    canary: Canary, tmp_path: Path
) -> None:
    """Otherwise a person would disable the key for a drill whose report nobody can sign."""
    options = [canary.workspace, "--out", str(tmp_path / "new.md"), "--signing-key", "/no/such/key"]
    refused = CliRunner().invoke(COMMAND, options)
    assert isinstance(refused.exception, ApprovalError)
    assert "/no/such/key did not sign" in str(refused.exception)
    assert "Type the workspace" not in refused.output


def share(canary: Canary) -> None:
    world = canary.bench.sandbox.world
    other = canary.fleet.register("second", canary.fleet.key("canary"))
    assert other in world.admin.external_keys


def share_with_another_organization(canary: Canary) -> None:
    labels = {LABEL: VALUE, organization_label(UUID(int=8))[0]: VALUE}
    canary.fleet.update("canary", labels=labels)


def let_eve_decrypt(canary: Canary) -> None:
    role = "roles/cloudkms.cryptoKeyDecrypter"
    canary.bench.kms.grant(canary.fleet.key("canary"), role, "user:eve@example.com")


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (share, "more than one workspace"),
        (share_with_another_organization, str(UUID(int=8))),
        (let_eve_decrypt, "user:eve@example.com"),
        (lambda canary: canary.fleet.set_state("canary", 1, "DISABLED"), "not ENABLED"),
        (lambda canary: canary.fleet.update("canary", labels={}), "repair it first"),
    ],
    ids=["another workspace", "another organization", "another user", "disabled", "broken"],
)
def test_a_key_that_others_use_or_that_does_not_work_is_refused(
    canary: Canary, prepare: Callable[[Canary], None], says: str
) -> None:
    """It is refused before any command is printed."""
    prepare(canary)
    with pytest.raises(DrillRefusedError, match=says):
        canary.drill()
    assert canary.screen.getvalue() == ""


def test_a_drill_that_is_stopped_says_how_to_enable_the_version(canary: Canary) -> None:
    """Ctrl-C stops it after the person has disabled the version."""

    def stop() -> None:
        raise KeyboardInterrupt

    canary.steps = [canary.disable, stop]
    with pytest.raises(KeyboardInterrupt):
        canary.drill()
    assert "If the version is disabled, enable it:" in canary.screen.getvalue()
    assert canary.screen.getvalue().count("versions enable") == 1


def test_a_probe_that_does_not_work_is_refused(canary: Canary) -> None:
    with pytest.raises(DrillRefusedError, match="probe"):
        canary.drill("false")


def test_nothing_is_printed_before_the_workspace_is_typed(canary: Canary) -> None:
    refused = CliRunner().invoke(COMMAND, [canary.workspace], input="wrkspc_01Other\n")
    assert isinstance(refused.exception, RunError)
    assert "versions disable" not in refused.output


def test_the_report_is_signed_in_a_namespace_that_no_approval_has(tmp_path: Path) -> None:
    out, key = tmp_path / "drill.md", tmp_path / "key"
    out.write_text("# Drill\n")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    sign_report(out, key)
    signers = tmp_path / "signers"
    signers.write_text(f"ada {key.with_suffix('.pub').read_text()}")
    verify = ["ssh-keygen", "-Y", "verify", "-f", str(signers), "-I", "ada", "-s", f"{out}.sig"]
    verified = [
        subprocess.run(
            [*verify, "-n", name], input=out.read_bytes(), check=False, capture_output=True
        ).returncode
        for name in (NAMESPACE, statement.NAMESPACE)
    ]
    assert verified[0] == 0
    assert verified[1] != 0


def test_a_probe_that_hangs_fails_and_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a pipeline the shell alone would end."""
    monkeypatch.setattr(cli.drill, "PROBE_SECONDS", 0.5)
    mark = tmp_path / "pid"
    probe = f"sh -c 'echo $$ >{mark}; exec sleep 60' | sleep 60"
    assert not asyncio.run(Observer("a", "k", "wrkspc_01Any", probe).works())
    pid = int(mark.read_text())
    wait_until(lambda: not psutil.pid_exists(pid), "ended", 10)
