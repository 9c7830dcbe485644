"""Which addresses a credential may be sent to."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from urllib3.util import parse_url

from cmek.addresses import EndpointError, check_base_url, check_endpoint, host_of, is_loopback


@pytest.mark.parametrize(
    "url",
    [
        "https://api.anthropic.com",
        "https://proxy.example.com:8443/anthropic",
        "http://127.0.0.1:4711",
        "http://127.8.8.8",
        "http://localhost:80",
        "http://[::1]:80",
        "127.0.0.1:4711",
        "cloudkms.googleapis.com:443",
        "[::1]:4711",
    ],
)
def test_encrypted_and_local_addresses_are_accepted(url: str) -> None:
    """They are returned unchanged, without a slash at the end."""
    assert check_endpoint(url + "/") == url
    assert check_endpoint(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "http://api.anthropic.com",
        "http://127.0.0.1.example.com",
        "http://127.0.0.1@example.com",
        "http://user:pw@127.0.0.1",  # pragma: allowlist secret
        "http://localhost.example.com",
        "http://2130706433",
        "http://10.0.0.1",
        "http://[::2]",
        "ftp://127.0.0.1",
        "https://",
        "https://host:port",
        "https://host:99999",
        "https://host?x=y",
        "https://a b",
        "https://[::1",
        "https://[::1].googleapis.com",
        "https://evil.example\\.googleapis.com/token",
        "https://evil.example\\@oauth2.googleapis.com",
        "https://evil.exam\tple",
        "https://\u24d4vil.example",
        "https://evil.example%2f.googleapis.com",
        "https://127.0.0.1443",
        "https://2130706433",
        "https://[::1::1]",
        "",
        "/path",
    ],
)
def test_everything_else_is_refused_by_name(url: str) -> None:
    with pytest.raises(EndpointError) as caught:
        check_endpoint(url)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "instead"),
    [
        ("https://api.anthropic.com/v1", "https://api.anthropic.com"),
        ("https://api.anthropic.com/v1/", "https://api.anthropic.com"),
        ("https://api.anthropic.com/v1/messages", "https://api.anthropic.com"),
        ("https://api.anthropic.com/v1/organizations/me", "https://api.anthropic.com"),
        ("https://api.anthropic.com/api", "https://api.anthropic.com"),
        ("https://proxy.example.com/anthropic/v1", "https://proxy.example.com/anthropic"),
        ("http://127.0.0.1:4711/v1", "http://127.0.0.1:4711"),
        ("https://cloudresourcemanager.googleapis.com/v3", "https://cloudresourcemanager.goog"),
        ("https://proxy.example.com/v1beta1/x", "https://proxy.example.com"),
    ],
)
def test_a_base_url_with_an_apis_own_path_says_what_to_write(url: str, instead: str) -> None:
    """Otherwise every call would go to /v1/v1, and its refusal would name missing permissions."""
    with pytest.raises(EndpointError, match=f"write '{instead}"):
        check_base_url(url)


_PIECES = (
    *("http://", "https://", "//", "/", "\\", ":", "@", "?", "#", "%2f", "%5c", ".", "[", "]", ";"),
    *("evil.example", "oauth2.googleapis.com", "127.0.0.1", "[::1]", "localhost", "443", "token"),
    *("\t", "\n", "\r", "\x00", " ", "\u2028", "\uff0f", "\u3002", "\u2100", "é", "_", "~", "|"),
)


@given(st.lists(st.sampled_from(_PIECES), max_size=8).map("".join))
@example("https://evil.example\\.googleapis.com/token")
@example("https://127.0.0.1443")
@example("https://[::1::1]")
def test_every_client_reads_the_same_host(url: str) -> None:
    """Tokens are fetched by requests and urllib3, APIs are called by httpx: all agree."""
    try:
        host = host_of(check_endpoint(url))
    except EndpointError:
        return
    written = url if "://" in url else f"//{url}"
    for read in (parse_url(written).host, httpx.URL(written).host):
        assert (read or "").strip("[]").rstrip(".").lower() == host


@pytest.mark.parametrize(
    "url",
    [
        "https://api.anthropic.com",
        "https://p.example/anthropic/v1x",
        "https://notanthropic.com/proxy",
        "https://my-googleapis.com/proxy",
    ],
)
def test_a_base_url_may_have_a_proxys_path(url: str) -> None:
    assert check_base_url(f"{url}/") == url


@given(url=st.text(max_size=40) | st.text(max_size=30).map("http://{}".format))
def test_plain_text_goes_to_loopback_only(url: str) -> None:
    """Every accepted http address is on this machine; no other exception is raised."""
    try:
        accepted = check_endpoint(url)
    except EndpointError:
        return
    assert is_loopback(accepted) or not accepted.lower().startswith("http:")
