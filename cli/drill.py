"""`cmek drill`: what happens when a test workspace's key is disabled, measured and reported.

It disables nothing itself: it prints the command, waits for a person to run it, and watches.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import typer
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.events.filters import (
    EventFilter,
    EventNameFilter,
    EventOccurredFilter,
    EventOrder,
    EventResourceFilter,
)
from prefect.exceptions import ObjectNotFound
from rich.console import Console

from cli.approvals import default_key, signature
from cli.client import RunError, connected
from cli.options import AnthropicBlock, JsonObjectOnly, KmsBlock, check_workspace
from cli.terminal import new_console, printable, show_markdown
from cmek._http import Ok, ok_value, try_read
from cmek.gcp.iam import PolicyView
from cmek.gcp.resources import CryptoKey
from cmek.keys.announcements import HealthEvent
from cmek.keys.verdicts import Health
from cmek.names import artifact_key
from cmek.plain_text import plain
from cmek.revalidation.drill import (
    ALERT,
    HOUR,
    Delay,
    Drill,
    DrillRefusedError,
    Phase,
    What,
    check_announced,
    check_scope,
    commands,
    exact,
    report,
)
from cmek.revalidation.request import KeyRef
from cmek.signatures.signers import find_signers
from tasks.artifacts import last_records
from tasks.clients import admin_client, block_names, close_clients, kms_client
from tasks.revalidation import read_all_registered

NAMESPACE: Final = "cmek-drill"
"""Namespace of the report's signature, so that it can never be used as an approval."""
EVENTS: Final = {
    "disabled": (HealthEvent.BROKEN,),
    # a key that was at risk before is at risk again: it does not recover
    "enabled": (HealthEvent.RECOVERED, HealthEvent.AT_RISK),
}
STATES: Final = {"disabled": "DISABLED", "enabled": "ENABLED"}
LOOK_SECONDS: Final = 2.0
ASK_SECONDS: Final = 30.0
"""A validation uses the key and is logged, so it is requested less often."""
PATIENCE: Final = timedelta(hours=2)
"""How long the person may take to run a command."""
PROBE_SECONDS: Final = 60.0


