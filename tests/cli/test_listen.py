"""`cmek listen`: requests in, Prefect events out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from typer.testing import CliRunner

from cli.listen import AT_ONCE, MERGE_SECONDS, SIGNAL, Listener, application, listen_command
from cmek.errors import CmekError
from cmek.evidence.report import signals_filter
from cmek.revalidation.signals import (
    MAX_PUSH,
    MAX_WEBHOOK,
    KnownKeys,
    PushVerifier,
    Signal,
    webhook_secrets,
)
from tests.support.signals import ACCOUNT, AUDIENCE, SECRET, Google, google, push, webhook

RING = "projects/acme-kms-prod/locations/us-east5/keyRings/anthropic-cmek"
KEYS = {
    "ekey_01One": f"{RING}/cryptoKeys/one",
    "ekey_01Two": f"{RING}/cryptoKeys/two",
}
pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def signer() -> Iterator[Google]:
    with google() as one:
        yield one


@dataclass
class Desk:
    """The application, and the events that it has posted."""

    http: httpx.AsyncClient
    events: list[dict[str, Any]] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=lambda: dict(KEYS))
    reads: int = 0
    away: bool = False
    slow: asyncio.Event | None = None
    """Set when the server may answer."""
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when an event is at the slow server."""
    waits: list[float] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when every wait is over."""
    wanted: int = 3
    enough: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the wanted number of events has come."""

    async def post(self, event: dict[str, Any]) -> None:
        """Take an event, as Prefect's server does."""
        if self.away:
            raise httpx.ConnectError("refused")
        if self.slow is not None:
            self.arrived.set()
            await self.slow.wait()
        self.events.append(event)
        if len(self.events) == self.wanted:
            self.enough.set()

    async def sleep(self, seconds: float) -> None:
        """Wait until the test says that the time is over."""
        self.waits.append(seconds)
        await self.over.wait()

    async def read_keys(self) -> KnownKeys:
        """The keys of the last table."""
        self.reads += 1
        return KnownKeys(self.keys)

    async def webhook(self, key: str, **options: Any) -> httpx.Response:
        """Deliver one webhook."""
        headers, body = webhook(key, **options)
        return await self.http.post("/webhook", headers=headers, content=body)

    @property
    def about(self) -> list[list[str]]:
        """The keys of each event."""
        return [event["payload"]["external_keys"] for event in self.events]


@pytest.fixture
async def desk(signer: Google) -> AsyncIterator[Desk]:
    """A desk with a clock that does not move."""
    desk = Desk(httpx.AsyncClient())
    listener = Listener(desk.post, desk.read_keys, clock=lambda: 0.0, sleep=desk.sleep)
    pushes = PushVerifier(AUDIENCE, ACCOUNT, signer.certs_url)
    app = application(listener, secrets=webhook_secrets(SECRET), pushes=pushes)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://listen") as http:
        desk.http = http
        yield desk


async def test_a_webhook_and_a_push_become_one_event_each(desk: Desk, signer: Google) -> None:
    """The event has the delivery's id, so that a repeated delivery is accepted only once."""
    assert (await desk.webhook("ekey_01One")).status_code == 204
    body = push("UpdateCryptoKeyVersion", f"{KEYS['ekey_01Two']}/cryptoKeyVersions/1")
    assert (await desk.http.post("/pubsub", headers=signer.token(), content=body)).is_success
    assert desk.about == [["ekey_01One"], ["ekey_01Two"]]
    assert {event["event"] for event in desk.events} == {SIGNAL}
    assert len({event["id"] for event in desk.events}) == 2
    sources = [event["payload"]["source"] for event in desk.events]
    assert sources == ["webhook", "audit log"]


async def test_a_policy_of_the_ring_is_about_all_its_keys(desk: Desk, signer: Google) -> None:
    body = push("SetIamPolicy", RING)
    assert (await desk.http.post("/pubsub", headers=signer.token(), content=body)).is_success
    assert desk.about == [sorted(KEYS)]


