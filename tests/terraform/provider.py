"""A stand-in for the provider hashicorp/google, so that the real terraform runs without a network.

It speaks the plugin protocol (version 5) over plain gRPC, which terraform accepts from a provider
that TF_REATTACH_PROVIDERS names, and reads the sandbox. It proves our configuration against our
transcription of the documented arguments, not against Google's provider.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

from tests.terraform.live import LiveState, State
from tests.terraform.messages import MESSAGES, METHODS, SERVICE
from tests.terraform.msgpack import UNKNOWN, pack, unpack
from tests.terraform.schemas import PROVIDER, RESOURCES, Resource


class StandIn:
    """The protocol's methods."""

    def __init__(self, live: LiveState) -> None:
        self._live = live

    def schema(self, _: Any) -> Any:
        """What the provider and each resource accept."""
        return MESSAGES["SchemaResponse"](
            provider=PROVIDER.message(),
            resource_schemas={name: one.message() for name, one in RESOURCES.items()},
        )

    def prepare(self, request: Any) -> Any:
        """Return the provider's own configuration unchanged."""
        return MESSAGES["PrepareResponse"](prepared_config=request.config)

    def upgrade(self, request: Any) -> Any:
        """Return the state as it is: this version wrote it."""
        return MESSAGES["UpgradeResponse"](
            upgraded_state=_dynamic(json.loads(request.raw_state.json))
        )

    def read(self, request: Any) -> Any:
        """Refresh the state of a resource."""
        state = self._live.read(request.type_name, unpack(request.current_state.msgpack))
        return MESSAGES["ReadResponse"](new_state=_dynamic(state))

    def import_(self, request: Any) -> Any:
        """Return a state with only the id; terraform refreshes it next."""
        resource = RESOURCES[request.type_name]
        state = _empty(resource) | {"id": request.id}
        imported = MESSAGES["ImportedResource"](type_name=request.type_name, state=_dynamic(state))
        return MESSAGES["ImportResponse"](imported_resources=[imported])

    def plan(self, request: Any) -> Any:
        """Return Terraform's proposal, with unknown values, and what forces a replacement."""
        resource = RESOURCES[request.type_name]
        before, planned = (
            unpack(request.prior_state.msgpack),
            unpack(request.proposed_new_state.msgpack),
        )
        if planned is None:
            return MESSAGES["PlanResponse"](planned_state=_dynamic(None))
        if before is None:
            planned = _with_unknowns(resource, planned)
        elif "effective_labels" in planned:
            planned |= _labels(before, planned)
        return MESSAGES["PlanResponse"](
            planned_state=_dynamic(planned),
            requires_replace=[_path(name) for name in _replacing(resource, before, planned)],
        )

    def apply(self, request: Any) -> Any:
        """Apply only what the tests need: an update of a key, a new grant."""
        before, planned = unpack(request.prior_state.msgpack), unpack(request.planned_state.msgpack)
        if request.type_name == "google_kms_crypto_key" and before and planned:
            state = self._live.update_key(before, planned)
        elif request.type_name == "google_kms_crypto_key_iam_member" and planned and not before:
            state = self._live.add_member(planned)
        else:
            raise NotImplementedError(f"the stand-in does not apply this to {request.type_name}")
        return MESSAGES["ApplyResponse"](new_state=_dynamic(state))


@contextmanager
def stand_in(sandbox_url: str, *, labels_on_import: bool = True) -> Iterator[str]:
    """Serve the stand-in; yields the value for TF_REATTACH_PROVIDERS.

    Args:
        sandbox_url: Base URL of the sandbox.
        labels_on_import: Whether an import takes a key's labels into the state. Version 5 and
            later of the true provider does not: it manages only labels that it knows, and after
            an import it knows none.
    """
    live = LiveState(sandbox_url, labels_on_import=labels_on_import)
    service = StandIn(live)
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    handlers = {
        method: _handler(prefix, getattr(service, _ATTRIBUTES.get(prefix, prefix.lower()), None))
        for method, prefix in METHODS.items()
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    address = {"Network": "tcp", "String": f"127.0.0.1:{port}"}
    attach = {"Protocol": "grpc", "ProtocolVersion": 5, "Pid": os.getpid(), "Test": True}
    try:
        yield json.dumps({"hashicorp/google": attach | {"Addr": address}})
    finally:
        server.stop(0).wait()
        live.close()


_ATTRIBUTES = {"Import": "import_"}


def _handler(prefix: str, method: Callable[[Any], Any] | None) -> grpc.RpcMethodHandler:
    response = MESSAGES[f"{prefix}Response"]

    def serve(request: Any, _: grpc.ServicerContext) -> Any:
        try:
            return method(request) if method else response()
        except Exception as error:  # noqa: BLE001 - whatever it is, terraform shows it
            shown = MESSAGES["Diagnostic"](severity=1, summary=f"{type(error).__name__}: {error}")
            return response(diagnostics=[shown])

    return grpc.unary_unary_rpc_method_handler(
        serve, MESSAGES[f"{prefix}Request"].FromString, response.SerializeToString
    )


def _dynamic(value: Any) -> Any:
    return MESSAGES["DynamicValue"](msgpack=pack(value))


def _empty(resource: Resource) -> State:
    return dict.fromkeys(resource.attributes) | {name: [] for name in resource.blocks}


def _with_unknowns(resource: Resource, planned: State) -> State:
    filled: State = {name: UNKNOWN for name in resource.computed if planned[name] is None}
    for name, (inner, _) in resource.blocks.items():
        filled[name] = [_with_unknowns(inner, one) for one in planned[name]]
    return planned | filled


def _labels(before: State, planned: State) -> State:
    """Labels that the configuration never named stay; one that it no longer names is removed."""
    wanted = planned["labels"] or {}
    dropped = set(before["terraform_labels"] or {}) - set(wanted)
    kept = {k: v for k, v in (before["effective_labels"] or {}).items() if k not in dropped}
    return {"terraform_labels": wanted, "effective_labels": kept | wanted}


def _replacing(resource: Resource, before: State | None, planned: State) -> list[str]:
    if before is None:
        return []
    changed = [name for name in resource.replacing if before[name] != planned[name]]
    for name, (inner, _) in resource.blocks.items():
        pairs = zip(before[name], planned[name], strict=False)
        if any(_replacing(inner, one, other) for one, other in pairs):
            changed.append(name)
    return changed


def _path(name: str) -> Any:
    return MESSAGES["AttributePath"](steps=[MESSAGES["Step"](attribute_name=name)])
