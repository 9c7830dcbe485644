"""Onboardings without a Prefect server: the real flow's code, with Prefect's part in memory.

Every task is called as a plain function, the run's records are a dictionary, a suspension is an
exception. So a schedule of a model is thousands of times cheaper than with a server. That Prefect
behaves as assumed here is shown by `tests/flows`.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest.mock import patch

import httpx
from prefect import get_run_logger
from prefect.runtime import deployment
from prefect.tasks import Task
from pydantic import BaseModel, SecretStr, ValidationError

import cmek.gcp.kms
import flows._approval
import flows._attach
import flows._workspace_lock
import flows.onboard
import tasks.artifacts
import tasks.attachment
import tasks.clients
import tasks.evidence
import tasks.leftovers
import tasks.runs
from cmek.anthropic.auth import AdminKey
from cmek.anthropic.client import AdminApi
from cmek.evidence.record import Chain
from cmek.gcp import _transport as google_transport
from cmek.gcp.kms import CloudKms
from cmek.gcp.project_apis import GoogleReads
from cmek.onboarding.approval_request import ApprovalRequest, ApprovalResponse
from cmek.onboarding.policy import PolicyModel
from sandbox.server import Sandbox
from tasks.runs import KeyCreate
from tests.support.plain import Plain
from tests.support.requests import LENIENT, resolved
from tests.support.runs import AnyRun, DrivenRun, Killed, Suspended
from tests.support.sandbox import handed_over, running

Hook = Callable[[int, str], None]


@dataclass
class Driver:
    """Executes runs against one sandbox, in one event loop."""

    sandbox: Sandbox
    loop: asyncio.AbstractEventLoop
    runs: list[DrivenRun] = field(default_factory=list)
    current: AnyRun | None = None
    calls: int = 0
    """Outside calls so far in the present execution."""
    call: str = ""
    """The outside call for which the hook is called, by method and resource."""
    hook: Hook = lambda number, when: None
    """Called before and after every outside call; it may raise `Killed`."""
    sockets: bool = True
    """Whether HTTP goes over real connections, and outside calls run concurrently.

    Without sockets a schedule costs half as much, and always makes the same calls in the same
    order: each waits for the one before it, and no call has a deadline by the real clock.
    """
    patience: float = 15.0
    """Seconds that a client waits for an answer."""
    refused: Callable[[int], bool] = lambda number: False
    """Which HTTP calls of an execution get no connection, as if nothing listened there."""
    reports: list[str] = field(default_factory=list)
    """What the present execution has published: the kind of each artifact."""
    report_lost: Callable[[int], bool] = lambda number: False
    """Which of these reports, counted from 1, Prefect's server refuses."""

    def start(self, **request: Any) -> DrivenRun:
        """A new run, which has not been executed yet."""
        run = DrivenRun(resolved(request))
        self.runs.append(run)
        return run

    def execute(self, run: AnyRun, hook: Hook = lambda number, when: None) -> None:
        """Do what a worker does: execute the run until it suspends, ends or is killed."""
        self.current, self.calls, self.hook, self.reports = run, 0, hook, []
        run.state = "Running"
        try:
            state = self.loop.run_until_complete(self._until_killed(run))
            run.state, run.message = state.name, state.message
        except Suspended:
            run.state = "Suspended"
        except Killed:
            run.state = "Crashed"
            # the next execution is a new process: it shares no connection with this one
            self.loop.run_until_complete(self.renew_clients())
        except Exception as error:  # noqa: BLE001 - a flow that raises is a failed run
            run.state, run.message = "Failed", f"{type(error).__name__}: {error}"
            run.error = error
        finally:
            self.current = None

    @contextmanager
    def refusing(self, refused: Callable[[int], bool]) -> Iterator[None]:
        """In the block, these HTTP calls of an execution get no connection."""
        self.refused = refused
        try:
            yield
        finally:
            self.refused = lambda number: False

    async def renew_clients(self) -> None:
        """Make new clients, as a new process does: a killed one leaves unfinished requests."""
        await self.drop_clients()
        tasks.clients._open[self.loop] = {
            each: asyncio.ensure_future(_made(client))
            for each, client in _clients(self.sandbox, self.patience).items()
        }

    async def drop_clients(self) -> None:
        """Close the clients; one that does not close within a second is left."""
        for opening in tasks.clients._open.pop(self.loop, {}).values():
            with suppress(Exception):
                await asyncio.wait_for((await opening).aclose(), timeout=1)

    async def _until_killed(self, run: AnyRun) -> Any:
        self._killed, self._turn = asyncio.Event(), asyncio.Lock()
        # Killed is not raised inside the flow: its own exception handlers would run, and a process
        # that is killed runs none
        working = asyncio.create_task(run.work())
        killing = asyncio.create_task(self._killed.wait())
        await asyncio.wait({working, killing}, return_when=asyncio.FIRST_COMPLETED)
        if killing.done():
            await _end_all()
            raise Killed
        killing.cancel()
        if not self.sockets:
            await self._rest_ends()
        return await working

    async def _rest_ends(self) -> None:
        """After one call of a gather has failed, wait until its other calls have ended.

        Raises:
            AssertionError: one does not end.
        """
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        if rest:
            _, pending = await asyncio.wait(rest, timeout=self.patience)
            assert not pending, pending

    async def watch(self, name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        """Make one outside call, with the hook before it and after its answer or error."""
        self.calls += 1
        number = self.calls
        # asyncio's lock is fair: calls of one gather get their turn in the order of their start
        async with nullcontext() if self.sockets else self._turn:
            await self._reach(number, name, "before")
            try:
                return await call()
            finally:
                if not self.is_killed:
                    await self._reach(number, name, "after")
                if not self.sockets:
                    await self._others_wait()

    async def _others_wait(self) -> None:
        """Let every other task run until it waits for something.

        A gRPC call takes real time, more or less of it. How far the other tasks have come, and so
        the order in which they take their turn, must not depend on that.
        """
        while self.loop._ready:  # type: ignore[attr-defined]  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0)

    @contextmanager
    def over_sockets(self, needed: bool) -> Iterator[None]:
        """Send HTTP over sockets, or pass it directly to the sandbox in this process."""
        before, self.sockets = self.sockets, needed
        try:
            yield
        finally:
            self.sockets = before

    @property
    def is_this_loop(self) -> bool:
        """Whether the caller runs in the driver's event loop."""
        return asyncio.get_running_loop() is self.loop

    @property
    def is_killed(self) -> bool:
        """Whether this execution was killed: from then on it must have no effect."""
        return self._killed.is_set()

    async def _reach(self, number: int, name: str, when: str) -> None:
        if not self.is_killed:
            self.call = name
            try:
                self.hook(number, when)
            except Killed:
                self._killed.set()
        if self.is_killed:
            await asyncio.Event().wait()  # forever: a killed process does nothing more

    # what Prefect does, in memory

    def executing(self) -> AnyRun:
        """The run that is being executed."""
        assert self.current is not None
        return self.current

    def _run(self) -> DrivenRun:
        run = self.executing()
        assert isinstance(run, DrivenRun)
        return run

    async def _policy(self, block: str) -> PolicyModel:
        return LENIENT

    async def _asked_numbers(self) -> list[int]:
        prefix = f"attach-{self._run().attempt}-"
        keys = self._run().suspended_at
        return sorted(int(key.removeprefix(prefix)) for key in keys if key.startswith(prefix))

    async def _wait_for_answer(
        self, approval_request: ApprovalRequest, text: str
    ) -> ApprovalResponse:
        run = self._run()
        if approval_request.key not in run.suspended_at:
            run.suspended_at.append(approval_request.key)
            raise Suspended
        try:
            form = flows._approval.approval_form(approval_request, text)
            return ApprovalResponse.model_validate(
                form.model_validate(run.answers[approval_request.key]).model_dump()
            )
        except (KeyError, ValidationError) as error:
            raise flows._approval.ResponseMissingError(approval_request.key) from error

    async def _publish(self, kind: str, *_: Any) -> None:
        self.reports.append(kind)
        if self.report_lost(len(self.reports)):
            raise httpx.ConnectError(f"{kind} was not taken")

    async def _remember(self, name: str, value: BaseModel) -> None:
        self.executing().memory[self._named(name)] = value.model_dump_json()

    async def _recall(self, name: str, kind: type[BaseModel]) -> BaseModel | None:
        text = self.executing().memory.get(self._named(name))
        return kind.model_validate_json(text) if text else None

    async def _remember_create(self, key_name: str, outcome: KeyCreate) -> None:
        if outcome is KeyCreate.CONFIRMED:
            self._run().memory[f"confirmed create of {key_name}"] = outcome
            return
        for run in self.runs:
            run.memory.pop(f"create of {key_name}", None)
        self._run().memory[f"create of {key_name}"] = outcome

    async def _remembered_create(self, key_name: str) -> KeyCreate | None:
        names = (f"confirmed create of {key_name}", f"create of {key_name}")
        found = (run.memory.get(name) for name in names for run in self.runs)
        return next((KeyCreate(one) for one in found if one), None)

    async def _created_by_this_run(self, key_name: str) -> bool:
        return f"confirmed create of {key_name}" in self._run().memory

    async def _mark_sent(self) -> None:
        self._run().create_sent = True

    async def _unmark_sent(self) -> None:
        self._run().create_sent = False

    async def _nothing_in_doubt(self, subject: str) -> None:
        """Assume that the next read comes after the time in which a create's outcome is unknown."""
        self._run().create_sent = False

    @staticmethod
    def _named(name: str) -> str:
        return name

    @asynccontextmanager
    async def _working_alone(self, subject: str, *, claimed: bool) -> AsyncIterator[Any]:
        run = self._run()
        others = (
            one
            for one in self.runs
            if one is not run
            and one.claimed
            and not one.is_over
            and one.parameters.subject == subject
        )
        other = None if claimed else next(others, None)
        run.claimed = run.claimed or other is None
        yield other and _Named(str(other.id), other.id)


async def _end_all() -> None:
    """Cancel every other task, and repeat it, since a library may suppress one cancellation."""
    while left := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=0.2)


