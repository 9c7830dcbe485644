"""prefect.yaml and the work pool have only keys that Prefect reads, none that it drops silently."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from prefect.cli.deploy._models import (
    ConcurrencyLimitSpec,
    DeploymentConfig,
    PrefectYamlModel,
    RawScheduleConfig,
    WorkPoolConfig,
)
from prefect.flows import Flow
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import validate
from pydantic import BaseModel

from cli.deploy import PROJECT
from cli.local.stack import WORK_POOL

PREFECT_YAML = PROJECT / "prefect.yaml"
IGNORED = {"definitions"}
"""Top-level keys that Prefect's documentation allows for YAML anchors."""


CONTENT: dict[str, Any] = yaml.safe_load(PREFECT_YAML.read_text())
each_deployment = pytest.mark.parametrize(
    "deployment", CONTENT["deployments"], ids=lambda one: one["entrypoint"]
)


def unknown_keys(content: dict[str, Any]) -> list[str]:
    """Keys that Prefect's own models do not have, and therefore drop silently."""
    return [*_unknown("", content, PrefectYamlModel, IGNORED), *_unknown_in_deployments(content)]


def _unknown_in_deployments(content: dict[str, Any]) -> Iterator[str]:
    for number, deployment in enumerate(content.get("deployments", [])):
        place = f"deployments[{number}]."
        yield from _unknown(place, deployment, DeploymentConfig)
        yield from _unknown(f"{place}work_pool.", deployment.get("work_pool") or {}, WorkPoolConfig)
        for schedule in deployment.get("schedules") or []:
            yield from _unknown(f"{place}schedules.", schedule, RawScheduleConfig)
        limit = deployment.get("concurrency_limit")
        if isinstance(limit, dict):
            yield from _unknown(f"{place}concurrency_limit.", limit, ConcurrencyLimitSpec)


def _unknown(
    place: str, given: dict[str, Any], model: type[BaseModel], known: set[str] | None = None
) -> Iterator[str]:
    fields = model.model_fields
    names = set(fields) | {field.alias for field in fields.values() if field.alias}
    yield from (f"{place}{key}" for key in given if key not in names | (known or set()))


def test_prefect_accepts_the_file_and_drops_no_key_of_it() -> None:
    """Prefect's own model of the file takes it, and every key is one that Prefect reads."""
    assert PrefectYamlModel.model_validate(CONTENT).deployments
    assert unknown_keys(CONTENT) == []


def test_the_lint_sees_a_misspelt_key_at_every_level() -> None:
    """So the check above can fail."""
    bad = {
        "deployment": [],
        "deployments": [
            {
                "name": "x",
                "bogus_field": 1,
                "work_pool": {"nam": "cmek"},
                "schedules": [{"cron": "0 6 * * *", "max_scheduled_runs": 3}],
                "concurrency_limit": {"limits": 1},
            }
        ],
    }
    assert unknown_keys(bad) == [
        "deployment",
        "deployments[0].bogus_field",
        "deployments[0].work_pool.nam",
        "deployments[0].schedules.max_scheduled_runs",
        "deployments[0].concurrency_limit.limits",
    ]


@each_deployment
def test_every_entrypoint_is_a_flow_that_can_be_imported(deployment: dict[str, Any]) -> None:
    """It is a module path, which works in any directory where the project is installed."""
    module, _, name = deployment["entrypoint"].partition(":")
    assert isinstance(getattr(importlib.import_module(module), name), Flow)


@each_deployment
def test_every_deployment_enforces_its_form_and_names_our_pool(deployment: dict[str, Any]) -> None:
    """A wrong parameter is refused before a run exists."""
    assert deployment["enforce_parameter_schema"] is True
    queue = {"work_queue_name": "watch"} if deployment["name"] == "watchdog" else {}
    assert deployment["work_pool"] == {"name": WORK_POOL} | queue


@each_deployment
def test_the_server_takes_the_parameters_of_every_deployment(deployment: dict[str, Any]) -> None:
    """When a deployment is made, Prefect checks them without any `required` of the schema."""
    module, _, name = deployment["entrypoint"].partition(":")
    flow = getattr(importlib.import_module(module), name)
    schema = parameter_schema(flow).model_dump_for_openapi()
    text = json.dumps(deployment.get("parameters") or {})
    given = text.replace("{{ $CMEK_PROJECT_ID }}", "acme-kms-prod")
    validate(json.loads(given), schema, raise_on_error=True, ignore_required=True)


def test_no_path_of_a_machine_is_in_the_file() -> None:
    """The worker imports the installed project; without `pull` this directory would be stored."""
    assert CONTENT["pull"] == []
    assert str(PROJECT) not in PREFECT_YAML.read_text()


def test_the_onboarding_comes_first_in_the_list_of_deployments() -> None:
    """The UI lists them in the order of their names."""
    assert min(str(one["name"]) for one in CONTENT["deployments"]) == "onboard"


@each_deployment
def test_a_description_is_one_paragraph_without_markup(deployment: dict[str, Any]) -> None:
    """One of Prefect's UIs shows line breaks and Markdown as plain text."""
    text = str(deployment["description"])
    assert not set(text) & set("\n`*#|")
    assert len(text) <= 450