def drill_command(  # noqa: PLR0913 - a parameter is an option of the command
    workspace_id: Annotated[
        str,
        typer.Argument(
            metavar="WORKSPACE", help="A test workspace, wrkspc_….", callback=check_workspace
        ),
    ],
    *,
    confirm: Annotated[
        str | None,
        typer.Option(help="The workspace's id again, in place of typing it when asked."),
    ] = None,
    probe: Annotated[
        str | None,
        typer.Option(
            help="Shell command that uses the workspace's data and succeeds while that works."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File for the report; drill-WORKSPACE-TIME.md here unless given."),
    ] = None,
    signing_key: Annotated[
        Path | None,
        typer.Option(
            help="SSH key that signs the file, as FILE.sig; where approvers are enrolled it is "
            "always signed, by your default key unless given."
        ),
    ] = None,
    alert_minutes: Annotated[
        float, typer.Option(min=0.1, help="By when our alert must have come.")
    ] = ALERT.total_seconds() / 60,
    anthropic_block: AnthropicBlock = None,
    kms_block: KmsBlock = None,
    as_json: JsonObjectOnly = False,
) -> None:
    """Measure who notices when the key of a test workspace is disabled.

    A person disables it and enables it again; the command prints how, waits and watches.
    Exit code 1 when something did not come in time.
    """
    console = new_console(stderr=as_json)
    # key and file are tried before anything is disabled: no drill may end without its report
    key = signing_key or (default_key() if find_signers() else None)
    file = out or Path(f"drill-{workspace_id}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.md")
    _try_to_write(file)
    if key is not None:
        signature("a trial", key, NAMESPACE)
    with connected():
        blocks = asyncio.run(block_names(anthropic_block, kms_block))
        observer = Observer(*blocks, workspace_id, probe)
        keep, alert = partial(_keep, file), timedelta(minutes=alert_minutes)
        runner = DrillRunner(observer, console, keep, alert)
        drill = asyncio.run(_run(runner, lambda: _confirmed(workspace_id, confirm, console)))
    if key is not None:
        sign_report(file, key)
    console.print(f"The report is {file}{f', signed in {file}.sig' if key else ''}", markup=False)
    if as_json:
        signed = f"{file}.sig" if key else None
        more = {"passed": drill.passed, "report": str(file), "signature": signed}
        typer.echo(json.dumps(drill.model_dump(mode="json") | more))
    if not drill.passed:
        raise typer.Exit(1)


def _try_to_write(file: Path) -> None:
    """Check that the file can be written, without changing its content.

    Raises:
        OSError: The file can't be written.
    """
    is_there = file.exists()
    file.open("ab").close()
    if not is_there:
        file.unlink()


def _keep(file: Path, drill: Drill) -> None:
    file.write_text(report(drill), encoding="utf-8")


def _confirmed(workspace_id: str, given: str | None, console: Console) -> None:
    console.print(
        f"While the key is disabled, nothing in {printable(workspace_id)} can be read or written.",
        soft_wrap=True,
    )
    question = "Type the workspace's id to go on"
    typed = given if given is not None else typer.prompt(question, err=console.stderr)
    if typed.strip() != workspace_id:
        raise RunError("another workspace was typed; nothing was done")


async def _run(runner: DrillRunner, confirm: Callable[[], None]) -> Drill:
    try:
        await runner.prepare()
        confirm()
        return await runner.run()
    finally:
        await close_clients()


@dataclass
class Observer:
    """What the drill reads; it writes nothing."""

    anthropic_block: str
    kms_block: str
    workspace_id: str
    probe: str | None
    ref: KeyRef | None = None

    async def find(self) -> CryptoKey:
        """The workspace's key, if only this workspace uses it.

        Raises:
            DrillRefusedError: There is none, it can't be read, or others use it.
        """
        registered = await read_all_registered(self.anthropic_block)
        self.ref = next((one for one in registered.refs if one.serves(self.workspace_id)), None)
        if self.ref is None:
            raise DrillRefusedError(f"no workspace {self.workspace_id} with a Google Cloud key")
        admin, kms = await admin_client(self.anthropic_block), await kms_client(self.kms_block)
        key = await kms.get_crypto_key(self.ref.key_name)
        if key is None:
            raise DrillRefusedError(f"{self.ref.key_name} is not found")
        policy = PolicyView.of(await kms.get_iam_policy(self.ref.key_name))
        check_scope(self.ref, registered.refs, key, policy, (await admin.organization.me()).id)
        return key

    async def state(self) -> str | None:
        """State of the primary version; None when it can't be read now."""
        assert self.ref is not None  # noqa: S101 - `find` was called
        kms = await kms_client(self.kms_block)
        read = await try_read(kms.get_crypto_key(self.ref.key_name))
        key = ok_value(read)
        return key.primary.state if key and key.primary else None

    async def announced(self) -> Health:
        """The verdict that people know; a key without a record counts as healthy."""
        assert self.ref is not None  # noqa: S101 - `find` was called
        records = await last_records([self.ref.external_key_id])
        record = records.get(self.ref.external_key_id)
        return record.announced if record else Health.HEALTHY

    async def event(
        self, names: Sequence[HealthEvent], since: datetime
    ) -> tuple[datetime, str] | None:
        """When the first event of these names came, and from which deployment's run."""
        assert self.ref is not None  # noqa: S101 - `find` was called
        wanted = EventFilter(
            event=EventNameFilter(name=list(names)),
            resource=EventResourceFilter(id=[f"cmek.key.{self.ref.external_key_id}"]),
            occurred=EventOccurredFilter(since=since),
            order=EventOrder.ASC,
        )
        async with get_client() as client:
            page = await client.read_events(wanted, limit=1)
            if not page.events:
                return None
            found = page.events[0]
            runs = [one.id for one in found.related if one.role == "flow-run"]
            by = await _deployment_of(client, runs[0]) if runs else ""
        return found.occurred, by

    async def validates(self) -> bool | None:
        """Whether Anthropic can use the key; None without an answer."""
        assert self.ref is not None  # noqa: S101 - `find` was called
        admin = await admin_client(self.anthropic_block)
        validating = admin.external_keys.validate(self.ref.external_key_id)
        read = await try_read(validating, seconds=None)
        return read.value.succeeded if isinstance(read, Ok) else None

    async def works(self) -> bool:
        """Whether the probe succeeds."""
        assert self.probe is not None  # noqa: S101 - asked for only with one
        process = await asyncio.create_subprocess_shell(
            self.probe,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return await asyncio.wait_for(process.wait(), PROBE_SECONDS) == 0
        except TimeoutError:
            return False
        finally:
            if process.returncode is None:  # a pipeline's other processes, too
                os.killpg(process.pid, signal.SIGKILL)


async def _deployment_of(client: Any, resource: str) -> str:  # noqa: ANN401 - Prefect's client
    """The deployment of a run, which shows what started it."""
    try:
        run = await client.read_flow_run(resource.rpartition(".")[2])
        if run.deployment_id is None:
            return str(run.name)
        deployment = await client.read_deployment(run.deployment_id)
    except (ObjectNotFound, ValueError):  # deleted meanwhile, or the event names no run
        return ""
    return f"revalidate-keys/{deployment.name}"


@dataclass
class DrillRunner:
    """Prints, waits and measures."""

    observer: Observer
    console: Console
    keep: Callable[[Drill], object]
    """Stores the report before it is published."""
    alert: timedelta = ALERT
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    key: CryptoKey | None = None
    _said: bool = False

    async def prepare(self) -> None:
        """Refuse a drill that must not be run, or that would prove nothing.

        Raises:
            DrillRefusedError: Says why.
        """
        self.key = await self.observer.find()
        ref = self.observer.ref
        assert ref is not None  # noqa: S101 - `find` has set it
        if await self.observer.validates() is not True:
            raise DrillRefusedError("Anthropic can't use the key even now: repair it first")
        check_announced(ref, await self.observer.announced())
        if self.observer.probe is not None and not await self.observer.works():
            raise DrillRefusedError("the probe does not succeed even now: correct it first")

    async def run(self) -> Drill:
        """Both phases, the report, and its artifact.

        Raises:
            DrillRefusedError: The person did not run a command in time; the key stays as it is.
            OSError: The report could not be kept.
        """
        key, ref = self.key, self.observer.ref
        assert key is not None  # noqa: S101 - `prepare` was called
        assert ref is not None  # noqa: S101 - likewise
        disable, enable = commands(key)
        drill = Drill(
            workspace=self.observer.workspace_id,
            key_name=ref.key_name,
            external_key_id=ref.external_key_id,
            phases=(),
        )
        try:
            drill = drill.with_phase(await self._phase("disabled", disable))
            drill = drill.with_phase(await self._phase("enabled", enable))
        except BaseException:  # Ctrl-C too: the person must learn how to enable the version again
            how = (
                f"The drill has stopped. If the version is disabled, enable it:\n\n{plain(enable)}"
            )
            self.console.print(f"\n{how}\n", soft_wrap=True, markup=False)
            raise
        show_markdown(self.console, report(drill))
        self.keep(drill)
        try:
            await acreate_markdown_artifact(
                markdown=report(drill),
                key=artifact_key("drill", drill.workspace),
                description="passed" if drill.passed else "failed",
            )
        except httpx.HTTPError as error:
            text = f"The report is not published as an artifact: {plain(str(error))}"
            self.console.print(text, soft_wrap=True, markup=False)
        return drill

    async def _phase(self, change: Any, command: str) -> Phase:  # noqa: ANN401 - a Literal
        asked = self.now()
        self.console.print(
            f"\nRun this where you are logged in to Google Cloud:\n\n{plain(command)}\n",
            soft_wrap=True,
            markup=False,
        )
        while await self.observer.state() != STATES[change]:
            if self.now() - asked > PATIENCE:
                raise DrillRefusedError(f"the version was not {change} within two hours")
            await self.pause(LOOK_SECONDS)
        at = self.now()
        self.console.print(f"The version is {change}. Watching …")
        found = await self._watch(change, asked, at)
        return Phase(change=change, at=at, measured=tuple(found.values()))

    async def _watch(self, change: str, asked: datetime, at: datetime) -> dict[What, Delay]:
        """Watch until everything was seen, or both an hour and the alert's limit have passed."""
        limits: dict[What, timedelta] = {"alert": self.alert, "validation": HOUR}
        if self.observer.probe is not None:
            limits["data plane"] = HOUR
        found = {what: Delay(what=what, at=None, limit=limit) for what, limit in limits.items()}
        expected, validated_at = change == "enabled", at - HOUR  # so the first look validates
        end = at + max(HOUR, self.alert)
        while any(one.at is None for one in found.values()) and self.now() <= end:
            # since the command was shown: the event may be older than our look at the state
            if found["alert"].at is None and (seen := await self._event(EVENTS[change], asked)):
                self._saw(found, "alert", at, seen[0], seen[1])
            if (self.now() - validated_at).total_seconds() >= ASK_SECONDS:
                validated_at = self.now()
                if found["validation"].at is None and await self.observer.validates() is expected:
                    self._saw(found, "validation", at, self.now())
                probed = found.get("data plane")
                if probed and probed.at is None and await self.observer.works() is expected:
                    self._saw(found, "data plane", at, self.now())
            await self.pause(LOOK_SECONDS)
        return found

    async def _event(
        self, names: Sequence[HealthEvent], since: datetime
    ) -> tuple[datetime, str] | None:
        """The event; None also if the server does not answer, which must not end the drill."""
        try:
            return await self.observer.event(names, since)
        except httpx.HTTPError as error:
            if not self._said:
                text = f"  alert: the events can't be read now ({plain(str(error))}); trying again"
                self.console.print(text, soft_wrap=True, markup=False)
            self._said = True
        return None

    def _saw(
        self, found: dict[What, Delay], what: What, since: datetime, at: datetime, by: str = ""
    ) -> None:
        found[what] = found[what].model_copy(update={"at": at, "by": by})
        self.console.print(f"  {what}: {exact(at - since)} {plain(by)}", markup=False)


def sign_report(file: Path, key: Path) -> None:
    """Write `FILE.sig` beside the file.

    Raises:
        ApprovalError: OpenSSH did not sign it.
    """
    file.with_name(f"{file.name}.sig").write_text(
        signature(file.read_text(encoding="utf-8"), key, NAMESPACE), encoding="utf-8"
    )
