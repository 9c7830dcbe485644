"""The calls of Prefect's API that flows and their tests make, answered from memory."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from unittest.mock import patch
from uuid import uuid4

import httpx
import prefect
from prefect.blocks.core import Block
from prefect.utilities.schema_tools import (
    HydrationContext,
    HydrationError,
    ValidationError,
    hydrate,
    validate,
)
from prefect.utilities.schema_tools.validation import _VALIDATOR

from tests.support.prefect_state import (
    Json,
    MemoryPrefect,
    RefusedCallError,
    Text,
    aborted,
    fits,
    new_record,
    now,
    page,
    rejected,
    time_of,
)

_EVER: Final = "2000-01-01T00:00:00Z"


def answer(api: MemoryPrefect, request: httpx.Request) -> httpx.Response:
    """The response to a request of a client."""
    path = request.url.path.removeprefix("/api")
    body = json.loads(request.content) if request.content else dict(request.url.params)
    call, names = _find(request.method, path)
    try:
        with api.lock:
            result = call(api, body, **names)
    except RefusedCallError as error:
        later = {"Retry-After": "1"} if error.status == httpx.codes.LOCKED else {}
        return httpx.Response(
            error.status, json={"detail": str(error)}, headers=later, request=request
        )
    if isinstance(result, Text):
        return httpx.Response(200, text=result, request=request)
    if result is None:
        return httpx.Response(204, request=request)
    return httpx.Response(200, json=result, request=request)


def _validate(given: Json, schema: Json) -> None:
    """Validate as the server does, but check each schema itself only once, since that is slow."""
    text = json.dumps(schema, sort_keys=True)
    with patch.object(_VALIDATOR, "check_schema") if text in _WELL_FORMED else nullcontext():
        validate(given, schema, raise_on_error=True)
    _WELL_FORMED.add(text)


_WELL_FORMED: Final[set[str]] = set()
Call = Callable[..., Any]
_ROUTES: Final[list[tuple[str, re.Pattern[str], Call]]] = []


def _find(method: str, path: str) -> tuple[Call, dict[str, str]]:
    for known, pattern, call in _ROUTES:
        found = pattern.fullmatch(path) if known == method else None
        if found:
            return call, found.groupdict()
    raise AssertionError(f"not in memory: {method} {path}")


def _route(method: str, path: str) -> Callable[[Call], Call]:
    pattern = re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", path) + "/?")

    def register(call: Call) -> Call:
        _ROUTES.append((method, pattern, call))
        return call

    return register


@_route("GET", "/admin/version")
def _version(api: MemoryPrefect, body: Json) -> Any:
    return prefect.__version__


@_route("GET", "/admin/storage")
def _storage(api: MemoryPrefect, body: Json) -> Json:
    return {"default_result_storage_block_id": None}


# flows and deployments


@_route("POST", "/flows")
def _create_flow(api: MemoryPrefect, body: Json) -> Json:
    known = next((one for one in api.flows.values() if one["name"] == body["name"]), None)
    flow = known or new_record(name=body["name"], tags=[], labels={})
    return api.flows.setdefault(flow["id"], flow)


@_route("GET", "/flows/{id}")
def _read_flow(api: MemoryPrefect, body: Json, id: str) -> Json:  # noqa: A002 - as in the path
    return api.find(api.flows, id)


@_route("POST", "/deployments")
def _create_deployment(api: MemoryPrefect, body: Json) -> Json:
    key = (body["flow_id"], body["name"])
    known = (one for one in api.deployments.values() if (one["flow_id"], one["name"]) == key)
    made = next(known, None) or new_record(parameters={}, tags=[], labels={}, schedules=[])
    made |= {name: value for name, value in body.items() if name not in {"schedules", "labels"}}
    return api.deployments.setdefault(made["id"], made)


@_route("PATCH", "/deployments/{id}")
def _update_deployment(api: MemoryPrefect, body: Json, id: str) -> None:  # noqa: A002
    api.find(api.deployments, id).update(body)


@_route("GET", "/deployments/{id}")
def _read_deployment(api: MemoryPrefect, body: Json, id: str) -> Json:  # noqa: A002
    return api.find(api.deployments, id)


@_route("GET", "/deployments/name/{flow}/{name}")
def _read_deployment_by_name(api: MemoryPrefect, body: Json, flow: str, name: str) -> Json:
    for one in api.deployments.values():
        if one["name"] == name and api.flows[one["flow_id"]]["name"] == flow:
            return one
    raise RefusedCallError(404, "Deployment not found")


@_route("POST", "/deployments/filter")
def _filter_deployments(api: MemoryPrefect, body: Json) -> list[Json]:
    fitting = [one for one in api.deployments.values() if fits(one, body.get("deployments"))]
    return page(fitting, body)


@_route("DELETE", "/deployments/{id}")
def _delete_deployment(api: MemoryPrefect, body: Json, id: str) -> None:  # noqa: A002
    del api.deployments[api.find(api.deployments, id)["id"]]


@_route("POST", "/deployments/{id}/create_flow_run")
def _create_run_of_deployment(api: MemoryPrefect, body: Json, id: str) -> Json:  # noqa: A002
    deployment = api.find(api.deployments, id)
    key = body.get("idempotency_key")
    # an idempotency key belongs to the flow, not to the deployment
    for run in api.runs.values():
        if key and (run["idempotency_key"], run["flow_id"]) == (key, deployment["flow_id"]):
            return run
    context = HydrationContext(render_jinja=True, raise_on_error=True)
    parameters = hydrate(deployment["parameters"] | (body.get("parameters") or {}), context)
    try:
        _validate(parameters, deployment["parameter_openapi_schema"])
    except ValidationError as error:
        raise RefusedCallError(409, f"Error creating flow run: {error}") from error
    fields = body | {
        "flow_id": deployment["flow_id"],
        "parameters": parameters,
        "tags": {*deployment["tags"], *(body.get("tags") or [])},
    }
    scheduled = {"type": "SCHEDULED", "state_details": {"scheduled_time": now()}}
    state = body.get("state") or scheduled
    state["state_details"] = state.get("state_details") or {}
    return api.make_run(fields, deployment_id=id, state=state)


# runs


@_route("POST", "/flow_runs")
def _create_run(api: MemoryPrefect, body: Json) -> Json:
    return api.make_run(body, deployment_id=body.get("deployment_id"), state=body["state"])


@_route("GET", "/flow_runs/{id}")
def _read_run(api: MemoryPrefect, body: Json, id: str) -> Json:  # noqa: A002
    return api.find(api.runs, id)


@_route("PATCH", "/flow_runs/{id}")
def _update_run(api: MemoryPrefect, body: Json, id: str) -> None:  # noqa: A002
    api.find(api.runs, id).update(body)


@_route("PATCH", "/flow_runs/{id}/labels")
def _label_run(api: MemoryPrefect, body: Json, id: str) -> None:  # noqa: A002
    run = api.find(api.runs, id)
    run["labels"] = run["labels"] | body


@_route("DELETE", "/flow_runs/{id}")
def _delete_run(api: MemoryPrefect, body: Json, id: str) -> None:  # noqa: A002
    del api.runs[api.find(api.runs, id)["id"]]


@_route("POST", "/task_runs/filter")
def _filter_task_runs(api: MemoryPrefect, body: Json) -> list[Json]:
    return []  # tasks are called as plain functions


@_route("POST", "/flow_runs/filter")
def _filter_runs(api: MemoryPrefect, body: Json) -> list[Json]:
    return page([one for one in api.runs.values() if _run_fits(api, one, body)], body)


@_route("POST", "/flow_runs/count")
def _count_runs(api: MemoryPrefect, body: Json) -> int:
    return sum(_run_fits(api, one, body) for one in api.runs.values())


def _run_fits(api: MemoryPrefect, run: Json, body: Json) -> bool:
    deployment = api.deployments.get(run["deployment_id"], {"id": None, "name": None})
    return (
        fits(run, body.get("flow_runs"))
        and fits(api.flows[run["flow_id"]], body.get("flows"))
        and fits(deployment, body.get("deployments"))
    )


@_route("POST", "/flow_runs/{id}/set_state")
def _set_state(api: MemoryPrefect, body: Json, id: str) -> Json:  # noqa: A002
    return api.set_state(api.find(api.runs, id), body["state"], force=bool(body.get("force")))


@_route("POST", "/flow_runs/{id}/resume")
def _resume(api: MemoryPrefect, body: Json, id: str) -> Json:  # noqa: A002
    """The response is hydrated and validated by the form, as on the server."""
    run = api.find(api.runs, id)
    state, given = run["state"], body.get("run_input") or {}
    if state["type"] != "PAUSED":
        return aborted("Cannot resume a flow run that is not paused.")
    keyset = state["state_details"].get("run_input_keyset")
    if keyset:
        form = api.inputs.get((id, keyset["schema"]))
        if form is None:
            return rejected(state, "Run input schema not found.")
        context = HydrationContext(render_jinja=True, raise_on_error=True)
        try:
            given = hydrate(given, context) or {}
            _validate(given, json.loads(form))
        except HydrationError as error:
            return rejected(state, f"Error hydrating run input: {error}")
        except ValidationError as error:
            return rejected(state, f"Reason: {error}")
    scheduled = {"type": "SCHEDULED", "name": "Resuming"}
    result = api.set_state(run, scheduled | {"state_details": {"scheduled_time": now()}})
    if keyset and given and result["status"] == "ACCEPT":
        api.inputs[id, keyset["response"]] = json.dumps(given)
    return result


@_route("GET", "/flow_run_states")
def _read_states(api: MemoryPrefect, body: Json) -> list[Json]:
    return api.states[body["flow_run_id"]]


@_route("POST", "/flow_runs/{id}/input")
def _create_input(api: MemoryPrefect, body: Json, id: str) -> None:  # noqa: A002
    if (id, body["key"]) in api.inputs:
        raise RefusedCallError(409, "A flow run input with this key already exists.")
    api.inputs[id, body["key"]] = body["value"]


@_route("POST", "/flow_runs/{id}/input/filter")
def _filter_inputs(api: MemoryPrefect, body: Json, id: str) -> list[Json]:  # noqa: A002
    found = [
        new_record(flow_run_id=id, key=key, value=value)
        for (run, key), value in api.inputs.items()
        if run == id and key.startswith(body["prefix"]) and key not in body["exclude_keys"]
    ]
    return found[: body["limit"]]


@_route("GET", "/flow_runs/{id}/input/{key}")
def _read_input(api: MemoryPrefect, body: Json, id: str, key: str) -> Text:  # noqa: A002
    if (id, key) not in api.inputs:
        raise RefusedCallError(404, "Flow run input not found")
    return Text(api.inputs[id, key])


@_route("DELETE", "/flow_runs/{id}/input/{key}")
def _delete_input(api: MemoryPrefect, body: Json, id: str, key: str) -> None:  # noqa: A002
    if api.inputs.pop((id, key), None) is None:
        raise RefusedCallError(404, "Flow run input not found")


# artifacts


@_route("POST", "/artifacts")
def _create_artifact(api: MemoryPrefect, body: Json) -> Json:
    empty = dict.fromkeys(("key", "type", "description", "data", "flow_run_id", "task_run_id"))
    made = new_record(metadata_=None) | empty | body
    api.artifacts[made["id"]] = made
    return made


@_route("PATCH", "/artifacts/{id}")
def _update_artifact(api: MemoryPrefect, body: Json, id: str) -> None:  # noqa: A002
    api.find(api.artifacts, id).update(body, updated=now())


@_route("DELETE", "/artifacts/{id}")
def _delete_artifact(api: MemoryPrefect, body: Json, id: str) -> None:  # noqa: A002
    del api.artifacts[api.find(api.artifacts, id)["id"]]


@_route("POST", "/artifacts/filter")
def _filter_artifacts(api: MemoryPrefect, body: Json) -> list[Json]:
    newest_first = reversed(api.artifacts.values())
    return page([one for one in newest_first if fits(one, body.get("artifacts"))], body)


@_route("POST", "/artifacts/latest/filter")
def _filter_latest(api: MemoryPrefect, body: Json) -> list[Json]:
    return page([one for one in api.latest() if fits(one, body.get("artifacts"))], body)


@_route("GET", "/artifacts/{key}/latest")
def _read_latest(api: MemoryPrefect, body: Json, key: str) -> Json:
    return api.find({one["key"]: one for one in api.latest()}, key)


# blocks


@_route("GET", "/block_types/slug/{slug}")
def _read_block_type(api: MemoryPrefect, body: Json, slug: str) -> Json:
    return api.find(api.block_types, slug)


@_route("POST", "/block_types")
def _create_block_type(api: MemoryPrefect, body: Json) -> Json:
    return api.block_types.setdefault(body["slug"], new_record(**body))


@_route("PATCH", "/block_types/{id}")
def _update_block_type(api: MemoryPrefect, body: Json, id: str) -> None:  # noqa: A002
    next(one for one in api.block_types.values() if one["id"] == id).update(body)


@_route("GET", "/block_schemas/checksum/{checksum}")
def _read_block_schema(api: MemoryPrefect, body: Json, checksum: str) -> Json:
    return api.find(api.block_schemas, checksum)


@_route("POST", "/block_schemas")
def _create_block_schema(api: MemoryPrefect, body: Json) -> Json:
    checksum = Block._calculate_schema_checksum(body["fields"])
    kind = next(one for one in api.block_types.values() if one["id"] == body["block_type_id"])
    made = new_record(**body, checksum=checksum, block_type=kind)
    return api.block_schemas.setdefault(checksum, made)


@_route("POST", "/block_documents")
def _create_block(api: MemoryPrefect, body: Json) -> Json:
    schema = next(s for s in api.block_schemas.values() if s["id"] == body["block_schema_id"])
    kind = schema["block_type"]
    for one in api.blocks.values():
        if (one["name"], one["block_type_id"]) == (body["name"], kind["id"]):
            raise RefusedCallError(409, "Block already exists")
    made = new_record(**body, block_schema=schema, block_type=kind, block_type_name=kind["name"])
    return api.blocks.setdefault(made["id"], made)


@_route("PATCH", "/block_documents/{id}")
def _update_block(api: MemoryPrefect, body: Json, id: str) -> None:  # noqa: A002
    block = api.find(api.blocks, id)
    kept = block["data"] if body.get("merge_existing_data", True) else {}
    block["data"] = kept | body["data"]


@_route("GET", "/block_documents/{id}")
def _read_block_by_id(api: MemoryPrefect, body: Json, id: str) -> Json:  # noqa: A002
    return _with_nested(api, api.find(api.blocks, id))


@_route("DELETE", "/block_documents/{id}")
def _delete_block(api: MemoryPrefect, body: Json, id: str) -> None:  # noqa: A002
    del api.blocks[api.find(api.blocks, id)["id"]]


@_route("GET", "/block_types/slug/{slug}/block_documents/name/{name}")
def _read_block(api: MemoryPrefect, body: Json, slug: str, name: str) -> Json:
    for one in api.blocks.values():
        if (one["name"], one["block_type"]["slug"]) == (name, slug):
            return _with_nested(api, one)
    raise RefusedCallError(404, "Block document not found")


def _with_nested(api: MemoryPrefect, block: Json) -> Json:
    """The block, with each reference to another block replaced by that block's data."""
    data, references = dict(block["data"]), {}
    for name, value in data.items():
        if isinstance(value, dict) and "$ref" in value:
            nested = api.find(api.blocks, value["$ref"]["block_document_id"])
            data[name], references[name] = nested["data"], {"block_document": nested}
    return block | {"data": data, "block_document_references": references}