async def test_an_unknown_key_is_logged_and_not_checked(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """Many signals about it do not read the list of keys again and again."""
    for number in range(50):
        response = await desk.webhook("ekey_01Unknown", sent=f"evt_{number}")
        assert response.status_code == 204
    assert desk.events == []
    assert "ekey_01Unknown" in caplog.text
    assert desk.reads == 1


async def test_a_key_that_appears_just_after_the_start_is_known_at_its_first_signal(
    desk: Desk,
) -> None:
    """An unknown key is looked for in a new list, not only in the one read at the start."""
    desk.keys = {}
    listener = Listener(desk.post, desk.read_keys)
    await listener.know_keys()
    desk.keys = dict(KEYS)
    await listener.take(
        Signal(source="webhook", id="1", what="external_key.failed", external_key_id="ekey_01One")
    )
    assert desk.about == [["ekey_01One"]]


async def test_a_policy_of_the_ring_is_also_about_keys_onboarded_since_the_start(
    desk: Desk,
) -> None:
    """Where the list can't be read, the keys that were known are checked at least."""
    now = [0.0]
    listener = Listener(desk.post, desk.read_keys, clock=lambda: now[0], sleep=desk.sleep)
    desk.keys = {"ekey_01One": KEYS["ekey_01One"]}
    await listener.know_keys()
    await listener.take(Signal(source="audit log", id="1", what="SetIamPolicy", resource=RING))
    assert desk.about == [["ekey_01One"]]

    desk.keys = dict(KEYS)
    now[0] += 90 * 86_400
    reads = desk.reads
    await listener.take(Signal(source="audit log", id="2", what="SetIamPolicy", resource=RING))
    assert desk.about[1] == sorted(KEYS)
    for key in (*KEYS, "ekey_9"):
        await listener.take(
            Signal(source="webhook", id=key, what="external_key.failed", external_key_id=key)
        )
    assert desk.reads == reads + 1

    async def no_server() -> KnownKeys:
        raise httpx.ConnectError("refused")

    listener.read_keys = no_server
    now[0] += 86_400
    await listener.take(Signal(source="audit log", id="3", what="SetIamPolicy", resource=RING))
    assert desk.about[-1] == sorted(KEYS)
    with pytest.raises(httpx.ConnectError):
        await listener.take(
            Signal(source="webhook", id="4", what="external_key.failed", external_key_id="ekey_9")
        )


async def test_a_flood_is_merged_per_key(desk: Desk) -> None:
    """One event is sent at once, one when the window is over; another key does not wait."""
    for number in range(40):
        await desk.webhook("ekey_01One", sent=f"evt_{number}")
    await desk.webhook("ekey_01Two")
    assert desk.about == [["ekey_01One"], ["ekey_01Two"]]
    assert desk.waits == [MERGE_SECONDS]
    desk.over.set()
    async with asyncio.timeout(5):
        await desk.enough.wait()
    assert desk.about == [["ekey_01One"], ["ekey_01Two"], ["ekey_01One"]]


async def test_one_change_of_many_keys_starts_few_checks_and_each_key_is_checked(
    desk: Desk, signer: Google
) -> None:
    """Such as a `terraform apply`: each event starts a process, before those of approvals."""
    desk.wanted = AT_ONCE + 1
    desk.keys = {f"ekey_{n:03}": f"{RING}/cryptoKeys/key-{n:03}" for n in range(20)}
    for method in ("UpdateCryptoKey", "SetIamPolicy"):
        for number, name in enumerate(desk.keys.values()):
            body = push(method, name, sent=f"{method}-{number}")
            response = await desk.http.post("/pubsub", headers=signer.token(), content=body)
            assert response.status_code == 204
    assert len(desk.events) == AT_ONCE
    assert desk.waits == [MERGE_SECONDS]
    desk.over.set()
    async with asyncio.timeout(5):
        await desk.enough.wait()
    assert len(desk.events) == AT_ONCE + 1
    assert desk.about[-1] == sorted(desk.keys), "the first eight changed once more meanwhile"


async def test_a_repeated_delivery_is_one_event_and_swallows_no_other_signal(
    desk: Desk, signer: Google
) -> None:
    """The server drops an event with a known id, and would so lose all that is merged into it."""
    desk.slow = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        tries = [group.create_task(desk.webhook("ekey_01One", sent="evt_1")) for _ in range(3)]
        await desk.arrived.wait()
        desk.slow.set()
    assert [one.result().status_code for one in tries] == [204] * 3
    assert (await desk.webhook("ekey_01One", sent="evt_1")).status_code == 204
    body = push("UpdateCryptoKeyVersion", f"{KEYS['ekey_01One']}/cryptoKeyVersions/1")
    await desk.http.post("/pubsub", headers=signer.token(), content=body)
    await desk.webhook("ekey_01Two")
    desk.over.set()
    async with asyncio.timeout(5):
        await desk.enough.wait()
    assert sorted(one["payload"]["id"] for one in desk.events) == ["1", "evt_01", "evt_1"]
    assert len({one["id"] for one in desk.events}) == 3


@pytest.mark.parametrize(
    ("options", "status"),
    [({"at": 1}, 401), ({"secret": "whsec_" + "QUFB" * 8}, 401)],  # pragma: allowlist secret
)
async def test_what_is_refused_gets_the_reason_and_posts_nothing(
    desk: Desk, options: dict[str, Any], status: int
) -> None:
    response = await desk.webhook("ekey_01One", **options)
    assert response.status_code == status
    assert response.text.strip()
    pushed = await desk.http.post("/pubsub", content=push("SetIamPolicy", RING))
    assert pushed.status_code == 401
    assert desk.events == []


@pytest.mark.parametrize(("path", "most"), [("/webhook", MAX_WEBHOOK), ("/pubsub", MAX_PUSH)])
async def test_no_more_than_a_bounded_body_is_read(desk: Desk, path: str, most: int) -> None:
    """The limit applies before anything of the request is verified."""
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 100 * most:
            sent += 4096
            yield bytes(4096)

    response = await desk.http.post(path, content=endless())
    assert response.status_code == 400
    assert str(most) in response.text


async def test_a_sender_that_leaves_is_refused_and_not_a_fault(desk: Desk) -> None:
    app = application(Listener(desk.post, desk.read_keys), secrets=webhook_secrets(SECRET))
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/webhook",
        "headers": [],
        "query_string": b"",
    }
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    assert sent[0]["status"] == 400