@dataclass
class _Named:
    name: str
    id: uuid.UUID


async def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


async def _new_chain(workspace_id: str) -> Chain:
    return Chain()


class _Deployment:
    id = "a deployment"


@contextmanager
def driving(*, sockets: bool = True, patience: float = 15.0, **options: Any) -> Iterator[Driver]:
    """A sandbox, and a driver whose clients stay open over all executions."""
    with running(minimal=True, **options) as (sandbox, _), ExitStack() as stack:
        loop = asyncio.new_event_loop()
        driver = Driver(sandbox, loop, sockets=sockets, patience=patience)
        stack.enter_context(patch.object(cmek.gcp.kms, "TIMEOUT_SECONDS", patience))
        stack.enter_context(patch.object(google_transport, "TIMEOUT", httpx.Timeout(patience)))
        direct = handed_over(sandbox, lambda _: driver.is_this_loop and not driver.sockets)
        stack.enter_context(direct)
        for module, name, value in _replacements(driver):
            stack.enter_context(patch.object(module, name, value))
        loop.run_until_complete(driver.renew_clients())
        stack.callback(lambda: loop.run_until_complete(driver.drop_clients()))
        yield driver


def _replacements(driver: Driver) -> Iterator[tuple[Any, str, Any]]:
    """Each name in flows and tasks that would call Prefect's engine or API, with a replacement."""
    exact: dict[int, Any] = {
        id(tasks.runs.save_state): driver._remember,
        id(tasks.runs.load_state): driver._recall,
        id(tasks.runs.remember_create): driver._remember_create,
        id(tasks.runs.remembered_create): driver._remembered_create,
        id(tasks.runs.created_by_this_run): driver._created_by_this_run,
        id(tasks.runs.current_run_id): lambda: driver.executing().id,
        id(flows._approval.attempt): lambda: driver._run().attempt,
        id(flows._approval.approval_request_numbers): driver._asked_numbers,
        id(flows._approval.wait_for_response): driver._wait_for_answer,
        id(flows._workspace_lock.workspace_lock): driver._working_alone,
        id(tasks.clients.onboarding_policy): driver._policy,
        id(tasks.clients.close_clients): _nothing,
        id(tasks.artifacts.publish): driver._publish,
        id(tasks.evidence.publish_evidence): partial(driver._publish, "evidence"),
        id(tasks.artifacts.publish_terraform): partial(driver._publish, "terraform"),
        id(tasks.artifacts.record_onboarding): partial(driver._publish, "history"),
        id(tasks.leftovers.publish_leftovers): _nothing,
        id(deployment): _Deployment,
        id(tasks.evidence._earlier): _new_chain,
        id(tasks.attachment.record_pending_create): driver._mark_sent,
        id(tasks.attachment.clear_pending_create): driver._unmark_sent,
        id(tasks.attachment.ensure_no_pending_create): driver._nothing_in_doubt,
        id(flows._workspace_lock.tag_run): _nothing,
        id(get_run_logger): lambda: logging.getLogger("driver"),
    }
    # every module that imports one of these functions has its own name for it
    for module_name in sorted(sys.modules):
        if module_name.partition(".")[0] not in {"flows", "tasks"}:
            continue
        module = sys.modules[module_name]
        for name, value in list(vars(module).items()):
            if id(value) in exact:
                yield module, name, exact[id(value)]
            elif isinstance(value, Task):
                yield module, name, Plain(value)
    yield flows._attach, "ATTACH_PAUSE_SECONDS", 0.0
    yield tasks.attachment, "SEARCH_AFTER_SECONDS", (0.0,)
    yield from _watched(driver)


