"""A gateway in front of a sandbox whose key is ready, and approvals for exactly this attach."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import uvicorn
from pydantic import SecretStr

from cmek.anthropic.auth import AdminKey, GatewayAccess
from cmek.anthropic.client import AdminApi
from cmek.signatures.statement import Statement
from gateway.app import gateway_app, server_config
from gateway.attach import Attacher, SteadyClock
from gateway.journal import Journal
from gateway.rules import Attach, Create
from gateway.settings import GatewaySettings
from sandbox.server import Sandbox, listen
from sandbox.world import Fault
from tests.support.sandbox import running
from tests.support.signing import GRACE, KATHERINE, Office
from tests.support.staging import EXTERNAL_KEY, KEY, Stage

RUN_ID = "5d0c4b36-6a1f-4f0e-9a53-0d5f3a3b7c21"
NEW_NAME = "Fresh workspace"


@dataclass
class Gateways:
    """One sandbox and one office, in front of which a test starts and stops gateways."""

    sandbox: Sandbox
    stage: Stage
    office: Office
    home: Path
    _nonces: count[int] = field(default_factory=count)

    def number_anew(self) -> None:
        """Number the nonces from 0 again, so that schedules repeat each other's statements."""
        self._nonces = count()

    @property
    def journal(self) -> Path:
        """The journal's file."""
        return self.home / "journal.sqlite"

    @property
    def settings(self) -> GatewaySettings:
        """The settings of a gateway in front of this sandbox."""
        key = self.home / "admin_key"
        key.touch(mode=0o600)
        key.write_text(f"{self.sandbox.admin_key}\n")
        return GatewaySettings(
            journal=self.journal, port=0, upstream=self.sandbox.http, admin_key_file=key
        )

    @property
    def workspace_id(self) -> str:
        """A workspace without a key."""
        workspaces = self.sandbox.world.admin.workspaces.values()
        return next(one.id for one in workspaces if not (one.external_key_id or one.is_default))

    @property
    def target(self) -> Attach:
        """The attach that `approvals` permit."""
        return Attach(self.workspace_id, EXTERNAL_KEY)

    @property
    def new(self) -> Create:
        """The creation that `approvals` permit with `new=True`."""
        residency = {"workspace_geo": "us", "allowed_inference_geos": "unrestricted"}
        return Create(
            NEW_NAME, EXTERNAL_KEY, RUN_ID, residency | {"default_inference_geo": "global"}
        )

    def statement(self, approver: str = GRACE, *, new: bool = False, **changes: Any) -> Statement:
        """What an approver signs to permit `target`, or `new`, with changes."""
        now = datetime.now(UTC).replace(microsecond=0)
        said = Statement(
            approver=approver,
            approval_request="attach-1-1",
            comment="fine",
            data_residency="unrestricted" if new else None,
            decision="approve",
            expires_at=now + timedelta(hours=1),
            external_key_id=EXTERNAL_KEY,
            issued_at=now,
            key_name=str(KEY),
            nonce=f"nonce-{next(self._nonces)}",
            plan_digest="0" * 64,
            requester="ada@example.com",
            run_id=RUN_ID,
            workspace_id=None if new else self.workspace_id,
            workspace_name=NEW_NAME if new else None,
        )
        return said.model_copy(update=changes)

    def approvals(self, *statements: Statement, by: str | None = None) -> str:
        """Signed approvals as a request carries them; by default one that permits `target`."""
        given = statements or (self.statement(),)
        return "\n".join(str(self.office.signed(one, by)) for one in given)

    def keys_attached(self) -> list[str]:
        """The workspaces that have the key, new ones included."""
        workspaces = self.sandbox.world.admin.workspaces.values()
        return [one.id for one in workspaces if one.external_key_id == EXTERNAL_KEY]

    def sent(self) -> list[bool]:
        """For each attach or create that reached the Admin API: whether it took effect."""
        entries = self.sandbox.world.log.entries
        return [
            one.effect
            for one in entries
            if one.call in {"workspaces.create", "workspaces.update"}
            and "external_key_id" in one.request
        ]

    def fault(self, call: str, **fields: Any) -> None:
        """Add a fault at a call; see `sandbox.world.Fault`."""
        self.sandbox.world.faults.add(Fault.model_validate({"call": call} | fields))

    def attacher(
        self, journal: Journal, api: AdminApi, clock: SteadyClock | None = None
    ) -> Attacher:
        """The attach procedure, without the HTTP server."""
        return Attacher(api, journal, self.office.signers, clock=clock)

    @asynccontextmanager
    async def upstream(self) -> AsyncIterator[AdminApi]:
        """The gateway's client of the Admin API."""
        api = AdminApi(self.sandbox.http, AdminKey(SecretStr(self.sandbox.admin_key)))
        try:
            yield api
        finally:
            await api.aclose()

    @contextmanager
    def running(self, clock: Any = None, **changes: Any) -> Iterator[str]:
        """A gateway over HTTP; its base URL."""
        settings = self.settings.model_copy(update=changes)
        extra = {"clock": clock} if clock else {}
        with serving_gateway(settings, self.office, **extra) as url:
            yield url


@contextmanager
def serving_gateway(settings: GatewaySettings, office: Office, **extra: Any) -> Iterator[str]:
    """A gateway in a thread of this process, with this office's approvers; its base URL."""
    server = uvicorn.Server(server_config(gateway_app(settings, find=office.signers, **extra)))
    listener = listen("127.0.0.1", 0)
    ready = threading.Event()
    started = server.startup

    # uvicorn has no event that another thread could wait for
    async def startup(sockets: Any = None) -> None:
        await started(sockets)
        ready.set()

    server.startup = startup  # type: ignore[method-assign]
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
    thread.start()
    try:
        assert ready.wait(10)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@asynccontextmanager
async def through(url: str) -> AsyncIterator[AdminApi]:
    """The product's client with a gateway as its base URL."""
    api = AdminApi(url, GatewayAccess())
    try:
        yield api
    finally:
        await api.aclose()


@contextmanager
def gateways(home: Path) -> Iterator[Gateways]:
    """A sandbox whose key is registered and works, and two enrolled approvers."""
    office = Office(home)
    office.enrol(GRACE)
    office.enrol(KATHERINE)
    with running(minimal=True) as (sandbox, _):
        stage = Stage(sandbox.world)
        stage.reset()
        stage.key()
        yield Gateways(sandbox, stage, office, home)
