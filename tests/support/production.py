"""Run the commands of docs/operations.md on a machine of their own, made of Linux namespaces.

`python -m tests.support.production` runs as root inside new mount, network and process namespaces:
what it writes disappears with them, and nothing in it reaches beyond loopback. In place of
`systemd`, each unit's `ExecStart` is started with its user, environment and state directory.
"""

from __future__ import annotations

import configparser
import json
import os
import pwd
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from cli.local import postgres
from cli.local.processes import Child, poll, start, stop
from cli.local.sandbox import SandboxAddress, start_sandbox, wait_for_sandbox
from tests.support.examples import DOCS, prelude
from tests.support.requests import APPROVER
from tests.support.signals import SECRET, webhook
from tests.support.waiting import wait_until

PROJECT: Final = Path(__file__).parents[2]
HOME: Final = Path("/opt/cmek")
SCRATCH: Final = Path("/run/cmek-test")
"""A file system in memory, in this mount namespace."""
ROOTS_OWN: Final = SCRATCH / "home"
"""A folder that no other user can read, as root's home is: where root's blocks begin."""
UNITS: Final = Path("/etc/systemd/system")
OVERLAID: Final = ("/etc", "/opt", "/usr/local/bin", "/var/lib", "/var/backups", "/home")
"""Folders in which the page's commands make files."""
SECONDS: Final = 240
READY: Final = {
    "prefect-server": "http://127.0.0.1:4200/api/health",
    "cmek-gateway": "http://127.0.0.1:4300/gateway/health",
    "cmek-listen": "http://127.0.0.1:8786/healthz",
}
OPERATOR_SHELL: Final = "set -a; [ ! -e ~/.config/cmek.env ] || . ~/.config/cmek.env; set +a\n"
RUNS: Final = "client.read_flow_runs(limit=200)"


@dataclass(frozen=True)
class Block:
    """One block of commands of the page, and who runs it."""

    language: str
    who: str
    text: str