# concurrency limits


@_route("GET", "/v2/concurrency_limits/{name}")
def _read_limit(api: MemoryPrefect, body: Json, name: str) -> Json:
    return api.find(api.limits, name)


@_route("POST", "/v2/concurrency_limits")
def _create_limit(api: MemoryPrefect, body: Json) -> Json:
    if body["name"] in api.limits:
        raise RefusedCallError(409, "Concurrency limit already exists")
    return api.limits.setdefault(body["name"], new_record(active=True, active_slots=0, **body))


@_route("DELETE", "/v2/concurrency_limits/{name}")
def _delete_limit(api: MemoryPrefect, body: Json, name: str) -> None:
    del api.limits[api.find(api.limits, name)["name"]]


@_route("POST", "/v2/concurrency_limits/increment-with-lease")
def _take_slots(api: MemoryPrefect, body: Json) -> Json:
    now = datetime.now(UTC)
    api.leases = {lease: held for lease, held in api.leases.items() if held[1] > now}
    taken = [name for names, _ in api.leases.values() for name in names]
    limits = [api.limits[name] for name in body["names"] if name in api.limits]
    for limit in limits:
        if taken.count(limit["name"]) + body["slots"] > limit["limit"]:
            raise RefusedCallError(423, "no slot is free")
    until = now + timedelta(seconds=body["lease_duration"])
    lease = str(uuid4())
    api.leases[lease] = [limit["name"] for limit in limits] * body["slots"], until
    return {"lease_id": lease, "limits": limits}


