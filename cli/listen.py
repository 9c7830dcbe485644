"""`cmek listen`: take signals about keys, and post each as a Prefect event, which starts a check.

It holds no credential of Anthropic or Google and changes nothing: a signal is a hint. It listens on
loopback, behind a proxy with TLS.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID, uuid5

import typer

from cli.client import RunError, ServerAwayError, connected
from cli.options import check_project
from cmek.errors import CmekError
from cmek.evidence.report import signals_filter
from cmek.own_origin import listening_socket
from cmek.revalidation.fleet import FLEET, read_rows
from cmek.revalidation.signals import (
    GOOGLE_CERTS,
    MAX_PUSH,
    MAX_WEBHOOK,
    KnownKeys,
    Merger,
    PushVerifier,
    Signal,
    SignalRefusedError,
    as_json,
    verified_webhook,
    webhook_secrets,
)

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

SIGNAL: Final = "cmek.key.signal"
"""The event; its trigger is in `prefect.yaml`."""
MERGE_SECONDS: Final = 30.0
AT_ONCE: Final = 8
"""Events in these seconds that need not wait: each starts a process."""
KNOWN_SECONDS: Final = 15.0
"""How old the list of watched keys may be at a signal. A flood reads it no more often."""
REMEMBERED: Final = 10_000
"""How many deliveries are remembered, to recognize repeats."""
CONCURRENT: Final = 64
"""Requests that are handled at once; more get a 503, which the sender repeats."""
BODY_SECONDS: Final = 10.0
_NAMESPACE: Final = UUID("8a4f3f0e-5b5e-5f0f-9a69-6f7f0d0b5c11")
_log = logging.getLogger("cmek.listen")
logging.captureWarnings(True)

Post = Callable[[dict[str, Any]], Awaitable[None]]
ReadKeys = Callable[[], Awaitable[KnownKeys]]


@dataclass
class Listener:
    """Takes verified signals, finds their keys, merges floods, and posts events."""

    post: Post
    read_keys: ReadKeys
    merge_seconds: float = MERGE_SECONDS
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    _deliveries: dict[tuple[str, str], asyncio.Task[None]] = field(default_factory=dict)
    _known: KnownKeys = field(default_factory=lambda: KnownKeys({}))
    _read_at: float = float("-inf")
    _reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    _later: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._merger = Merger(self.merge_seconds, AT_ONCE)

    async def take(self, signal: Signal) -> None:
        """Post the signal's event, now or when the last one of its key is old enough.

        A sender repeats a delivery that was not answered in time. The repeat waits for the first
        one and is not merged: its event would have the same id, so the server would drop it, with
        all other signals that were merged into it.

        Raises:
            Exception: The server does not respond; the sender must repeat the delivery.
        """
        delivery = signal.source, signal.id
        taken = self._deliveries.get(delivery)
        if taken is None:
            taken = self._deliveries[delivery] = asyncio.create_task(self._take(signal))
            for oldest in list(self._deliveries)[:-REMEMBERED]:
                del self._deliveries[oldest]
        try:
            # shielded: a sender that disconnects must not cancel what its repeat waits for
            await asyncio.shield(taken)
        except Exception:
            self._deliveries.pop(delivery, None)
            raise

    async def know_keys(self) -> None:
        """Read the list of watched keys, which shows at the start that the server can be reached.

        Raises:
            Exception: The server does not respond.
        """
        self._known = await self.read_keys()

    async def _take(self, signal: Signal) -> None:
        keys = await self._keys_of(signal)
        if not keys:
            _log.warning("No watched key, so nothing is checked: %s", json.dumps(as_json(signal)))
            return
        about = keys[0] if len(keys) == 1 else str(signal.resource)
        wait = self._merger.wait(about, keys, self.clock())
        if wait is None:
            _log.info("%s: merged with the check that is due", about)
        elif wait > 0:
            later = asyncio.create_task(self._post_later(wait, signal))
            self._later.add(later)
            later.add_done_callback(self._later.discard)
        else:
            try:
                await self._post(about, keys, signal)
            except BaseException:  # nothing was posted, so nothing may be merged into it
                self._merger.forget(about)
                raise

    async def _keys_of(self, signal: Signal) -> tuple[str, ...]:
        """The watched keys that the signal is about, those onboarded since the start among them."""
        async with self._reading:
            if self.clock() - self._read_at > KNOWN_SECONDS:
                try:
                    await self.know_keys()
                except Exception:
                    # a key that is known need not wait until the list can be read
                    if not self._known.about(signal):
                        raise
                    _log.exception("The list of keys could not be read; the last one is used")
                else:
                    self._read_at = self.clock()
        return self._known.about(signal)

    async def _post_later(self, wait: float, signal: Signal) -> None:
        """Post one event for all that waits then; `signal` is the first of it."""
        await self.sleep(wait)
        waited = self._merger.taken(self.clock())
        about = ", ".join(waited) if len(waited) == 1 else f"{len(waited)} subjects"
        keys = sorted({key for found in waited.values() for key in found})
        try:
            await self._post(about, tuple(keys), signal)
        except Exception:  # noqa: BLE001 - already answered; the next quick check sees the change
            _log.exception("%s: the event could not be posted", ", ".join(waited))

    async def _post(self, about: str, keys: tuple[str, ...], signal: Signal) -> None:
        await self.post(
            {
                "event": SIGNAL,
                "id": str(uuid5(_NAMESPACE, f"{signal.source} {signal.id}")),
                "occurred": datetime.now(UTC).isoformat(),
                "resource": {"prefect.resource.id": f"cmek.signal.{about}"},
                "payload": as_json(signal) | {"external_keys": list(keys)},
            }
        )
        _log.info("%s: %s by %s", about, signal.what, signal.source)


@dataclass(frozen=True)
class _Endpoints:
    """The request handlers."""

    listener: Listener
    secrets: tuple[bytes, ...]
    pushes: PushVerifier | None

    async def webhook(self, request: Request) -> Response:
        """From Anthropic."""
        body = await _body(request, MAX_WEBHOOK)
        return await self._take(verified_webhook(request.headers, body, self.secrets, time.time()))

    async def pubsub(self, request: Request) -> Response:
        """From Cloud Audit Logs; the certificates may have to be fetched, so in a thread."""
        assert self.pushes is not None  # noqa: S101 - there is no route without it
        body = await _body(request, MAX_PUSH)
        return await self._take(
            await asyncio.to_thread(self.pushes.verified, request.headers, body)
        )

    async def _take(self, signal: Signal | None) -> Response:
        from starlette.responses import Response  # noqa: PLC0415

        try:
            if signal is not None:
                await self.listener.take(signal)
        except Exception:  # noqa: BLE001 - whatever it is, the sender must repeat it
            _log.exception("Not taken; the sender repeats it")
            return Response("Prefect's server could not be reached\n", 503)
        return Response(status_code=204)


def application(
    listener: Listener, *, secrets: tuple[bytes, ...] = (), pushes: PushVerifier | None = None
) -> Starlette:
    """The ASGI application: `POST /webhook`, `POST /pubsub`, `GET /healthz`."""
    # here, since only this command needs it
    from starlette.applications import Starlette  # noqa: PLC0415
    from starlette.responses import Response  # noqa: PLC0415
    from starlette.routing import Route  # noqa: PLC0415

    endpoints = _Endpoints(listener, secrets, pushes)

    def refused(_request: Request, error: Exception) -> Response:
        assert isinstance(error, SignalRefusedError)  # noqa: S101 - registered for it
        _log.warning("Refused: %s", error)
        return Response(f"{error}\n", error.status, media_type="text/plain")

    def healthy(_request: Request) -> Response:
        return Response(status_code=204)

    routes = [Route("/healthz", healthy)]
    if secrets:
        routes.append(Route("/webhook", endpoints.webhook, methods=["POST"]))
    if pushes is not None:
        routes.append(Route("/pubsub", endpoints.pubsub, methods=["POST"]))
    return Starlette(routes=routes, exception_handlers={SignalRefusedError: refused})


async def _body(request: Request, most: int) -> bytes:
    """Read the body: at most `most` bytes of it are held, for at most BODY_SECONDS."""
    from starlette.requests import ClientDisconnect  # noqa: PLC0415

    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise SignalRefusedError(f"more than {most} bytes")
                parts.append(part)
    except TimeoutError:
        raise SignalRefusedError(f"no whole body within {BODY_SECONDS:.0f} s") from None
    except ClientDisconnect:
        raise SignalRefusedError("the sender left before the end of the body") from None
    return b"".join(parts)


async def post_to_prefect(event: dict[str, Any]) -> None:
    """Send an event to the configured server, and wait until it has it."""
    from prefect import get_client  # noqa: PLC0415

    async with get_client() as client:
        await client.request("POST", "/events", json=[event])


async def keys_on_server() -> KnownKeys:
    """The keys in the last table of a revalidation."""
    from prefect import get_client  # noqa: PLC0415
    from prefect.client.schemas.filters import (  # noqa: PLC0415
        ArtifactCollectionFilter,
        ArtifactCollectionFilterKey,
    )

    wanted = ArtifactCollectionFilter(key=ArtifactCollectionFilterKey(any_=[FLEET]))
    async with get_client() as client:
        found = await client.read_latest_artifacts(artifact_filter=wanted, limit=1)
    rows = read_rows(found[0].data if found else None, _log.warning)
    return KnownKeys({row.external_key_id: row.key_name for row in rows.values()})


class ListenOptionError(CmekError):
    """The file holds no signing secret, or the certificates' address is not one of Google's."""


def listen_command(  # noqa: PLR0913 - a parameter is an option of the command
    *,
    port: Annotated[int, typer.Option(help="Port on loopback.", min=0, max=65535)] = 8786,
    webhook_secret_file: Annotated[
        Path | None,
        typer.Option(
            envvar="CMEK_WEBHOOK_SECRET_FILE",
            help="File with the webhook's signing secret, whsec_…; two lines while it is replaced.",
        ),
    ] = None,
    push_audience: Annotated[
        str | None,
        typer.Option(
            envvar="CMEK_PUSH_AUDIENCE", help="Audience of the Pub/Sub subscription's OIDC token."
        ),
    ] = None,
    push_account: Annotated[
        str | None,
        typer.Option(
            envvar="CMEK_PUSH_ACCOUNT", help="Service account of the Pub/Sub push subscription."
        ),
    ] = None,
    push_certs_url: Annotated[
        str, typer.Option(help="Where Google's certificates are; another one on loopback only.")
    ] = GOOGLE_CERTS,
    print_filter: Annotated[
        str | None,
        typer.Option(
            metavar="PROJECT",
            callback=check_project,
            help="Print the log sink's filter for a project, and end.",
        ),
    ] = None,
) -> None:
    """Take Anthropic's webhooks and Cloud Audit Log pushes; each starts a check of its key.

    The server is Prefect's: PREFECT_API_URL, or the active profile.
    """
    if print_filter is not None:
        typer.echo(signals_filter(print_filter))
        return
    secrets = _secrets(webhook_secret_file) if webhook_secret_file else ()
    pushes = _pushes(push_audience, push_account, push_certs_url)
    if not secrets and pushes is None:
        raise typer.BadParameter(
            "nothing to listen to: give --webhook-secret-file, or --push-audience and "
            "--push-account, or both"
        )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    listener = Listener(post_to_prefect, keys_on_server)
    try:
        with connected():
            asyncio.run(listener.know_keys())
    except ServerAwayError as error:
        # for example both start at once; until the server responds, senders repeat their signals
        _log.warning("The list of watched keys is read at the first signal: %s", error)
    _serve(application(listener, secrets=secrets, pushes=pushes), port)


def _serve(app: Starlette, port: int) -> None:
    import uvicorn  # noqa: PLC0415 - only this command needs it

    try:  # uvicorn itself would end the process with 3, which means something else here
        listener = listening_socket("127.0.0.1", port)
    except OSError as error:
        raise RunError(
            f"port {port} of 127.0.0.1: {error.strerror}; --port names another"
        ) from error
    config = uvicorn.Config(
        app, log_level="warning", server_header=False, limit_concurrency=CONCURRENT
    )
    uvicorn.Server(config).run(sockets=[listener])


def _secrets(file: Path) -> tuple[bytes, ...]:
    try:
        return webhook_secrets(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ListenOptionError(f"{file}: {error}") from None


def _pushes(audience: str | None, account: str | None, certs_url: str) -> PushVerifier | None:
    if not audience and not account:
        return None
    if not audience or not account:
        raise typer.BadParameter("--push-audience and --push-account belong together")
    try:
        return PushVerifier(audience, account, certs_url)
    except ValueError as error:
        raise ListenOptionError(f"--push-certs-url: {error}") from None