def blocks(page: str, chapter: str) -> list[Block]:
    """The chapter's blocks that name a user, in order."""
    _, _, text = (DOCS / page).read_text().partition(f"\n## {chapter}\n")
    fences = re.compile(r"^```(sh|python) ([a-z -]+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    return [Block(*found) for found in fences.findall(text.partition("\n## ")[0])]


def run(
    command: list[str], text: str = "", folder: str = "/", umask: int = 0o022, **variables: str
) -> str:
    """Run a command to its end; returns its output.

    Args:
        command: Program and arguments.
        text: Its standard input.
        folder: Where it runs.
        umask: What its files lack.
        variables: More of its environment.

    Raises:
        RuntimeError: it failed; the message holds its output.
    """
    done = subprocess.run(
        command,
        input=text,
        env={
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "LANG": "C.UTF-8",
            **variables,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
        cwd=folder,
        umask=umask,
    )
    if done.returncode != 0:
        raise RuntimeError(
            f"{shlex.join(command)} ended with {done.returncode}:\n{text}\n{done.stdout}"
        )
    return done.stdout


def make_private() -> None:
    """Put a temporary layer over the folders that are written, and bring loopback up."""
    run(["ip", "link", "set", "lo", "up"])
    scratch = SCRATCH
    scratch.mkdir(exist_ok=True)
    run(["mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", str(scratch)])
    for folder in OVERLAID:
        layers = scratch / folder.strip("/").replace("/", "-")
        for part in ("upper", "work"):
            (layers / part).mkdir(parents=True)
        options = f"lowerdir={folder},upperdir={layers}/upper,workdir={layers}/work"
        run(["mount", "-t", "overlay", "-o", options, "overlay", folder])
    HOME.mkdir()
    run(["mount", "--bind", str(PROJECT), str(HOME)])
    run(["mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", "/tmp"])  # noqa: S108 - this machine's own
    if not PROJECT.exists():  # a clone below /tmp: the scripts of its environment name its path
        PROJECT.mkdir(parents=True)
        run(["mount", "--bind", str(HOME), str(PROJECT)])
    _reachable_python(scratch)


def _reachable_python(scratch: Path) -> None:
    """Let other users reach an interpreter that is installed under a private home."""
    prefix = Path(sys.base_prefix).resolve()
    private = next((one for one in reversed(prefix.parents) if not one.stat().st_mode & 1), None)
    if private is None:
        return
    kept = scratch / "python"
    kept.mkdir()
    run(["mount", "--bind", str(prefix), str(kept)])
    run(["mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", str(private)])
    prefix.mkdir(parents=True)
    run(["mount", "--bind", str(kept), str(prefix)])


def start_postgres() -> None:
    """Start PostgreSQL at Debian's socket; a user can log in only as the role of the same name."""
    folder = postgres.new_folder()
    server = postgres.start(folder, {"PATH": os.environ["PATH"]})
    (folder / "data" / "pg_hba.conf").write_text("local all all peer\n")
    os.kill(server.child.process.pid, 1)  # SIGHUP: it reads pg_hba.conf again
    folder.chmod(0o755)
    socket = Path("/var/run/postgresql")
    socket.mkdir(parents=True, exist_ok=True)
    run(["mount", "--bind", str(folder), str(socket)])


@dataclass
class Units:
    """Replaces systemd."""

    running: dict[str, Child] = field(default_factory=dict)

    def obey(self, line: str) -> None:
        """Carry out one `systemctl` command of the page."""
        match shlex.split(line):
            case ["systemctl", "enable", "--now", name] | ["systemctl", "start", name]:
                self.start(name)
            case ["systemctl", "stop", name]:
                stop([self.running.pop(name)])
            case ["systemctl", "daemon-reload"]:
                pass  # units are read at each start
            case _:
                raise AssertionError(f"a systemctl command that is not replaced here: {line}")

    def start(self, name: str, **changes: str) -> None:
        """Start a unit as its file says, and wait until it is ready."""
        unit = configparser.ConfigParser(interpolation=None)
        unit.optionxform = str  # type: ignore[assignment,method-assign]
        unit.read(UNITS / f"{name}.service")
        service = unit["Service"]
        user = service["User"]
        state = Path("/var/lib") / service["StateDirectory"]
        state.mkdir(mode=0o700, exist_ok=True)
        shutil.chown(state, user, user)
        variable, _, value = service.get("Environment", "").partition("=")
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            **({variable: value} if variable else {}),
            **environment_of(Path(service["EnvironmentFile"])),
            **changes,
        }
        child = start(
            name,
            shlex.split(service["ExecStart"]),
            environment=environment,
            directory=Path(service["WorkingDirectory"]),
            log=SCRATCH / f"{name}{len(self.running)}.log",
            user=user,
        )
        if name in READY:
            url = READY[name].replace("4200", environment.get("PREFECT_SERVER_API_PORT", "4200"))
            await_answer(child, url)
        self.running[f"{name}{changes.get('PREFECT_SERVER_API_PORT', '')}"] = child


def environment_of(file: Path) -> dict[str, str]:
    """The variables of an environment file."""
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def await_answer(child: Child, url: str) -> None:
    """Wait until the address answers with anything."""

    def answers() -> bool | None:
        if not child.is_running:
            raise child.failure("ended")
        try:
            return httpx.get(url, trust_env=False).status_code > 0
        except httpx.TransportError:
            return None

    if poll(answers, seconds=SECONDS) is None:
        raise child.failure("does not answer")


@dataclass
class Follower:
    """Runs the page's blocks, with real names in place of the page's."""

    sandbox: SandboxAddress
    names: dict[str, str]
    secrets: Mapping[str, str]
    units: Units = field(default_factory=Units)

    def follow(self, block: Block) -> str:
        """Run one block as the user that it names; returns its output."""
        text = block.text
        for name, value in self.names.items():
            text = re.sub(rf"\b{re.escape(name)}\b", value.replace("\\", r"\\"), text)
        if block.who == "systemd":
            for line in text.splitlines():
                self.units.obey(line)
            return ""
        if block.who == "root":
            shell = ["bash", "--norc", "-euo", "pipefail", "-s"]
            # as strict as some distributions are with root
            printed = run(shell, text, folder=str(ROOTS_OWN), umask=0o027, **self.secrets)
            self.put_the_sandbox_in_place()
            return printed
        user = block.who.split()[0]
        if user == "operator" and block.language == "python":
            google = self.sandbox
            file = str(SCRATCH / "google.json")
            key = f"service_account_info=json.load(open({file!r}))"
            text = "import json\nfrom prefect_gcp import GcpCredentials\n" + text.replace(
                "GoogleKms()",
                f"GoogleKms(endpoint={google.grpc!r}, checks_endpoint={google.http!r},"
                f" gcp_credentials=GcpCredentials({key}))",
            )
        return self.as_user(user, text, block.language)

    def as_user(self, user: str, text: str, language: str = "sh") -> str:
        """Run text in the user's own shell."""
        home = pwd.getpwnam(user).pw_dir
        shell = OPERATOR_SHELL if user == "operator" else ""
        if language == "python":
            text = f"{shell}exec /opt/cmek/.venv/bin/python - <<'PYTHON'\n{text}\nPYTHON\n"
        else:
            text = f"{shell}{text}"
        command = ["runuser", "-u", user, "--", "bash", "--norc", "-euo", "pipefail", "-s"]
        return run(command, text, HOME=home)

    def put_the_sandbox_in_place(self) -> None:
        """Replace Anthropic's address, once the page's commands have copied the settings."""
        settings = Path("/etc/cmek-gateway/gateway.toml")
        if settings.exists():
            text = re.sub(r"^upstream = .*\n", "", settings.read_text(), flags=re.M)
            settings.write_text(f'upstream = "{self.sandbox.http}"\n{text}')

    def waiting(self, run_id: str) -> dict[str, Any]:
        """Wait for a run's approval request; returns what the approver's command reads of it."""
        code = f"""
import json, uuid
from cli import approvals
from cli.client import connected
with connected() as client:
    asked = approvals.wait_for_pending(client, uuid.UUID({run_id!r}), seconds=120)
    print(json.dumps({{"workspace": asked.workspace, "digest": asked.plan_digest}}))
"""
        printed = self.as_user("operator", code, "python")
        found: dict[str, Any] = json.loads(printed.splitlines()[-1])
        return found

    def admin(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """One call of the Admin API as the organization's administrator."""
        answer = httpx.request(
            method,
            f"{self.sandbox.http}/v1/organizations/{path}",
            headers={"x-api-key": self.sandbox.admin_key, "anthropic-version": "2023-06-01"},
            json=body,
            trust_env=False,
        )
        found: dict[str, Any] = answer.raise_for_status().json()
        return found

    def prefect(self, code: str) -> Any:
        """The value of an expression over `client`, evaluated as the operator, through JSON."""
        text = f"""
import json
from cli.client import connected
with connected() as client:
    print(json.dumps({code}, default=str))
"""
        return json.loads(self.as_user("operator", text, "python").splitlines()[-1])


@contextmanager
def machine(*arguments: str) -> Iterator[Follower]:
    """The machine before the page's first command; when the block fails, its logs are printed.

    Args:
        arguments: More arguments of the sandbox, which replaces Google and Anthropic.
    """
    make_private()
    run(["useradd", "--create-home", "--gid", "nogroup", "operator"])
    start_postgres()
    scratch = ROOTS_OWN
    (scratch / "tmp").mkdir(parents=True)
    scratch.chmod(0o700)  # no user here may read the Admin API key, which is in the sandbox's log
    child = start_sandbox(
        scratch, {"PATH": os.environ["PATH"], "HOME": str(scratch)}, ["--minimal", *arguments]
    )
    sandbox = wait_for_sandbox(child)
    key = SCRATCH / "google.json"
    shutil.copy(sandbox.google_credentials_file, key)
    key.chmod(0o644)
    follower = Follower(sandbox, {"PROJECT": sandbox.project_id}, enrolled(sandbox))
    try:
        yield follower
    except BaseException:
        for one in [*follower.units.running.values(), child]:
            sys.stderr.write(f"--- {one.name}\n{one.log.read_text(errors='replace')[-3000:]}\n")
        raise
    finally:
        stop([*follower.units.running.values(), child])


def main() -> None:
    """Follow the chapter from its first command to its last."""
    with machine() as follower:
        for step in chapter(follower):
            sys.stdout.write(f"{step}\n")
            sys.stdout.flush()


def enrolled(sandbox: SandboxAddress) -> dict[str, str]:
    """The variables that the page reads; makes the key of one approver, and its signers file."""
    ssh = Path("/home/operator/.ssh")
    ssh.mkdir(mode=0o700)
    run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(ssh / "id_ed25519")]
    )
    for one in (ssh, *ssh.iterdir()):
        shutil.chown(one, "operator")
    public = (ssh / "id_ed25519.pub").read_text().split()
    signers = SCRATCH / "signers"
    signers.write_text(f'{APPROVER} namespaces="cmek-approval" {public[0]} {public[1]}\n')
    return {"ADMIN_KEY": sandbox.admin_key, "SIGNERS": str(signers), "WEBHOOK_SECRET": SECRET}


