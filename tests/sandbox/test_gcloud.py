"""The guide's gcloud commands, word for word, against the sandbox.

Where gcloud is not installed, its recorded requests (`gcloud_requests.json`) are replayed instead;
`CMEK_RECORD_GCLOUD=1` records them again.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from cmek.anthropic_identity import MEMBER, ROLES
from sandbox.world import GoogleState
from tests.support.discovery import discovery
from tests.support.gcloud import gcloud_environment, needs_gcloud
from tests.support.kms import LOCATION, Kms, State

RECORDED = Path(__file__).parent / "gcloud_requests.json"
KEY = f"{LOCATION}/keyRings/anthropic-cmek/cryptoKeys/claude-prod"
WHERE = "--project=acme-kms-prod --location=us-east5"
IN_RING = f"{WHERE} --keyring=anthropic-cmek"
CREATE_RING = f"gcloud kms keyrings create anthropic-cmek {WHERE}"
CREATE_KEY = (
    f"gcloud kms keys create claude-prod {IN_RING} --purpose=encryption --protection-level=hsm"
)
GRANT = f"gcloud kms keys add-iam-policy-binding claude-prod {IN_RING} --member={MEMBER}"
DESCRIBE = f"gcloud kms keys describe claude-prod {IN_RING} --format=value(name)"
LOCATIONS = "gcloud kms locations list --project=acme-kms-prod --format=value(locationId)"
LABEL = f"gcloud kms keys update claude-prod {IN_RING} --update-labels=anthropic-org-x=true"
LIST = f"gcloud kms keys versions list --key=claude-prod {IN_RING} --format=value(state)"
VERSION = f"--key=claude-prod {IN_RING}"
PROJECT = "--project=acme-kms-prod"


class Gcloud:
    """gcloud, configured to call only the sandbox."""

    def __init__(self, kms: Kms, home: Path) -> None:
        self._environment = gcloud_environment(kms.sandbox, home)

    def __call__(self, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command; returns its result."""
        return subprocess.run(
            shlex.split(command),
            env=self._environment | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def ok(self, command: str) -> str:
        """The output of a command that must succeed."""
        done = self(command)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture
def gcloud(kms: Kms, tmp_path: Path) -> Gcloud:
    """Gcloud with its own home."""
    return Gcloud(kms, tmp_path)


@needs_gcloud
def test_the_guides_commands_work_word_for_word(kms: Kms, gcloud: Gcloud) -> None:
    for command in (CREATE_RING, CREATE_KEY, *(f"{GRANT} --role={role}" for role in ROLES)):
        gcloud.ok(command)
    assert gcloud.ok(DESCRIBE) == KEY
    assert "us-east5" in gcloud.ok(LOCATIONS).split()
    bindings = kms.policy(KEY).bindings
    assert {(one.role, *one.members) for one in bindings} == {(role, MEMBER) for role in ROLES}
    gcloud.ok(LABEL)
    assert dict(kms.world.kms.crypto_keys[KEY].labels) == {"anthropic-org-x": "true"}
    assert gcloud.ok(LIST) == "ENABLED"
    states = []
    for verb in ("destroy", "restore", "enable"):
        gcloud.ok(f"gcloud kms keys versions {verb} 1 {VERSION}")
        states.append(State(kms.world.kms.versions[KEY][1].state).name)
    assert states == ["DESTROY_SCHEDULED", "DISABLED", "ENABLED"]
    if os.environ.get("CMEK_RECORD_GCLOUD"):
        _record(kms)


@needs_gcloud
def test_gcloud_encrypts_and_verifies_checksums(kms: Kms, gcloud: Gcloud, tmp_path: Path) -> None:
    """`kms encrypt` and `kms decrypt` refuse answers without correct checksums, and accept ours."""
    kms.key()
    plain, sealed, opened = (tmp_path / name for name in ("plain", "sealed", "opened"))
    plain.write_text("secret text")
    where = f"--key=key --keyring=ring {WHERE}"
    gcloud.ok(f"gcloud kms encrypt {where} --plaintext-file={plain} --ciphertext-file={sealed}")
    gcloud.ok(f"gcloud kms decrypt {where} --ciphertext-file={sealed} --plaintext-file={opened}")
    assert opened.read_text() == "secret text"


@needs_gcloud
def test_gcloud_shows_refusals(kms: Kms, gcloud: Gcloud, tmp_path: Path) -> None:
    """A second run of the guide fails at its first step; the error of a disabled API names it."""
    gcloud.ok(CREATE_RING)
    again = gcloud(CREATE_RING)
    assert (again.returncode, "ALREADY_EXISTS" in again.stderr) == (1, True)
    kms.world.switches.kms_api_enabled = False
    disabled = gcloud(CREATE_RING)
    assert "SERVICE_DISABLED" in disabled.stderr
    token = tmp_path / "token"
    token.write_text("not-a-token")
    refused = gcloud(
        CREATE_RING,
        CLOUDSDK_AUTH_DISABLE_CREDENTIALS="False",
        CLOUDSDK_AUTH_ACCESS_TOKEN_FILE=str(token),
    )
    assert refused.returncode == 1
    assert kms.world.log.entries[-1].caller == "unauthenticated"


@needs_gcloud
def test_the_commands_of_our_own_texts_about_the_project_work(kms: Kms, gcloud: Gcloud) -> None:
    world = kms.world
    world.switches.billing_enabled = world.switches.kms_api_enabled = False
    world.google = GoogleState(project_states={"acme-kms-prod": "DELETE_REQUESTED"})
    describe = "gcloud projects describe acme-kms-prod --format=value(lifecycleState)"
    assert gcloud.ok(describe) == "DELETE_REQUESTED"
    gcloud.ok("gcloud projects undelete acme-kms-prod")
    assert gcloud.ok(describe) == "ACTIVE"
    gcloud.ok("gcloud billing projects link acme-kms-prod --billing-account=000000-SANDBX-000000")
    listing = f"gcloud services list --enabled {PROJECT} --format=value(config.name)"
    assert "cloudkms.googleapis.com" not in gcloud.ok(listing).split()
    gcloud.ok(f"gcloud services enable cloudkms.googleapis.com {PROJECT}")
    assert "cloudkms.googleapis.com" in gcloud.ok(listing).split()
    assert world.switches.billing_enabled
    unknown = gcloud(f"gcloud services enable no-such.googleapis.com {PROJECT}")
    assert (unknown.returncode, "Not found or permission denied" in unknown.stderr) == (1, True)
    binding = "--member=user:ada@example.com --role=roles/viewer --condition=None"
    gcloud.ok(f"gcloud projects add-iam-policy-binding acme-kms-prod {binding}")
    policy = "gcloud projects get-iam-policy acme-kms-prod --format=value(bindings.members)"
    assert "user:ada@example.com" in gcloud.ok(policy)
    _fits_the_documents(kms)


@needs_gcloud
def test_the_commands_of_our_own_texts_about_policies_work(kms: Kms, gcloud: Gcloud) -> None:
    kms.world.google = GoogleState(policy_rules={"gcp.resourceLocations": [{"allowAll": True}]})
    kms.world.kms.constraints.allowed_protection_levels = ["HSM"]
    name = "projects/123456789012/policies/gcp.resourceLocations"
    listed = gcloud.ok(f"gcloud org-policies list {PROJECT} --format=value(constraint)")
    assert listed == "gcp.resourceLocations"
    describe = f"gcloud org-policies describe gcp.resourceLocations {PROJECT}"
    assert gcloud.ok(f"{describe} --format=value(name)") == name
    older = "gcloud resource-manager org-policies"
    levels = f"{older} describe constraints/cloudkms.allowedProtectionLevels --effective {PROJECT}"
    assert "HSM" in gcloud.ok(levels)
    gcloud.ok(f"{older} enable-enforce constraints/cloudkms.disableBeforeDestroy {PROJECT}")
    assert kms.world.kms.constraints.disable_before_destroy
    _fits_the_documents(kms)


def _fits_the_documents(kms: Kms) -> None:
    for entry in (one for one in kms.world.log.entries if one.service == "google"):
        version = entry.request["_http"]["path"].split("/")[1]
        document = discovery(f"{entry.call.partition('.')[0]}.{version}")
        if not entry.status.startswith("4"):
            assert document.violations(entry.to_json()) == []


def test_gclouds_recorded_requests_are_served(kms: Kms) -> None:
    """Each recorded request of gcloud succeeds, as it did when it was recorded."""
    for recorded in json.loads(RECORDED.read_text()):
        body = _with_current_etag(kms, recorded)
        answer = httpx.request(
            recorded["method"],
            f"{kms.sandbox.http}{recorded['path']}?{recorded['query']}",
            json=body,
            trust_env=False,
        )
        assert answer.status_code == 200, (recorded, answer.text)


def _with_current_etag(kms: Kms, recorded: dict[str, Any]) -> dict[str, Any] | None:
    body = recorded["body"]
    if body and "policy" in body:
        url = f"{kms.sandbox.http}{recorded['path'].replace(':set', ':get')}"
        etag = httpx.get(url, trust_env=False).json()["etag"]
        body["policy"]["etag"] = etag
    return body or None


def _record(kms: Kms) -> None:
    requests = []
    for entry in (one for one in kms.world.log.entries if one.transport == "http"):
        body = dict(entry.request)
        requests.append(body.pop("_http") | {"body": body})
    RECORDED.write_text(json.dumps(requests, indent=1) + "\n")
