"""The fault script hits calls of Cloud KMS before or after their effect, on both transports."""

from __future__ import annotations

import time

import pytest
import requests
from google.api_core import exceptions
from google.protobuf import json_format

from sandbox.world import Fault
from tests.support.kms import LOCATION, NO_RETRY, Client, Kms

BROKEN = (exceptions.GoogleAPICallError, requests.RequestException, json_format.Error)
QUOTA = {
    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
    "reason": "RATE_LIMIT_EXCEEDED",
    "domain": "googleapis.com",
}


def _create(client: Client) -> str:
    return client.create_key_ring(parent=LOCATION, key_ring_id="ring", **NO_RETRY).name


def _exists(kms: Kms) -> bool:
    return f"{LOCATION}/keyRings/ring" in kms.world.kms.key_rings


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_error_comes_before_or_after_the_effect(kms: Kms, client: Client, when: str) -> None:
    kms.world.faults.add(Fault(call="CreateKeyRing", when=when, status="UNAVAILABLE"))
    with pytest.raises(exceptions.ServiceUnavailable, match="injected fault"):
        _create(client)
    assert _exists(kms) == (when == "after")
    assert kms.world.log.entries[-1].effect == (when == "after")


def test_an_errors_details_arrive(kms: Kms, client: Client) -> None:
    kms.world.faults.add(Fault(call="*KeyRing", status="RESOURCE_EXHAUSTED", details=[QUOTA]))
    with pytest.raises(exceptions.TooManyRequests) as refused:
        _create(client)
    assert refused.value.reason == "RATE_LIMIT_EXCEEDED"


@pytest.mark.parametrize(
    ("code", "kind"),
    [(429, exceptions.TooManyRequests), (503, exceptions.ServiceUnavailable),
     (409, exceptions.Conflict), (403, exceptions.Forbidden),
     (500, exceptions.InternalServerError), (504, exceptions.GatewayTimeout)],
)  # fmt: skip
def test_http_codes_mean_the_same_everywhere(
    kms: Kms, client: Client, code: int, kind: type[Exception]
) -> None:
    kms.world.faults.add(Fault(call="CreateKeyRing", status=code))
    if code == 500:
        kind = exceptions.ServerError
    with pytest.raises(kind):
        _create(client)


@pytest.mark.parametrize("kind", ["reset", "truncate", "html"])
def test_broken_answers_break_the_call_and_not_the_effect(
    kms: Kms, client: Client, kind: str
) -> None:
    """The client gets no valid answer although the resource exists, so it has to read."""
    kms.world.faults.add(Fault(call="CreateKeyRing", when="after", kind=kind, status=502))
    with pytest.raises(BROKEN):
        _create(client)
    assert _exists(kms)


def test_faults_can_wait_for_their_turn(kms: Kms, client: Client) -> None:
    kms.world.faults.add(Fault(call="ListKeyRings", status=503, skip=1, times=2))
    outcomes = []
    for _ in range(4):
        try:
            client.list_key_rings(parent=LOCATION, **NO_RETRY)
            outcomes.append("ok")
        except exceptions.ServiceUnavailable:
            outcomes.append("fault")
    assert outcomes == ["ok", "fault", "fault", "ok"]


def test_a_delay_outlives_the_clients_patience(kms: Kms) -> None:
    """The client gives up at its own deadline; the server's thread is free again at once."""
    kms.world.faults.add(Fault(call="ListKeyRings", kind="delay", seconds=30))
    started = time.monotonic()
    with pytest.raises(exceptions.DeadlineExceeded):
        kms.grpc.list_key_rings(parent=LOCATION, retry=None, timeout=0.2)
    delayed = kms.world.log.entries[-1]
    while delayed.status == "PENDING" and time.monotonic() - started < 10:
        kms.grpc.list_key_rings(parent=LOCATION, **NO_RETRY)
    assert delayed.status == "OK"


def test_latency_slows_every_call(kms: Kms, client: Client) -> None:
    kms.world.switches.kms_latency_seconds = 0.1
    started = time.monotonic()
    client.list_key_rings(parent=LOCATION, **NO_RETRY)
    assert time.monotonic() - started >= 0.1