def chapter(follower: Follower) -> Iterator[str]:
    """Run each block in order; after some of them, check what the page promises."""
    names, sandbox = follower.names, follower.sandbox
    names["WORKSPACE"] = sandbox.workspace_in("fresh")
    before: list[Any] = []
    after: dict[str, Callable[[str], None]] = {
        "cmek onboard": lambda printed: _remember_run(follower, printed),
        "cmek approve": lambda _: _is_attached(follower),
        "cmek status": lambda printed: _has(printed, "1 healthy"),
        "cmek automations": lambda _: _start_from_outside(follower),
        "enable --now cmek-listen": lambda _: _signal(follower),
        "pg_dump": lambda _: before.extend(_stored(follower)),
        "state.tar.gz cmek ": lambda _: _has_another_login(),
        "start cmek-listen": lambda _: _is_restored(follower, before),
        "runuser -u cmek -- cmek doctor": lambda printed: _has(printed, "an attach needs 1"),
    }
    for block in blocks("operations.md", "One machine"):
        if "TYPE/NAME" in block.text:
            names["TYPE/NAME"] = _notifier(follower)
        typed = _with_answers(follower, block) if "tty" in block.who else block
        printed = follower.follow(typed)
        for command in [one for one in after if one in block.text]:
            after.pop(command)(printed)
        yield f"{block.who}: {block.text.strip().splitlines()[-1]}"
    assert not after, f"never came: {list(after)}"
    assert follower.prefect("[one.name for one in client.read_flow_runs(limit=1)]")


