"""One whole stack for this room, started when the first test asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.stack import Stack, running_stack

CANARIES = {
    "ANTHROPIC_ADMIN_KEY": "sk-ant-admin01-CANARY-NOT-A-REAL-KEY",
    "GOOGLE_APPLICATION_CREDENTIALS": "/nonexistent/canary.json",
    "PREFECT_SERVER_API_AUTH_STRING": "canary:canary",
    "PREFECT_API_KEY": "pnu_CANARY_NOT_A_REAL_KEY",  # pragma: allowlist secret
}
"""In the environment of whoever starts the stack; no part of it may see one."""


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """A running stack, shared by the room's tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CANARIES.items():
            patch.setenv(name, value)
        running = running_stack()
        started = running.__enter__()
    try:
        yield started
    finally:
        running.__exit__(None, None, None)
