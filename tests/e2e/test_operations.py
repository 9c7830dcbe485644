"""docs/operations.md leads from nothing to an attached key, a restored server and an upgrade."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from prefect_gcp.models import cloud_run_v2 as models
from prefect_gcp.workers import cloud_run_v2 as workers

from cli.deploy import PROJECT
from tests.support.examples import DOCS
from tests.support.production import blocks

NEEDED = ("unshare", "ip", "runuser", "useradd", "openssl", "psql", "pg_dump", "ssh-keygen", "jq")
MISSING = [one for one in NEEDED if shutil.which(one) is None]
if os.geteuid() != 0:
    MISSING.append("root")
UNITS = sorted((PROJECT / "deploy" / "systemd").glob("*.service"))
HARDENED = (
    "NoNewPrivileges=yes",
    "ProtectSystem=strict",
    "StateDirectory=",
    "CapabilityBoundingSet=",
)


@pytest.mark.prove
@pytest.mark.e2e
@pytest.mark.timeout(2400)
@pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")
def test_the_guides_own_commands_make_a_production_that_attaches_and_can_be_restored() -> None:
    """They run in their own namespaces, leave nothing behind, and do not go beyond loopback."""
    namespaces = ("--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child")
    done = subprocess.run(
        ["unshare", *namespaces, sys.executable, "-m", "tests.support.production"],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], "HOME": "/root", "DO_NOT_TRACK": "1", "LANG": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=2300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-12000:]
    assert len(done.stdout.splitlines()) == len(blocks("operations.md", "One machine"))


@pytest.mark.parametrize("unit", UNITS, ids=lambda one: str(one.stem))
def test_a_unit_is_one_that_systemd_takes_and_has_its_own_user(unit: Path, tmp_path: Path) -> None:
    """It is hardened, and has its own state directory."""
    text = unit.read_text()
    assert [one for one in HARDENED if f"\n{one}" not in text] == []
    assert re.search(r"^User=(?!root)\S+$", text, re.M)
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("needs systemd-analyze")
    copy = tmp_path / unit.name
    runnable = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.M)
    for content, fits in ((runnable, True), (f"{runnable}\n[Service]\nNoSuchSetting=1\n", False)):
        copy.write_text(content)
        done = subprocess.run(
            [program, "verify", str(copy)], capture_output=True, text=True, check=False
        )
        complaints = [line for line in done.stderr.splitlines() if unit.name in line]
        assert (complaints == []) is fits, complaints


def test_a_reader_sees_who_runs_each_block() -> None:
    """What follows a fence is not displayed: the user is named in the sentence above it."""
    _, _, page = (DOCS / "operations.md").read_text().partition("\n## One machine\n")
    page, _, _ = page.partition("\n## ")
    found = re.findall(r"([^`]{0,400})^```(?:sh|python) ([a-z -]+)\n", page, re.MULTILINE)
    assert len(found) == len(blocks("operations.md", "One machine"))
    named = ""
    for above, user in found:
        last = re.findall(r"\b[Aa]s\s+(?:the )?([a-z-]+)(?=[:,.])", above)
        named = last[-1] if last else named  # two blocks of one user
        who = {"systemd": "root", "operator tty": "approver"}.get(user, user)
        assert named == who, f"{user}, behind: {above[-80:]!r}"


def test_who_is_changed_to_can_read_the_folder_in_which_root_stands() -> None:
    """After `sudo -i` it is root's home, in which `cmek` as the worker's user could not start."""
    page = (DOCS / "operations.md").read_text()
    before = [text.rpartition("\n\n")[2] for text in page.split("runuser -u")[:-1]]
    assert len(before) >= 4
    assert [text for text in before if not re.search(r"\bcd /(?=[;`\n])", text)] == []


def test_the_code_of_every_version_can_be_read_and_has_its_own_units() -> None:
    """With root's umask 027 no service could start; with newer units an old version may not."""
    page = (DOCS / "operations.md").read_text()
    installs = [
        text for text in re.split(r"\n\n|\n- ", page) if re.search(r"git (clone|checkout)\b", text)
    ]
    assert len(installs) == 3
    for text in installs:
        assert "umask 022" in text
    (back,) = [text for text in installs if "go **back**" in text]
    assert "Copy its units" in back
    assert "systemctl daemon-reload" in back


def test_the_guide_enables_the_api_of_every_command_and_of_every_read() -> None:
    """Otherwise gcloud asks, or fails, in a new project."""
    _, _, step = (DOCS / "operations.md").read_text().partition("\n### 6. ")
    enabled = set(re.findall(r"\b[a-z]+\.googleapis\.com", step.split("\n```\n")[1]))
    clients = "".join(one.read_text() for one in (PROJECT / "cmek" / "gcp").glob("*.py"))
    hosts = set(re.findall(r"\b([a-z]+\.googleapis\.com)", clients))
    assert {"cloudkms.googleapis.com", "orgpolicy.googleapis.com"} <= hosts
    names_of_types = {"www.googleapis.com", "type.googleapis.com"}
    assert hosts - names_of_types | {"iam.googleapis.com"} <= enabled


def test_the_guide_names_the_permissions_that_prefects_cloud_run_worker_uses() -> None:
    """By the calls in its source, so that a newer version shows here."""
    sources = "".join(inspect.getsource(one) for one in (models, workers))
    calls = re.findall(r"\bjobs\(\)\s*\.(executions\(\)\s*\.)?([a-z]\w*)\(", sources)
    used = {f"run.{'executions' if inner else 'jobs'}.{verb}" for inner, verb in calls}
    used.discard("run.jobs.executions")
    assert len(used) > 5
    _, _, chapter = (DOCS / "operations.md").read_text().partition("\n## Beyond one machine\n")
    assert set(re.findall(r"`(run\.[a-z]+\.[a-z]+)`", chapter)) == used


def test_each_user_of_the_guide_reads_its_own_settings_only() -> None:
    """The modes and groups in the guide's own commands ensure it."""
    text = "\n".join(block.text for block in blocks("operations.md", "One machine"))
    for rights, file in (
        ("-m 0640 -g prefect", "server.env"),
        ("-m 0640 -g cmek", "worker.env"),
        ("-m 0400 -o cmek-gateway", "admin_key"),
        ("-m 0640 -g cmek-gateway", "gateway.toml"),
        ("-m 0640 -g cmek-listen", "listen.env"),
        ("-m 0400 -o cmek-listen", "webhook_secret"),
    ):
        (line,) = [one for one in text.splitlines() if file in one and "install " in one]
        assert f"{rights} " in line