def _remember_run(follower: Follower, printed: str) -> None:
    found = re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}", printed)
    assert found, printed
    follower.names["RUN"] = found[0]


def _with_answers(follower: Follower, block: Block) -> Block:
    """The approver's answers as options: what is tested is the command, not a terminal."""
    asked = follower.waiting(follower.names["RUN"])
    options = (
        f" --workspace-id {asked['workspace']} --plan-digest {asked['digest']}"
        f" --approver {APPROVER} --comment tested --acknowledge-warnings"
        " --signing-key ~/.ssh/id_ed25519"
    )
    return Block(block.language, block.who, block.text.replace("RUN", f"RUN{options}"))


def _is_attached(follower: Follower) -> None:
    workspace = follower.admin("GET", f"workspaces/{follower.names['WORKSPACE']}")
    assert workspace["external_key_id"], workspace


def _has(printed: str, text: str) -> None:
    assert text in printed, printed


def _notifier(follower: Follower) -> str:
    code = (
        "from prefect.blocks.notifications import CustomWebhookNotificationBlock as Hook\n"
        "Hook(name='ops', url='http://127.0.0.1:9/').save('ops', overwrite=True)\n"
    )
    follower.as_user("operator", code, "python")
    return "custom-webhook/ops"


def _start_from_outside(follower: Follower) -> None:
    """Start runs as docs/api.md shows, with login and token: by Python, by curl, by an event."""
    made = [follower.admin("POST", "workspaces", {"name": f"outside {n}"})["id"] for n in range(3)]
    given = f"export PROJECT={follower.names['PROJECT']} REQUESTER=ada@example.com WORKSPACE="
    examples = (DOCS / "api.md").read_text()
    (python,) = re.findall(r"^```python\n(import os.*?)^```$", examples, re.DOTALL | re.M)
    with_python = f"{given}{made[0]}\n/opt/cmek/.venv/bin/python - <<'END'\n{python}\nEND\n"
    started = follower.as_user("operator", with_python).strip()
    (curl,) = re.findall(r"^```bash\n(set -.*?)^```$", examples, re.DOTALL | re.M)
    follower.waiting(started)
    follower.waiting(follower.as_user("operator", f"{given}{made[1]}\n{curl}").strip())
    (event,) = re.findall(r"^```bash\n(call events.*?)^```$", examples, re.DOTALL | re.M)
    follower.as_user("operator", f"{given}{made[2]}\n{prelude('api.md')}\n{event}")
    tag = f"workspace:{made[2]}"
    runs = f"[one.id for one in client.read_flow_runs(limit=50) if {tag!r} in one.tags]"
    found = wait_until(lambda: follower.prefect(runs), "started by the event", SECONDS)
    follower.waiting(found[0])


