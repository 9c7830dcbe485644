"""Where a credential may be sent: to its service, to this machine, or where the administrator says.

A block's address can be changed by whoever may write to Prefect's API, and the block keeps its
secret then; so the address alone must not decide where the secret goes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from cmek.addresses import EndpointError, host_of, is_host_of, is_loopback
from cmek.signatures.signers import FileFacts, facts_of, file_text, weakness

ALLOWED_HOSTS: Final = Path("/etc/cmek/allowed_hosts")
"""One host a line, `#` begins a comment: a proxy or gateway of the worker's own organization."""


def check_destination(
    url: str,
    service: tuple[str, ...],
    *,
    file: Path = ALLOWED_HOSTS,
    look: Callable[[Path], FileFacts] = facts_of,
) -> None:
    """Pass when a credential of this service may be sent to the address.

    Args:
        url: `https://HOST…`, `http://` on loopback, or gRPC's `HOST:PORT`.
        service: Domains of the credential's own service; their subdomains count.
        file: For tests only; no caller passes another.
        look: How to read the facts of the file; tests run as root, who can write everything.

    Raises:
        EndpointError: Another host, no address that every client reads in the same way, or a file
            that the worker's own user could have written.
    """
    if is_loopback(url) or is_host_of(url, service):
        return
    host = host_of(url)
    if host not in _listed(file, look):
        raise EndpointError(
            f"{host} is {_why_not(service)} not sent there: "
            "correct the block's address, or have the worker's administrator list the host in "
            f"{file}"
        )


def _why_not(service: tuple[str, ...]) -> str:
    if not service:
        return "not this machine, so signed approvals are"
    return f"no host of {' or '.join(service)}, so the credential is"


def _listed(file: Path, look: Callable[[Path], FileFacts]) -> frozenset[str]:
    try:
        facts = (look(file.parent), look(file))
    except OSError:
        return frozenset()
    for one in facts:
        if why := weakness(one):
            raise EndpointError(f"{file} does not count: {why}")
    try:
        text = file_text(file.read_bytes())
    except ValueError as error:
        raise EndpointError(f"{file} does not count: {error}") from error
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return frozenset(line.rstrip(".").lower() for line in lines if line)
