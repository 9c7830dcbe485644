"""A credential is sent to its service, to this machine, or to a host of the administrator's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmek.addresses import ANTHROPIC, GOOGLE, EndpointError
from cmek.signatures.signers import FileFacts, facts_of
from cmek.trusted_hosts import check_destination

LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=12)


def as_a_worker(path: Path) -> FileFacts:
    """The facts of the file as if root owned it, for a worker's user."""
    return replace(facts_of(path), owner=0, mode=0o100644, writable=False)


@pytest.mark.parametrize(
    ("url", "service"),
    [
        ("https://api.anthropic.com", ANTHROPIC),
        ("https://API.Anthropic.com.", ANTHROPIC),
        ("http://127.0.0.1:8080", ANTHROPIC),
        ("https://cloudkms.googleapis.com", GOOGLE),
        ("cloudkms.googleapis.com:443", GOOGLE),
        ("cloudkms.us-east5.rep.googleapis.com:443", GOOGLE),
        ("https://oauth2.googleapis.com/token", GOOGLE),
        ("localhost:9090", GOOGLE),
    ],
)
def test_the_services_own_hosts_and_this_machine_are_allowed(
    url: str, service: tuple[str, ...]
) -> None:
    check_destination(url, service)


@given(LABEL, st.sampled_from(["com", "example", "dev"]), st.sampled_from([ANTHROPIC, GOOGLE]))
def test_no_other_host_is_allowed_however_it_is_spelled(
    label: str, top: str, service: tuple[str, ...]
) -> None:
    """A prefix or a suffix of the service's name is another host."""
    own = service[0]
    for host in (f"{label}x.{top}", f"{own}.{label}.{top}", f"{label}{own}", f"{own}{label}"):
        for url in (f"https://{host}", f"{host}:443"):
            with pytest.raises(EndpointError, match="not sent there"):
                check_destination(url, service, file=Path("/nonexistent/allowed_hosts"))


def test_the_administrators_file_allows_a_host_by_its_whole_name(tmp_path: Path) -> None:
    """Comments and case are ignored; a subdomain is another host."""
    file = tmp_path / "allowed_hosts"
    file.write_text("# the gateway\nGateway.corp.example  # behind TLS\n")
    check_destination("https://gateway.corp.example/x", ANTHROPIC, file=file, look=as_a_worker)
    with pytest.raises(EndpointError, match="not sent there"):
        check_destination("https://a.gateway.corp.example", ANTHROPIC, file=file, look=as_a_worker)


def test_a_file_that_the_worker_could_write_is_refused(tmp_path: Path) -> None:
    """Otherwise an attacker with the worker's user could allow any host."""
    file = tmp_path / "allowed_hosts"
    file.write_text("evil.example\n")
    with pytest.raises(EndpointError, match="is not used"):
        check_destination(
            "https://evil.example",
            ANTHROPIC,
            file=file,
            look=lambda path: replace(as_a_worker(path), writable=True),
        )
