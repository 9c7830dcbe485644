"""The clients that tasks share: one a block and event loop, closed at the end of the flow.

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
    # read once: both clients are of the same block, also when somebody edits it meanwhile
    return await _shared(GoogleKms, block, lambda: load_block(GoogleKms, block))


async def onboarding_policy(block: str) -> PolicyModel:
    """What an OnboardingPolicy block holds, by its name."""
    loaded = await load_block(OnboardingPolicy, block)
    return PolicyModel.model_validate(loaded.model_dump(include=set(PolicyModel.model_fields)))


async def block_names(anthropic_block: str | None, kms_block: str | None) -> tuple[str, str]:
    """The names that were given; in place of one that was not, that of the policy `default`.

    Raises:
        BlockMissingError: That policy is needed, and not there.
    """
    if anthropic_block and kms_block:
        return anthropic_block, kms_block
    policy = await onboarding_policy(DEFAULT_POLICY)
    return anthropic_block or policy.anthropic_block, kms_block or policy.kms_block


@asynccontextmanager
async def opening_clients(anthropic_block: str, kms_block: str) -> AsyncIterator[None]:
    """Load both blocks and make their clients, beside what the body does first.

    The server takes as long to give a slot as to read two blocks. No client connects here. What
    fails here fails again, and is said, where it is used.
    """
    opening = asyncio.ensure_future(open_clients(anthropic_block, kms_block))
    opening.add_done_callback(_has_failed)  # which takes note of its error
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
    """Close what this loop has opened; one that can't be closed changes no run's end."""
    for (kind, _), opening in _open.pop(asyncio.get_running_loop(), {}).items():
        opening.cancel()  # one that is open already stays so
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
    """What is made once for a key, however many ask for it at the same moment.

    A failure is raised to all that wait for it and not kept: the next one who asks tries again.

    Args:
        shared: What was made, and what is being made. All of it belongs to one event loop.
        key: Of what is asked for.
        make: Makes it.
    """
    making = shared.get(key)
    if making is None or _has_failed(making):
        making = shared[key] = asyncio.ensure_future(make())
    # whoever stops waiting does not take it from the others
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
"""What a block raises that can't be used. The last three are google-auth's for the file of a GCP
Credentials block that can't be read, or is no JSON object."""


@contextmanager
def _usable(kind: B | type[B], name: str) -> Iterator[None]:
    """Say which block is unusable, why, and what to do, in one line."""
    block = f"block {kind.get_block_type_slug()}/{name}"
    try:
        yield
    except _UNUSABLE as error:
        if isinstance(error, CmekError):
            raise
        # Prefect hides what a validator said behind its own error
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
    cause = error.__cause__
    if isinstance(cause, ValidationError):
        return "; ".join(refusals(cause, values=False))
    return " ".join(str(error).split())
