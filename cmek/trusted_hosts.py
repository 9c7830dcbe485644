"""Where a credential may be sent: its own service, this machine, and hosts in a file of the admin.

Anyone who may write to Prefect's API can change the address in a block, and the block keeps its
secret. So the address alone must not decide where the secret is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from cmek.addresses import EndpointError, host_of, is_host_of, is_loopback
from cmek.signatures.signers import FileFacts, facts_of, file_text, weakness

ALLOWED_HOSTS: Final = Path("/etc/cmek/allowed_hosts")
"""One host in each line, `#` begins a comment: proxies and gateways of the own organization."""


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
        service: Domains of the credential's own service, subdomains included.
        file: Another file for tests; production code never passes one.
        look: Reads owner and mode of the file; tests replace it, since they run as root.

    Raises:
        EndpointError: Another host, an address that clients could read differently, or a file that
            the worker's own user could have written.
    """
    if is_loopback(url) or is_host_of(url, service):
        return
    host = host_of(url)
    # compared as a whole: subdomains of a listed host are not trusted
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
        # the folder too: whoever may write to it can replace the file
        facts = (look(file.parent), look(file))
    except OSError:
        return frozenset()  # no file: nothing is listed
    for one in facts:
        if why := weakness(one):
            raise EndpointError(f"{file} is not used: {why}")
    try:
        text = file_text(file.read_bytes())
    except ValueError as error:
        raise EndpointError(f"{file} is not used: {error}") from error
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return frozenset(line.rstrip(".").lower() for line in lines if line)
