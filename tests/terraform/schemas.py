"""Schemas of the six resources, transcribed from the documented arguments of hashicorp/google.

An attribute is `type flags`: r required, o optional, c computed; `!` forces a replacement.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from tests.terraform.messages import MESSAGES


@dataclass(frozen=True)
class Resource:
    """Attributes and nested list blocks of a resource or of a block."""

    attributes: dict[str, str]
    blocks: dict[str, tuple[Resource, int]] = field(default_factory=dict)
    """Block and how many there may be at most, 0 for any number."""

    @property
    def computed(self) -> list[str]:
        """Attributes that the provider fills in when the configuration does not."""
        return [name for name, spec in self.attributes.items() if "c" in spec.split()[1]]

    @property
    def replacing(self) -> list[str]:
        """Attributes whose change means destroy and create."""
        return [name for name, spec in self.attributes.items() if "!" in spec]

    def message(self) -> Any:
        """The resource as a protocol schema."""
        return MESSAGES["Schema"](block=self._block())

    def _block(self) -> Any:
        attributes = [
            MESSAGES["Attribute"](
                name=name,
                type=json.dumps(_TYPES[spec.split()[0]]).encode(),
                required="r" in spec.split()[1],
                optional="o" in spec.split()[1],
                computed="c" in spec.split()[1],
            )
            for name, spec in self.attributes.items()
        ]
        blocks = [
            MESSAGES["NestedBlock"](type_name=name, block=inner._block(), nesting=2, max_items=most)
            for name, (inner, most) in self.blocks.items()
        ]
        return MESSAGES["Block"](attributes=attributes, block_types=blocks)


_TYPES: dict[str, Any] = {
    "string": "string",
    "bool": "bool",
    "strings": ["list", "string"],
    "labels": ["map", "string"],
    "primary": ["list", ["object", {"name": "string", "state": "string"}]],
}

PROVIDER = Resource({"project": "string o", "region": "string o"})

RESOURCES = {
    "google_kms_key_ring": Resource(
        {
            "id": "string oc",
            "name": "string r!",
            "location": "string r!",
            "project": "string oc!",
        }
    ),
    "google_kms_crypto_key": Resource(
        {
            "id": "string oc",
            "name": "string r!",
            "key_ring": "string r!",
            "purpose": "string o!",
            "rotation_period": "string o",
            "destroy_scheduled_duration": "string oc!",
            "import_only": "bool oc!",
            "crypto_key_backend": "string oc!",
            "skip_initial_version_creation": "bool o",
            "labels": "labels o",
            "effective_labels": "labels c",
            "terraform_labels": "labels c",
            "primary": "primary c",
        },
        {
            "version_template": (
                Resource({"algorithm": "string r", "protection_level": "string o!"}),
                1,
            )
        },
    ),
    "google_kms_crypto_key_iam_member": Resource(
        {
            "id": "string oc",
            "crypto_key_id": "string r!",
            "role": "string r!",
            "member": "string r!",
            "etag": "string c",
        },
        {
            "condition": (
                Resource(
                    {"title": "string r!", "expression": "string r!", "description": "string o!"}
                ),
                1,
            )
        },
    ),
    "google_project_service": Resource(
        {
            "id": "string oc",
            "project": "string oc!",
            "service": "string r!",
            "disable_on_destroy": "bool o",
            "disable_dependent_services": "bool o",
        }
    ),
    "google_project_iam_audit_config": Resource(
        {
            "id": "string oc",
            "project": "string r!",
            "service": "string r!",
            "etag": "string c",
        },
        {
            "audit_log_config": (
                Resource({"log_type": "string r", "exempted_members": "strings o"}),
                0,
            )
        },
    ),
    "google_monitoring_alert_policy": Resource(
        {
            "id": "string oc",
            "name": "string c",
            "project": "string oc!",
            "display_name": "string r",
            "combiner": "string r",
            "enabled": "bool o",
            "severity": "string o",
            "notification_channels": "strings o",
            "user_labels": "labels o",
        },
        {
            "conditions": (
                Resource(
                    {"name": "string c", "display_name": "string r"},
                    {
                        "condition_matched_log": (
                            Resource({"filter": "string r", "label_extractors": "labels o"}),
                            1,
                        )
                    },
                ),
                0,
            ),
            "alert_strategy": (
                Resource(
                    {"auto_close": "string o", "notification_prompts": "strings o"},
                    {"notification_rate_limit": (Resource({"period": "string o"}), 1)},
                ),
                1,
            ),
            "documentation": (
                Resource({"content": "string o", "mime_type": "string o", "subject": "string o"}),
                1,
            ),
        },
    ),
}