def _watched(driver: Driver) -> Iterator[tuple[Any, str, Any]]:
    """The hook around every outside call, also around each retry by the clients.

    Only calls in the driver's loop: Prefect's threads may still send the logs of earlier tests.
    """
    send, call = httpx.AsyncClient.send, CloudKms._call

    async def watched_send(self: httpx.AsyncClient, request: httpx.Request, **kwargs: Any) -> Any:
        if not driver.is_this_loop:
            return await send(self, request, **kwargs)
        if driver.refused(driver.calls + 1):
            request = _to_closed_port(request)
        asked = f"{request.method} {request.url.path}"
        return await driver.watch(asked, lambda: send(self, request, **kwargs))

    async def watched_call(
        self: CloudKms, name: str, resource: str, method: Any, request: Any
    ) -> Any:
        async def watched_method(**kwargs: Any) -> Any:
            # gRPC counts a deadline from the wall clock, which a model may have frozen in the past
            given = kwargs if driver.sockets else kwargs | {"timeout": None}
            return await driver.watch(f"{name} {resource}", lambda: method(**given))

        return await call(self, name, resource, watched_method, request)

    yield httpx.AsyncClient, "send", watched_send
    yield CloudKms, "_call", watched_call


def _to_closed_port(request: httpx.Request) -> httpx.Request:
    return httpx.Request(
        request.method,
        request.url.copy_with(port=1),  # nothing listens there
        headers=request.headers,
        content=request.content,
        extensions=request.extensions,
    )


async def _made(client: Any) -> Any:
    return client


def _clients(sandbox: Sandbox, patience: float) -> dict[tuple[type, str], Any]:
    key = AdminKey(SecretStr(sandbox.admin_key))
    admin = AdminApi(sandbox.http, key, timeout_seconds=patience, slow_timeout_seconds=patience)
    return {
        (AdminApi, "anthropic-admin"): admin,
        (CloudKms, "google-kms"): CloudKms.connect(endpoint=sandbox.grpc),
        (GoogleReads, "google-kms"): GoogleReads(None, base_url=sandbox.http),
    }
