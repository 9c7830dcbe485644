"""The driver changes only requests of its own runs; and rules that are cheap to test with it."""

from __future__ import annotations

import asyncio
import threading

import httpx
import pytest

from sandbox.identities import PROJECT_ID
from tests.support.crashes import begin
from tests.support.driver import driving
from tests.support.runs import Killed


@pytest.mark.parametrize("sockets", [True, False])
def test_a_request_of_another_thread_is_neither_held_nor_counted(sockets: bool) -> None:
    """Prefect sends logs from its own thread; if they were held, the session would never end."""

    def kill(number: int, when: str) -> None:
        raise Killed

    answers: list[int] = []

    async def ask(address: str) -> None:
        async with httpx.AsyncClient() as client:
            answers.append((await client.get(f"{address}/v1/organizations/me")).status_code)

    with driving(sockets=sockets) as driver:
        _, run = begin(driver, creates=False)
        driver.execute(run, kill)
        assert run.state == "Crashed"
        driver.calls = 0
        other = threading.Thread(target=lambda: asyncio.run(ask(driver.sandbox.http)), daemon=True)
        other.start()
        other.join(timeout=10)
    assert answers == [httpx.codes.UNAUTHORIZED]
    assert driver.calls == 0


def test_a_preview_of_a_key_of_others_lists_the_external_keys_once() -> None:
    """Besides the prerequisites, which read one page, one list shows whose key it is."""
    with driving(sockets=False) as driver:
        scene, _ = begin(driver, creates=False)
        scene.plant(labelled=True)
        run = driver.start(
            **scene.request,
            project_id=PROJECT_ID,
            requested_by="ada@example.com",
            plan_only=True,
        )
        driver.execute(run)
    assert run.state == "Planned", run.message
    calls = [one.call for one in driver.sandbox.world.log.entries]
    assert calls.count("external_keys.list") == 2
    assert "Crypto key" in run.message


def test_a_key_that_others_made_after_a_refused_create_is_not_ours() -> None:
    """Neither its label proves that it is ours, nor that an onboarding tried to make it."""
    with driving(sockets=False) as driver:
        scene, run = begin(driver, creates=False)
        scene.fault("CreateCryptoKey", 403)
        driver.execute(run)
        assert run.state == "Failed", run.message
        driver.sandbox.world.faults.clear()
        scene.plant(labelled=True)
        done = len(driver.sandbox.world.log.entries)
        again = driver.start(**scene.request, project_id=PROJECT_ID, requested_by="ada@example.com")
        driver.execute(again)
    assert again.state == "Failed"
    assert "adopt_existing_key" in again.message
    written = [one.call for one in driver.sandbox.world.log.entries[done:] if one.write]
    assert written == []
