"""Pools beyond one machine: templates that server and worker accept, and no run can change."""

from __future__ import annotations

import asyncio
import configparser
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from prefect.blocks.system import Secret
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_AUTH_STRING, temporary_settings
from prefect.workers.base import BaseJobConfiguration
from prefect.workers.process import ProcessJobConfiguration
from prefect_gcp.workers.cloud_run_v2 import CloudRunWorkerJobV2Configuration

from cli.client import RunError
from cli.deploy import PROJECT, deploy, pool_problem
from sandbox.server import running_sandbox
from tests.support.stack import running_stack

PREFECT_YAML = PROJECT / "prefect.yaml"
DEFINITIONS = yaml.safe_load(PREFECT_YAML.read_text())["definitions"]
POOLS: dict[str, dict[str, Any]] = DEFINITIONS["work_pools"]
TEMPLATES = {
    "process": ("process", "work_pool.json"),
    "cloud-run": ("cloud-run-v2", "work_pool_cloud_run.json"),
    "kubernetes": ("kubernetes", "work_pool_kubernetes.json"),
}
"""Kind of pool and template of each variant."""
BENT = {"env": {"PREFECT_API_URL": "http://evil.example"}, "image": "evil", "command": "evil"}
"""Job variables that a caller of the API may give to a run."""


def template(variant: str) -> dict[str, Any]:
    """The base job template of the variant's pool in docs/operations.md."""
    content: dict[str, Any] = json.loads((PROJECT / "deploy" / TEMPLATES[variant][1]).read_text())
    return content


def prepared(kind: type[BaseJobConfiguration], variant: str, **variables: Any) -> Any:
    """The job that a worker would start for a run, with these job variables."""
    run = FlowRun(id=uuid4(), flow_id=uuid4(), name="curious-key")
    with temporary_settings({PREFECT_API_AUTH_STRING: "operator:fake"}):
        configuration: Any = asyncio.run(
            kind.from_template_and_values(template(variant), variables)
        )
        configuration.prepare_for_flow_run(run)
    return configuration


def test_every_variant_has_a_template() -> None:
    """Every template has a variant too."""
    assert set(POOLS) == set(TEMPLATES)
    assert len({pool["name"] for pool in POOLS.values()}) == len(POOLS)


SECRET = "a block's secret"
REFERENCE = "{{ prefect.blocks.secret.bait }}"
"""A worker replaces it with the secret, wherever the reference is in a job."""


@pytest.mark.parametrize("variant", TEMPLATES)
def test_a_run_cannot_change_its_job_at_all(variant: str) -> None:
    """Otherwise somebody who may start a run could execute anything with the worker's rights.

    Not even a name or a label is allowed: a reference to a block brings its secret into logs.
    """
    assert template(variant)["variables"]["properties"] == {}
    # Prefect merges a run's variables into an `env` that is a dictionary here, whatever the schema
    assert "env" not in template(variant)["job_configuration"]


def test_no_job_variable_brings_a_blocks_secret_into_the_job(prefect_server: None) -> None:
    """All variables carry the reference; a template that takes labels does show the secret."""
    Secret(value=SECRET).save("bait", overwrite=True)
    names = ("name", "command", "working_dir", "stream_output", "cpu", "memory", "timeout", "image")
    values = dict.fromkeys(names, REFERENCE)
    nested = {"labels": {"a": REFERENCE}, "env": {"A": REFERENCE}}

    def job(used: dict[str, Any]) -> str:
        made = ProcessJobConfiguration.from_template_and_values(used, values | nested)
        configuration: Any = asyncio.run(made)
        return str(configuration.model_dump_json())

    assert SECRET not in job(template("process"))
    taking = {"job_configuration": {"labels": "{{ labels }}"}, "variables": {"properties": {}}}
    assert SECRET in job(taking)


@pytest.mark.parametrize("name", ["name", "labels", "env"])
def test_a_pool_that_takes_a_variable_is_refused_by_the_deploy(
    name: str, prefect_server: None
) -> None:
    """A pool that a worker made from Prefect's own template is refused too, and a missing one."""
    shut = template("process")
    open_to = {"properties": {name: {"type": "string"}}}
    with get_client(sync_client=True) as client:
        before = client.read_deployments()
        bent = WorkPoolCreate(
            name=f"bent-{name}", type="process", base_job_template=shut | {"variables": open_to}
        )
        client.create_work_pool(bent)
        assert f"choose {name}" in str(pool_problem(client, f"bent-{name}"))
        assert "not on this server" in str(pool_problem(client, "no-such-pool"))
        with pytest.raises(RunError, match=r"'cmek' .*; nothing was deployed"):
            deploy(client, PREFECT_YAML, None)
        assert client.read_deployments() == before


