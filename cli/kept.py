"""What a team has decided in its deployments, and a deploy keeps.

Prefect writes into a deployment what its file has. So the file is first completed from the server:
each deployment is then changed by one call, and even a deploy that fails half way leaves none
without its exclusions or its pause.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate
from prefect.utilities.templating import PlaceholderType, apply_values, find_placeholders

from cli.client import RunError
from cmek.plain_text import shortened

_LONGEST: Final = 400
"""Characters of a refusal that are shown."""
_SCHEDULE: Final[dict[str, Any]] = {
    "cron": None,
    "interval": None,
    "rrule": None,
    "day_or": True,
    "timezone": "UTC",
    "active": True,
    "parameters": {},
}
"""What a team can change of a schedule, with the value where the file has none."""
_DEFAULT_QUEUE: Final = "default"


@dataclass(frozen=True)
class Setting:
    """A setting in which server and file differed, and which of them was followed."""

    deployment: str
    name: str
    value: Any
    """What holds now."""
    other: Any
    """What the file has, if the server's was kept; else what the server had. None: nothing."""
    kept: bool

    def __str__(self) -> str:
        """One line for people."""
        other = "none" if self.other is None else json.dumps(self.other)
        what = f"{self.deployment}: {self.name} = {json.dumps(self.value)}"
        return f"Kept {what}; the file has {other}" if self.kept else f"Set {what}; it had {other}"

    def row(self) -> dict[str, Any]:
        """The same for programs."""
        return asdict(self)


def load_flow(deployment: Mapping[str, Any]) -> Flow[..., Any]:
    """The flow of one of the file's deployments.

    Raises:
        RunError: It can't be imported.
    """
    entrypoint = deployment.get("entrypoint")
    try:
        return load_flow_from_entrypoint(str(entrypoint))
    except Exception as error:
        raise RunError(
            f"the flow {entrypoint!r} can't be imported ({type(error).__name__}: {error}), so its "
            f"deployment {deployment.get('name')!r} can't be made"
        ) from error


def keep_decisions(
    client: SyncPrefectClient, content: dict[str, Any], *, keep_pools: bool
) -> list[Setting]:
    """Complete the file's deployments from those of the same names on the server.

    Parameters, schedules, the pause, which triggers are on and, where `keep_pools`, pool and queue
    are the server's. A parameter that the file takes from a variable of the environment is given
    now: it is the file's.

    Returns:
        In what the two differed.

    Raises:
        RunError: A stored parameter is not accepted any more, or can't be written into the file.
    """
    settings: list[Setting] = []
    faults: list[str] = []
    for deployment in content["deployments"]:
        flow = load_flow(deployment)
        name = f"{flow.name}/{deployment['name']}"
        try:
            stored = client.read_deployment_by_name(name)
        except ObjectNotFound:
            continue
        own = _own(stored.parameters or {}, deployment.get("parameters") or {})
        settings += _keep_parameters(name, deployment, stored, own)
        settings += _keep_schedules(name, deployment, stored)
        settings += _keep_pause(name, deployment, stored)
        settings += _keep_triggers(client, name, deployment, stored)
        settings += _keep_pool(name, deployment, stored, keep=keep_pools)
        written = [
            one.parameters
            for one in stored.schedules
            if _as_in_file(one) in deployment.get("schedules", ())
        ]
        found = [*_schema_faults(flow, own), *_template_faults([own, *written])]
        faults += [f"{name}: {fault}" for fault in found]
    if faults:
        raise RunError(
            f"parameters on the server can't be kept: {'; '.join(faults)}. Change or remove them in"
            " the deployment (UI: Deployments, Edit), then deploy again; nothing was deployed"
        )
    return settings


def _own(stored: Mapping[str, Any], of_file: Mapping[str, Any]) -> dict[str, Any]:
    """What is stored, without what is given now."""
    return {
        name: _own(value, of_file[name])
        if isinstance(value, dict) and isinstance(of_file.get(name), dict)
        else value
        for name, value in stored.items()
        if not _is_given(of_file.get(name))
    }


def _is_given(in_file: object) -> bool:
    """Whether the file takes this value from the environment, and all its variables are set."""
    found = find_placeholders(in_file) if isinstance(in_file, str) else set()
    return bool(found) and all(
        one.type is PlaceholderType.ENV_VAR and os.environ.get(one.name.removeprefix("$"))
        for one in found
    )


