"""The check of calls against Google's discovery documents finds what is wrong.

The other tests of this folder show that it accepts what is right: it checks all their REST calls.
"""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.kms.operations import METHODS
from tests.support.discovery import discovery
from tests.support.kms import LOCATION, Kms

RING = f"/v1/{LOCATION}/keyRings/ring"


def _entry(
    method: str, path: str, query: str = "alt=json", body: Any = None, response: Any = None
) -> dict[str, Any]:
    http = {"method": method, "path": path, "query": query}
    request = {"_http": http} | (body or {})
    return {"call": "Call", "request": request, "status": "OK", "response": response or {}}


@pytest.mark.parametrize(
    ("entry", "violation"),
    [
        (_entry("GET", "/v1/projects/p/nowhere"), "no such method"),
        (_entry("GET", RING, "alt=json&colour=red"), "unknown query parameter colour"),
        (_entry("GET", RING, body={"name": "x"}), "takes none"),
        (_entry("GET", RING, response={"colour": "red"}), "response.colour is unknown"),
        (_entry("GET", RING, response={"name": 7}), "response.name is 7, not string"),
        (_entry("GET", RING, response={"createTime": "today"}), "not google-datetime"),
        (
            _entry("GET", f"{RING}/cryptoKeys/k", response={"purpose": "EVERYTHING"}),
            "'EVERYTHING', not [",
        ),
        (_entry("GET", f"{RING}/cryptoKeys/k", response={"purpose": 1}), "1, not string"),
        (
            _entry("GET", f"{RING}/cryptoKeys/k", response={"rotationPeriod": "90d"}),
            "not google-duration",
        ),
        (
            _entry("GET", f"{RING}/cryptoKeys", response={"cryptoKeys": [{"labels": {"a": 1}}]}),
            "cryptoKeys[0].labels.a is 1",
        ),
        (
            _entry("POST", f"{RING}/cryptoKeys/k:encrypt", body={"plaintext": "%"}),
            "request.plaintext is '%', not byte",
        ),
    ],
)
def test_a_call_that_does_not_fit_is_named(entry: dict[str, Any], violation: str) -> None:
    found = discovery("cloudkms.v1").violations(entry)
    assert len(found) == 1
    assert violation in found[0]


def test_numbers_stand_for_enums_only_when_asked_for() -> None:
    """The official client asks for it by `enum-encoding=int`."""
    path, query = f"{RING}/cryptoKeys/k", "%24alt=json%3Benum-encoding%3Dint"
    fitting = _entry("GET", path, query, response={"purpose": 1})
    assert discovery("cloudkms.v1").violations(fitting) == []


def test_every_served_path_is_in_the_document(kms: Kms) -> None:
    names = {
        "Project": "projects/p",
        "Location": LOCATION,
        "KeyRing": f"{LOCATION}/keyRings/r",
        "CryptoKey": f"{LOCATION}/keyRings/r/cryptoKeys/k",
        "CryptoKeyVersion": f"{LOCATION}/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1",
        "RetiredResource": f"{LOCATION}/retiredResources/r",
        "Operation": f"{LOCATION}/operations/o",
    }
    assert len(METHODS) == 27
    for method in METHODS:
        verb, _, path = method.http.partition(" ")
        head, _, rest = path.partition("{")
        kinds, _, tail = rest.partition("=")[2].partition("}")
        for kind in kinds.split("|"):
            url = head + names[kind] + tail
            assert method.path.fullmatch(url), url
            assert discovery("cloudkms.v1").method(verb, url), url
