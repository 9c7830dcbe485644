"""The rules that no feature may break, each with at least one test.

Invariant 1 (what an attach needs) has `tests/cmek/test_gate.py` and the attacks beside this file;
invariant 5 (convergence) has `test_onboard.py` and `test_lost_answers.py`.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from prefect import Flow, Task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ValidationError

import flows
import tasks
from blocks.anthropic_admin import AnthropicAdmin
from blocks.google_kms import GoogleKms
from cli.local.stack import client_environment
from cmek import anthropic_identity
from cmek.addresses import EndpointError
from cmek.anthropic_identity import MEMBER, SERVICE_ACCOUNT
from cmek.onboarding.request import OnboardingRequest
from tests.support.kms import Level
from tests.support.onboarding import Onboardings

PROJECT = Path(__file__).parents[2]
PACKAGES = ("cmek", "gateway", "blocks", "tasks", "flows", "cli")
HARMFUL = {
    "delete",
    "destroy",
    "destroy_crypto_key_version",
    "delete_crypto_key",
    "delete_crypto_key_version",
    "delete_key_ring",
    "update_crypto_key_version",
    "update_crypto_key_primary_version",
    "archive",
}


def sources() -> Iterator[tuple[Path, ast.AST]]:
    """Every module of the packages that call the outside world."""
    for package in PACKAGES:
        for path in sorted((PROJECT / package).rglob("*.py")):
            yield path, ast.parse(path.read_text())


def test_invariant_2_no_code_destroys_disables_or_deletes() -> None:
    """No call, no attribute and no HTTP verb of that kind in any package but the sandbox."""
    found = [
        f"{path.relative_to(PROJECT)}:{node.lineno}"
        for path, tree in sources()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in HARMFUL)
        or (isinstance(node, ast.Constant) and node.value in {"DELETE", "delete"})
    ]
    assert found == []


def test_invariant_2_the_request_log_has_nothing_of_that_kind(bench: Onboardings) -> None:
    bench.asked().approve()
    bench.start(repair=True).execute()
    bench.start("wrkspc_01ResearchDev11111111111").execute().approve(decision="reject")
    bench.start(bench.workspace("archived")).execute()
    harmless = {
        "CreateKeyRing",
        "CreateCryptoKey",
        "SetIamPolicy",
        "external_keys.create",
        "workspaces.update",
        "UpdateCryptoKey",
    }
    assert set(bench.writes()) <= harmless


def test_invariant_3_the_grantee_is_the_published_account_and_nothing_names_another(
    bench: Onboardings,
) -> None:
    """The account is in one file; no field of a request or block can name a member."""
    elsewhere = [
        path
        for path, _ in sources()
        if SERVICE_ACCOUNT in path.read_text() and path.name != "anthropic_identity.py"
    ]
    assert elsewhere == []
    models: tuple[type[BaseModel], ...] = (OnboardingRequest, AnthropicAdmin, GoogleKms)
    words = ("member", "grantee", "principal", "account_email")
    assert not [f for m in models for f in m.model_fields if any(w in f for w in words)]
    granting = [
        call
        for _, tree in sources()
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "add_grants"
    ]
    assert [ast.unparse(call.args[1]) for call in granting] == ["MEMBER"]
    assert f"serviceAccount:{SERVICE_ACCOUNT}" == anthropic_identity.MEMBER
    bench.asked()
    (written,) = bench.control.log(call="SetIamPolicy")
    members = {m for b in written["request"]["policy"]["bindings"] for m in b["members"]}
    assert members == {MEMBER}


def test_invariant_4_bindings_of_others_stay_and_no_policy_is_written_without_etag(
    bench: Onboardings,
) -> None:
    """Conditional bindings stay too; the version is 3, and the etag is that of the read."""
    kms = bench.kms
    ring = kms.ring("anthropic-cmek")
    key = kms.key(bench.fresh, ring=ring, version_template={"protection_level": Level.HSM})
    kms.grant(
        key.name,
        "roles/cloudkms.viewer",
        "user:a@example.com",
        "request.time < timestamp('2030-01-01T00:00:00Z')",
    )
    kms.grant(key.name, "roles/cloudkms.admin", "group:b@example.com")
    before = kms.policy(key.name)
    bench.control.clear_log()
    bench.asked(adopt_existing_key=True).approve()
    after = kms.policy(key.name)
    kept = [b.SerializeToString() for b in before.bindings]
    assert all(one in [b.SerializeToString() for b in after.bindings] for one in kept)
    (written,) = bench.control.log(call="SetIamPolicy")
    policy: dict[str, Any] = written["request"]["policy"]
    assert policy["version"] == 3
    assert policy["etag"]


def test_invariant_6_a_service_that_stays_down_is_given_up_after_bounded_attempts(
    bench: Onboardings,
) -> None:
    """The client makes four attempts, the task adds none."""
    bench.control.fault("GetKeyRing", status="UNAVAILABLE", times=50)
    run = bench.start().execute()
    assert run.state == "Failed"
    assert 4 <= len(bench.control.log(call="GetKeyRing")) <= 8


def test_invariant_7_a_check_that_could_not_run_is_shown_as_unknown_with_who_can(
    bench: Onboardings,
) -> None:
    bench.control.fault("cloudbilling.*", status="PERMISSION_DENIED", times=50)
    run = bench.asked()
    row = next(line for line in run.text().splitlines() if "illing" in line)
    assert row.startswith("- **Not checked: ")
    assert "Who can tell" in row
    assert "acknowledge_warnings" in run.form()["then"]["required"]


PLAIN = ["http://api.anthropic.com", "http://10.0.0.1:8080", "http://localhost.example.com"]


@pytest.mark.parametrize("url", PLAIN)
def test_invariant_8_plain_text_is_for_loopback_only(url: str) -> None:
    refused = pytest.raises((ValidationError, EndpointError), match="plain text")
    with refused:
        AnthropicAdmin(base_url=url, admin_key="sk-ant-admin01-NOT-A-REAL-KEY").get_client()
    with refused:
        GoogleKms(checks_endpoint=url).get_client()


def test_invariant_8_everything_that_we_start_sets_do_not_track(tmp_path: Path) -> None:
    environment = client_environment(tmp_path, 4200)
    assert environment["DO_NOT_TRACK"] == "1"
    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"].lower() == "false"


@pytest.mark.server
def test_invariant_8_a_server_of_tests_and_benchmarks_has_analytics_off(bench: Onboardings) -> None:
    """The server itself reports it; all are started by `lone_server`, or as the local stack's."""
    settings = bench.client.request("GET", "/admin/settings").json()
    assert settings["server"]["analytics_enabled"] is False


def objects_of(package: ModuleType) -> Iterator[tuple[str, object]]:
    """What the package's modules define at their top level."""
    for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        module = importlib.import_module(found.name)
        yield from ((f"{found.name}.{name}", one) for name, one in vars(module).items())


def test_no_result_of_a_task_or_flow_is_stored_or_taken_from_before() -> None:
    """Even if a worker's settings store results by default: a Retry reads everything again."""
    found = dict((*objects_of(flows), *objects_of(tasks)))
    made = {name: one for name, one in found.items() if isinstance(one, Task | Flow)}
    assert len(made) > 35
    assert [name for name, one in made.items() if one.persist_result is not False] == []
    cached = {name: one.cache_policy for name, one in made.items() if isinstance(one, Task)}
    assert [name for name, policy in cached.items() if policy is not NO_CACHE] == []


def test_no_class_name_stands_for_two_things() -> None:
    """A search for a class finds one; `http.server`'s handlers inside functions are not counted."""
    tracked = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    places: defaultdict[str, list[str]] = defaultdict(list)
    for file in tracked.stdout.split():
        for node in ast.parse((PROJECT / file).read_text()).body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(file)
    assert {name: files for name, files in places.items() if len(files) > 1} == {}
