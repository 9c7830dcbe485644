"""One rule for our processes that listen on loopback: no other web page can control them."""

from __future__ import annotations

import pytest

from cmek.own_origin import LOOPBACK_NAMES, OwnOrigin

SERVER = OwnOrigin(frozenset({"127.0.0.1", "localhost"}), 4200)
SANDBOX = OwnOrigin()
GATEWAY = OwnOrigin(LOOPBACK_NAMES | {"Gateway.EXAMPLE"}, pages=False)
EACH = pytest.mark.parametrize(
    "own", [SERVER, SANDBOX, GATEWAY], ids=["server", "sandbox", "gateway"]
)
HERE = {"host": "127.0.0.1:4200"}
LINK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


@EACH
def test_a_program_passes_under_each_name(own: OwnOrigin) -> None:
    """A program sends neither `Origin` nor the `Sec-Fetch` headers of a browser."""
    for name in own.names:
        assert own.refusal({"host": f"{name}:4200"}) is None
        assert own.refusal({"host": f"{name.upper()}:4200"}) is None


@EACH
@pytest.mark.parametrize(
    "host",
    ["", "rebound.example:4200", "127.0.0.1.example:4200", "127.0.0.1:4200:4200", "[::2]:4200"],
)
def test_another_name_is_refused_whoever_sends_it(own: OwnOrigin, host: str) -> None:
    """So a name that was rebound to this machine (DNS rebinding) reaches nothing."""
    assert "is none of this process" in str(own.refusal({"host": host}))


@EACH
@pytest.mark.parametrize(
    "sent",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "https://127.0.0.1:4200"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        LINK | {"sec-fetch-dest": "iframe"},
        LINK,
    ],
    ids=str,
)
def test_another_pages_request_is_refused(own: OwnOrigin, sent: dict[str, str]) -> None:
    """Another port of this machine is another origin, and a link is no exception by itself."""
    assert own.refusal(HERE | sent) is not None


def test_a_page_of_its_own_passes_where_there_are_pages() -> None:
    """It passes under each name of the process; the gateway has no pages and refuses browsers."""
    for sent in ({"origin": "http://127.0.0.1:4200"}, {"sec-fetch-site": "same-origin"}):
        assert SERVER.refusal(HERE | sent) is None
        assert SANDBOX.refusal(HERE | sent) is None
        assert "is a browser's" in str(GATEWAY.refusal(HERE | sent))
    assert SERVER.refusal(HERE | {"origin": "http://localhost:4200"}) is None
    assert "is a browser's" in str(GATEWAY.refusal(HERE | {"cookie": "a=b"}))
    assert "is a browser's" in str(GATEWAY.refusal(HERE | {"referer": "http://127.0.0.1:4200/"}))


def test_only_a_known_port_is_compared() -> None:
    """An administrator's proxy may forward requests to the gateway from its own port."""
    assert SERVER.refusal({"host": "127.0.0.1:1"}) is not None
    assert SERVER.refusal({"host": "127.0.0.1"}) is not None
    assert GATEWAY.refusal({"host": "gateway.example"}) is None


def test_a_link_elsewhere_may_open_a_page_and_nothing_else() -> None:
    """Only if the caller says that the address is a page, not an API."""
    assert SERVER.refusal(HERE | LINK, may_open=True) is None
    assert SERVER.refusal(HERE | LINK | {"sec-fetch-dest": "iframe"}, may_open=True) is not None
    assert SERVER.refusal(HERE | LINK | {"sec-fetch-mode": "cors"}, may_open=True) is not None


def test_what_a_refusal_quotes_is_plain_and_short() -> None:
    """A host header is untrusted text, and is written to logs."""
    said = str(SANDBOX.refusal({"host": "\x1b]0;x\x07" + "a" * 5000}))
    assert len(said) < 400
    assert said.isprintable()