def test_a_worker_starts_one_process_a_run_of_its_own_python(prefect_server: None) -> None:
    """Prefect's default command imports Prefect twice, one process after the other."""
    job = prepared(ProcessJobConfiguration, "process", **BENT)
    assert job.command == "python -m cli.launch prefect.engine"
    unit = configparser.ConfigParser(interpolation=None)
    unit.read(PROJECT / "deploy" / "systemd" / "cmek-worker.service")
    program = Path(unit["Service"]["ExecStart"].split()[0])
    assert unit["Service"]["Environment"].split(":")[0] == f"PATH={program.parent}"


def test_prefects_cloud_run_worker_makes_the_job(
    prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has our image, account and storage, and a secret instead of the shared login."""
    with running_sandbox() as sandbox:  # else Google's library looks for a machine's account
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(sandbox.google_credentials_file))
        job = prepared(CloudRunWorkerJobV2Configuration, "cloud-run", **BENT)
    inner = job.job_body["template"]["template"]
    (container,) = inner["containers"]
    assert container["image"].startswith("us-docker.pkg.dev/PROJECT/cmek/cmek@sha256:")
    assert container["command"] == ["prefect", "flow-run", "execute"]
    assert container["resources"]["limits"] == {"cpu": "1000m", "memory": "1Gi"}
    assert (inner["timeout"], inner["maxRetries"]) == ("3600s", 0)
    names = [one["name"] for one in container["env"]]
    assert len(names) == len(set(names))
    environment = {one["name"]: one.get("value") for one in container["env"]}
    assert environment["CMEK_RECORDS"] == "gs://BUCKET/cmek-records"
    assert environment["CMEK_REQUIRED_SIGNATURES"] == "1"
    assert environment["PREFECT__FLOW_RUN_ID"]
    assert "PREFECT_API_AUTH_STRING" in environment
    assert environment["PREFECT_API_AUTH_STRING"] is None
    assert "evil" not in json.dumps(job.job_body)


def test_prefects_kubernetes_worker_makes_the_job(prefect_server: None) -> None:
    """This needs its package, which is not in the lock."""
    worker = pytest.importorskip(
        "prefect_kubernetes.worker",
        reason="needs the package prefect-kubernetes, which is not locked: pip install it",
    )
    job = prepared(worker.KubernetesWorkerJobConfiguration, "kubernetes", **BENT)
    spec = job.job_manifest["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    environment = {one["name"]: one.get("value") for one in container["env"]}
    assert environment["CMEK_RECORDS"] == "gs://BUCKET/cmek-records"
    assert environment["CMEK_REQUIRED_SIGNATURES"] == "1"
    assert environment["PREFECT__FLOW_RUN_ID"]
    assert container["args"] == ["prefect", "flow-run", "execute"]
    assert spec["activeDeadlineSeconds"] == 3600
    assert "evil" not in json.dumps(job.job_manifest)


def make_pools(client: SyncPrefectClient, *variants: str) -> None:
    """Make the variants' pools as docs/operations.md says."""
    for variant in variants:
        name, (kind, _) = POOLS[variant]["name"], TEMPLATES[variant]
        body = {"name": name, "type": kind, "base_job_template": template(variant)}
        client.request("POST", "/work_pools/", json=body).raise_for_status()


def test_a_server_takes_the_templates(prefect_server: None) -> None:
    """A server refuses a template with a placeholder that no variable fills."""
    with get_client(sync_client=True) as client:
        make_pools(client, *TEMPLATES)
        for pool in POOLS.values():
            client.request("DELETE", "/work_pools/{name}", path_params={"name": pool["name"]})


@pytest.mark.prove
@pytest.mark.e2e
def test_the_deployments_go_to_the_pool_that_is_asked_for() -> None:
    """`cmek deploy --on cloud-run` puts each deployment in that pool and in its queue."""
    with running_stack() as stack:
        make_pools(stack.client, "cloud-run")
        deploy(stack.client, PREFECT_YAML, "acme-kms-prod", on="cloud-run")
        found = stack.client.read_deployments()
        assert {one.work_pool_name for one in found} == {"cmek-cloud-run"}
        queues = {one.name: one.work_queue_name for one in found}
        assert (queues["watchdog"], queues["onboard"]) == ("watch", "default")
        with pytest.raises(RunError, match="no work pool 'cloudrun': it has process, cloud-run"):
            deploy(stack.client, PREFECT_YAML, None, on="cloudrun")