@_route("POST", "/v2/concurrency_limits/leases/{lease}/renew")
def _renew(api: MemoryPrefect, body: Json, lease: str) -> None:
    if lease not in api.leases:
        raise RefusedCallError(410, "Lease not found")
    until = datetime.now(UTC) + timedelta(seconds=body["lease_duration"])
    api.leases[lease] = api.leases[lease][0], until


@_route("POST", "/v2/concurrency_limits/decrement-with-lease")
def _give_slots_back(api: MemoryPrefect, body: Json) -> None:
    api.leases.pop(body["lease_id"], None)


# events


@_route("POST", "/events")
def _take_events(api: MemoryPrefect, body: Any) -> None:
    for event in body:  # an id is stored once
        api.events.setdefault(event["id"], event | {"received": now()})


@_route("POST", "/events/filter")
def _filter_events(api: MemoryPrefect, body: Json) -> Json:
    wanted = body["filter"]
    resource, names = wanted["resource"], (wanted.get("event") or {}).get("name")
    # as on the server: the resource's id is one of its labels
    labels = {"prefect.resource.id": resource["id"]} if "id" in resource else resource["labels"]
    since = (wanted.get("occurred") or {}).get("since") or _EVER
    found = [
        one
        for one in api.events.values()
        if all(one["resource"].get(name) in values for name, values in labels.items())
        and one["event"] in (names or [one["event"]])
        and time_of(one["occurred"]) >= time_of(since)
    ]
    found.sort(key=lambda one: time_of(one["occurred"]), reverse=wanted.get("order") != "ASC")
    return {"events": found[: body.get("limit") or 50], "total": len(found), "next_page": None}


@_route("DELETE", "/automations/owned-by/{resource}")
def _no_automations(api: MemoryPrefect, body: Json, resource: str) -> None:
    """There are none."""
