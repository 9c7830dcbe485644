"""The clients that tasks share: one per block and event loop, closed at the end of the flow.

httpx and grpc.aio bind a client to the loop that it was made in, so a cache that ignored the loop
would return clients that hang. Clients are never inputs or results of a task.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

from google.auth.exceptions import DefaultCredentialsError
from pydantic import ValidationError

from blocks.anthropic_admin import AnthropicAdmin
from blocks.google_kms import GoogleKms
from blocks.onboarding_policy import OnboardingPolicy
from cmek.anthropic.client import AdminApi
from cmek.errors import CmekError
from cmek.gcp.kms import CloudKms
from cmek.gcp.project_apis import GoogleReads
from cmek.models import refusals
from cmek.onboarding.policy import DEFAULT_POLICY, PolicyModel

K = TypeVar("K")
R = TypeVar("R")
B = TypeVar("B", AnthropicAdmin, GoogleKms, OnboardingPolicy)

_open: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[type, str], asyncio.Future[Any]]] = (
    WeakKeyDictionary()
)


class BlockMissingError(CmekError):
    """A block that a request names can't be loaded; the message says which and how to make it."""


async def admin_client(block: str) -> AdminApi:
    """The Admin API client of an AnthropicAdmin block, by its name."""

    async def make() -> AdminApi:
        loaded = await load_block(AnthropicAdmin, block)
        with _usable(loaded, block):
            return loaded.get_client()

    return await _shared(AdminApi, block, make)


async def kms_client(block: str) -> CloudKms:
    """The Cloud KMS client of a GoogleKms block, by its name."""

    async def make() -> CloudKms:
        loaded = await _google_block(block)
        with _usable(loaded, block):
            return loaded.get_client()

    return await _shared(CloudKms, block, make)


async def google_client(block: str) -> GoogleReads:
    """The reader of the other Google APIs of a GoogleKms block, by its name."""

    async def make() -> GoogleReads:
        loaded = await _google_block(block)
        with _usable(loaded, block):
            return GoogleReads(
                loaded.credentials(),
                base_url=loaded.checks_endpoint,
                quota_project=loaded.quota_project,
            )

    return await _shared(GoogleReads, block, make)


async def _google_block(block: str) -> GoogleKms:
    # read once, so that both clients use the same block even if somebody edits it meanwhile
    return await _shared(GoogleKms, block, lambda: load_block(GoogleKms, block))


async def onboarding_policy(block: str) -> PolicyModel:
    """The content of an OnboardingPolicy block, by its name."""
    loaded = await load_block(OnboardingPolicy, block)
    return PolicyModel.model_validate(loaded.model_dump(include=set(PolicyModel.model_fields)))


async def block_names(anthropic_block: str | None, kms_block: str | None) -> tuple[str, str]:
    """The given names; for one that is not given, the name in the policy `default`.

    Raises:
        BlockMissingError: That policy is needed, and does not exist.
    """
    if anthropic_block and kms_block:
        return anthropic_block, kms_block
    policy = await onboarding_policy(DEFAULT_POLICY)
    return anthropic_block or policy.anthropic_block, kms_block or policy.kms_block


@asynccontextmanager
async def opening_clients(anthropic_block: str, kms_block: str) -> AsyncIterator[None]:
    """Load both blocks and make their clients while the body begins.

    Taking a slot takes the server as long as reading two blocks. No client connects here. An error
    is ignored here, since it is raised again where the client is used.
    """
    opening = asyncio.ensure_future(open_clients(anthropic_block, kms_block))
    # retrieves the error, else asyncio logs that nobody did
    opening.add_done_callback(_has_failed)
    try:
        yield
    finally:
        opening.cancel()


async def open_clients(anthropic_block: str, kms_block: str) -> None:
    """Load both blocks and make their clients; none connects here.

    Raises:
        BlockMissingError: A block is not there, or can't be used.
        CmekError: Its credentials or addresses can't be used.
    """
    await asyncio.gather(
        admin_client(anthropic_block), kms_client(kms_block), google_client(kms_block)
    )


async def close_clients() -> None:
    """Close this loop's clients; a failure to close one does not change the run's outcome."""
    for (kind, _), opening in _open.pop(asyncio.get_running_loop(), {}).items():
        opening.cancel()  # no effect on a client that is open already
        await asyncio.wait([opening])
        if kind is not GoogleKms and not _has_failed(opening):
            with suppress(Exception):  # the process ends, and with it the connections
                await opening.result().aclose()


async def _shared(kind: type[R], block: str, make: Callable[[], Coroutine[Any, Any, R]]) -> R:
    clients = _open.setdefault(asyncio.get_running_loop(), {})
    return await once(clients, (kind, block), make)


async def once(
    shared: dict[K, asyncio.Future[Any]], key: K, make: Callable[[], Coroutine[Any, Any, R]]
) -> R:
    """Make something once per key, even if several callers need it at the same time.

    A failure is raised to all callers that wait, and is not kept: the next caller tries again.

    Args:
        shared: What was made or is being made, by key; all of it belongs to one event loop.
        key: The key in `shared`.
        make: Makes it.
    """
    making = shared.get(key)
    if making is None or _has_failed(making):
        making = shared[key] = asyncio.ensure_future(make())
    # shielded: a caller that is cancelled must not cancel it for the others
    made: R = await asyncio.shield(making)
    return made


def _has_failed(making: asyncio.Future[Any]) -> bool:
    return making.done() and (making.cancelled() or making.exception() is not None)


async def load_block(kind: type[B], name: str) -> B:
    """A block by its name.

    Raises:
        BlockMissingError: It is not there, or is not valid.
    """
    with _usable(kind, name):
        return await kind.aload(name)


_UNUSABLE: Final = (ValueError, RuntimeError, OSError, AttributeError, TypeError)
"""Errors of a block that can't be used. The last three are google-auth's, when the file of a GCP
Credentials block can't be read or is no JSON object."""


@contextmanager
def _usable(kind: B | type[B], name: str) -> Iterator[None]:
    """Say which block is unusable, why, and what to do, in one line."""
    block = f"block {kind.get_block_type_slug()}/{name}"
    try:
        yield
    except _UNUSABLE as error:
        if isinstance(error, CmekError):
            raise
        made = "; `cmek deploy` makes the default one" if kind is OnboardingPolicy else ""
        raise BlockMissingError(
            f"{block} can't be used: {_said(error)}. Make or fix it in the Prefect UI under "
            f"Blocks{made}, or name another one in request or policy"
        ) from error
    except DefaultCredentialsError as error:
        raise BlockMissingError(
            f"{block} names no Google credentials, and this machine has no application default "
            "ones: run where the worker runs, set GOOGLE_APPLICATION_CREDENTIALS, or put a GCP "
            "Credentials block into it"
        ) from error


def _said(error: BaseException) -> str:
    # Prefect raises an error of its own from the validator's, which has the reasons
    cause = error.__cause__
    if isinstance(cause, ValidationError):
        return "; ".join(refusals(cause, values=False))
    return " ".join(str(error).split())