def _over(of_file: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The file's values, and over them those of the server."""
    return {**of_file} | {
        name: _over(of_file[name], value)
        if isinstance(value, dict) and isinstance(of_file.get(name), dict)
        else value
        for name, value in own.items()
    }


def _schema_faults(flow: Flow[..., Any], own: dict[str, Any]) -> Iterator[str]:
    """Why the server would refuse the parameters of its own deployment with the new schema."""
    schema: dict[str, Any] = dict(parameter_schema(flow).model_dump(exclude_unset=True))
    closed = schema | {"additionalProperties": False}
    for error in validate(own, closed, ignore_required=True):
        path = ".".join(map(str, error.absolute_path)) or "parameters"
        yield f"{path} is not accepted ({shortened(error.message, _LONGEST)})"


def _template_faults(stored: list[Any]) -> Iterator[str]:
    # Prefect fills in templates from this shell's environment and from blocks, so whoever can
    # change a parameter could have the operator's secrets written into it.
    for one in sorted(one.full_match for one in find_placeholders(stored)):
        yield f"a deploy would fill in {shortened(one, _LONGEST)}"
    if '"$ref"' in json.dumps(stored):
        yield "a deploy would fill in what $ref names"


def _keep_parameters(
    name: str, deployment: dict[str, Any], stored: DeploymentResponse, own: dict[str, Any]
) -> list[Setting]:
    of_file = deployment.get("parameters") or {}
    deployment["parameters"] = merged = _over(of_file, own)
    before, file, now = _flat(stored.parameters or {}), _filled(of_file), _filled(merged)
    changed = [
        Setting(name, path, value, before.get(path), kept=False)
        for path, value in now.items()
        if before.get(path) != value
    ]
    return changed + [
        Setting(name, path, value, file.get(path), kept=True)
        for path, value in now.items()
        if before.get(path) == value != file.get(path)
    ]


def _filled(values: dict[str, Any]) -> dict[str, Any]:
    """Each value by its path, as Prefect fills it in; a variable that is not set gives none."""
    filled = _flat(apply_values(values, {}))
    return {path: value for path, value in filled.items() if value != ""}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Each value by its path, such as `request.opt_in`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        inner = isinstance(value, dict) and value
        flat |= _flat(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return flat


def _keep_schedules(
    name: str, deployment: dict[str, Any], stored: DeploymentResponse
) -> list[Setting]:
    of_file = {one.get("slug"): one for one in deployment.pop("schedules", None) or []}
    there = {one.slug: _as_in_file(one) for one in stored.schedules}
    missing = {slug: one for slug, one in of_file.items() if slug not in there}
    if missing:
        # Prefect leaves alone what it is not given, unless one has no slug: then it replaces all.
        kept = map(_as_in_file, stored.schedules) if None in there else ()
        deployment["schedules"] = [*kept, *missing.values()]
    settings = [
        Setting(name, f"schedule {slug}", _when(one), None, kept=slug in there)
        for slug, one in (there | missing).items()
        if slug in missing or slug not in of_file
    ]
    for slug, one in there.items():
        in_file = _SCHEDULE | of_file.get(slug, one)
        settings += [
            Setting(name, f"schedule {slug}: {key}", one[key], in_file[key], kept=True)
            for key in _SCHEDULE
            if one[key] != in_file[key]
        ]
    return settings


def _when(schedule: Mapping[str, Any]) -> object:
    return schedule.get("cron") or schedule.get("rrule") or schedule.get("interval")


def _as_in_file(one: DeploymentSchedule) -> dict[str, Any]:
    """A schedule in the words of the file."""
    ours = one.model_dump(mode="json", include={"active", "parameters", "slug"})
    theirs = one.schedule.model_dump(mode="json", exclude_none=True)
    if isinstance(one.schedule, IntervalSchedule):
        theirs["interval"] = one.schedule.interval.total_seconds()
    return _SCHEDULE | ours | theirs


def _keep_pause(name: str, deployment: dict[str, Any], stored: DeploymentResponse) -> list[Setting]:
    in_file = bool(deployment.get("paused"))
    deployment["paused"] = stored.paused
    if stored.paused == in_file:
        return []
    return [Setting(name, "paused", stored.paused, in_file, kept=True)]


def _keep_triggers(
    client: SyncPrefectClient, name: str, deployment: dict[str, Any], stored: DeploymentResponse
) -> list[Setting]:
    """Prefect makes the automations of a deployment's triggers anew, each as the file has it."""
    of_file = deployment.get("triggers") or []
    there = triggers_of(client, stored) if of_file else {}
    settings = []
    for trigger in of_file:
        in_file = bool(trigger.get("enabled", True))
        enabled = there.get(trigger["name"], in_file)
        trigger["enabled"] = enabled
        if enabled != in_file:
            what = f"trigger {trigger['name']}: enabled"
            settings.append(Setting(name, what, enabled, in_file, kept=True))
    return settings


def triggers_of(client: SyncPrefectClient, deployment: DeploymentResponse) -> dict[str, bool]:
    """Which of the triggers of a deployment are on, by their names."""
    found = client.read_resource_related_automations(f"prefect.deployment.{deployment.id}")
    return {one.name: one.enabled for one in found}


def _keep_pool(
    name: str, deployment: dict[str, Any], stored: DeploymentResponse, *, keep: bool
) -> list[Setting]:
    pool = deployment["work_pool"]
    in_file = f"{pool['name']}/{pool.get('work_queue_name') or _DEFAULT_QUEUE}"
    there = f"{stored.work_pool_name}/{stored.work_queue_name}"
    if not (stored.work_pool_name and stored.work_queue_name) or there == in_file:
        return []
    if not keep:
        return [Setting(name, "work pool and queue", in_file, there, kept=False)]
    own = {"name": stored.work_pool_name, "work_queue_name": stored.work_queue_name}
    deployment["work_pool"] = pool | own
    return [Setting(name, "work pool and queue", there, in_file, kept=True)]