async def test_what_could_not_be_posted_is_sent_again(desk: Desk) -> None:
    """The sender repeats after a 503; the failed delivery must not be treated as a known one."""
    desk.away = True
    assert (await desk.webhook("ekey_01One")).status_code == 503
    desk.away = False
    assert (await desk.webhook("ekey_01One")).status_code == 204
    assert desk.about == [["ekey_01One"]]


async def test_only_what_is_configured_has_an_address(desk: Desk) -> None:
    app = application(Listener(desk.post, desk.read_keys), secrets=webhook_secrets(SECRET))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://listen") as http:
        assert (await http.post("/pubsub", content=b"{}")).status_code == 404
        assert (await http.get("/webhook")).status_code == 405
        assert (await http.get("/healthz")).status_code == 204


def test_the_command_needs_something_to_listen_to(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(listen_command)
    secret = tmp_path / "secret"
    secret.write_text("not one")
    for options in ([], ["--push-audience", "x"]):
        assert CliRunner().invoke(app, options).exit_code == 2
    push = ["--push-audience", "x", "--push-account", "y", "--push-certs-url"]
    for url in ("https://other.example/certs", "http://other.example/certs", "x"):
        assert isinstance(CliRunner().invoke(app, [*push, url]).exception, CmekError)
    for text in ("not one", "whsec_", "whsec_****"):
        secret.write_text(text)
        refused = CliRunner().invoke(app, ["--webhook-secret-file", str(secret)])
        assert isinstance(refused.exception, CmekError), text
    shown = CliRunner().invoke(app, ["--print-filter", "acme-kms-prod"])
    assert shown.output.strip() == signals_filter("acme-kms-prod")
