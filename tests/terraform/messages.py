"""The messages of Terraform's plugin protocol, version 5, built at run time.

Only what the stand-in needs; names and field numbers are those of the public protocol.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PACKAGE = "tfplugin5"
_SCALARS = {"string": 9, "bytes": 12, "bool": 8, "int64": 3}

# message → field → (number, type); `*` means repeated, `map:` a map from string
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "DynamicValue": {"msgpack": (1, "bytes"), "json": (2, "bytes")},
    "Step": {"attribute_name": (1, "string")},
    "AttributePath": {"steps": (1, "*Step")},
    "Diagnostic": {"severity": (1, "int64"), "summary": (2, "string"), "detail": (3, "string")},
    "Attribute": {
        "name": (1, "string"),
        "type": (2, "bytes"),
        "required": (4, "bool"),
        "optional": (5, "bool"),
        "computed": (6, "bool"),
    },
    "NestedBlock": {
        "type_name": (1, "string"),
        "block": (2, "Block"),
        "nesting": (3, "int64"),
        "min_items": (4, "int64"),
        "max_items": (5, "int64"),
    },
    "Block": {
        "version": (1, "int64"),
        "attributes": (2, "*Attribute"),
        "block_types": (3, "*NestedBlock"),
    },
    "Schema": {"version": (1, "int64"), "block": (2, "Block")},
    "RawState": {"json": (1, "bytes")},
    "ImportedResource": {"type_name": (1, "string"), "state": (2, "DynamicValue")},
    "SchemaRequest": {},
    "SchemaResponse": {"provider": (1, "Schema"), "resource_schemas": (2, "map:Schema")},
    "PrepareRequest": {"config": (1, "DynamicValue")},
    "PrepareResponse": {"prepared_config": (1, "DynamicValue"), "diagnostics": (2, "*Diagnostic")},
    "ValidateRequest": {"type_name": (1, "string"), "config": (2, "DynamicValue")},
    "ValidateResponse": {"diagnostics": (1, "*Diagnostic")},
    "UpgradeRequest": {"type_name": (1, "string"), "raw_state": (3, "RawState")},
    "UpgradeResponse": {"upgraded_state": (1, "DynamicValue"), "diagnostics": (2, "*Diagnostic")},
    "ConfigureRequest": {"config": (2, "DynamicValue")},
    "ConfigureResponse": {"diagnostics": (1, "*Diagnostic")},
    "ReadRequest": {"type_name": (1, "string"), "current_state": (2, "DynamicValue")},
    "ReadResponse": {"new_state": (1, "DynamicValue"), "diagnostics": (2, "*Diagnostic")},
    "PlanRequest": {
        "type_name": (1, "string"),
        "prior_state": (2, "DynamicValue"),
        "proposed_new_state": (3, "DynamicValue"),
        "config": (4, "DynamicValue"),
    },
    "PlanResponse": {
        "planned_state": (1, "DynamicValue"),
        "requires_replace": (2, "*AttributePath"),
        "diagnostics": (4, "*Diagnostic"),
    },
    "ApplyRequest": {
        "type_name": (1, "string"),
        "prior_state": (2, "DynamicValue"),
        "planned_state": (3, "DynamicValue"),
        "config": (4, "DynamicValue"),
    },
    "ApplyResponse": {"new_state": (1, "DynamicValue"), "diagnostics": (3, "*Diagnostic")},
    "ImportRequest": {"type_name": (1, "string"), "id": (2, "string")},
    "ImportResponse": {
        "imported_resources": (1, "*ImportedResource"),
        "diagnostics": (2, "*Diagnostic"),
    },
    "StopRequest": {},
    "StopResponse": {"error": (1, "string")},
}


def _field(message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: str) -> None:
    field = message.field.add(name=name, number=number, label=1)
    if kind.startswith("map:"):
        entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        _field(entry, "key", 1, "string")
        _field(entry, "value", 2, kind.removeprefix("map:"))
        kind = f"*{message.name}.{entry.name}"
    if kind.startswith("*"):
        field.label, kind = 3, kind[1:]
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type, field.type_name = 11, f".{_PACKAGE}.{kind}"


def _build() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="cmek_test_plugin5.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            _field(message, field, number, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in _MESSAGES
    }


MESSAGES = _build()

SERVICE = f"{_PACKAGE}.Provider"
METHODS = {
    "GetSchema": "Schema",
    "PrepareProviderConfig": "Prepare",
    "ValidateResourceTypeConfig": "Validate",
    "UpgradeResourceState": "Upgrade",
    "Configure": "Configure",
    "ReadResource": "Read",
    "PlanResourceChange": "Plan",
    "ApplyResourceChange": "Apply",
    "ImportResourceState": "Import",
    "Stop": "Stop",
}
"""Method → prefix of its request's and response's name here."""