def _signal(follower: Follower) -> None:
    """A webhook for the attached key starts a check of it; a forged one is refused."""
    workspace = follower.admin("GET", f"workspaces/{follower.names['WORKSPACE']}")
    key = workspace["external_key_id"]
    for secret, status in ((SECRET, 204), (f"whsec_{'QUFB' * 8}", 401)):
        headers, body = webhook(key, secret=secret)
        answer = httpx.post(
            "http://127.0.0.1:8786/webhook", headers=headers, content=body, trust_env=False
        )
        assert answer.status_code == status, answer.text
    runs = f"[one.parameters for one in {RUNS}]"

    def checked() -> bool:
        given = [one.get("request") or {} for one in follower.prefect(runs)]
        return any(one.get("external_keys") == [key] for one in given)

    wait_until(checked, "started by the signal", SECONDS)


def _stored(follower: Follower) -> list[Any]:
    """What a backup must restore: the waiting runs, and a block, which the server has encrypted."""
    count = (
        "client.request('POST', '/flow_runs/count',"
        " json={'flow_runs': {'state': {'type': {'any_': ['PAUSED']}}}}).json()"
    )
    block = "client.read_block_document_by_name('anthropic-admin', 'anthropic-admin').data"
    return [follower.prefect(count), follower.prefect(block)]


def _has_another_login() -> None:
    """The operator's file, as step 5 writes it on the machine on which the back-up is restored."""
    file = Path("/home/operator/.config/cmek.env")
    name = "PREFECT_API_AUTH_STRING="
    text, found = re.subn(rf"^{name}.+", f"{name}operator:other", file.read_text(), flags=re.M)
    assert found
    file.write_text(text)


def _is_restored(follower: Follower, before: list[Any]) -> None:
    """The backup has restored the database, its key, the worker's records and the journal.

    A run that waited is approved now, which needs all of them.
    """
    listed = follower.follow(Block("sh", "postgres", "psql --list --tuples-only --no-align\n"))
    assert "prefect_before_" in listed
    assert "prefect_restored|" not in listed
    assert _stored(follower) == before
    assert before[0] == 3, before
    ids = f"[str(one.id) for one in {RUNS} if one.state_name == %r]"
    (attached,) = follower.prefect(ids % "Attached")
    journal = f"http://127.0.0.1:4300/gateway/journal/{attached}"
    assert follower.names["WORKSPACE"] in httpx.get(journal, trust_env=False).text
    follower.names["RUN"] = follower.prefect(ids % "Suspended")[0]
    follower.names["WORKSPACE"] = follower.waiting(follower.names["RUN"])["workspace"]
    follower.follow(_with_answers(follower, Block("sh", "operator tty", "cmek approve RUN\n")))
    _is_attached(follower)


if __name__ == "__main__":
    main()
