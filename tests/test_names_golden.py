"""Stored and visible names are fixed; `tests/golden/names.json` holds them.

Waiting runs, records of evidence, signatures, automations and other programs carry these names.
After an intended change, `python -m tests.test_names_golden` writes the file again.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import yaml
from prefect.flows import Flow
from pydantic import BaseModel

from blocks.anthropic_admin import AnthropicAdmin
from blocks.google_kms import GoogleKms
from blocks.onboarding_policy import OnboardingPolicy
from cli.deploy import PROJECT
from cmek import tags
from cmek.discovery.request import EVENT, Announcement, DiscoveryRequest
from cmek.evidence.record import EvidenceEntry, Footer
from cmek.keys.verdicts import Health, KeyRecord
from cmek.names import in_use_label, organization_label
from cmek.onboarding.approval_request import ApprovalRequest, ApprovalResponse
from cmek.onboarding.gate import RefusalKind
from cmek.onboarding.plan import Plan
from cmek.onboarding.policy import PolicyModel
from cmek.onboarding.request import OnboardingForm
from cmek.outcomes import RunOutcome
from cmek.revalidation.request import RevalidationRequest
from cmek.signatures.statement import NAMESPACE, Statement
from gateway.journal import IntentOutcome, JournalEntry
from gateway.settings import GatewaySettings
from tasks.artifacts import page_key

GOLDEN: Final = PROJECT / "tests" / "golden" / "names.json"
BLOCKS: Final = (AnthropicAdmin, GoogleKms, OnboardingPolicy)
PACKAGES: Final = ("cmek", "blocks", "tasks", "flows")
"""The packages whose literals can become stored names."""
PARAMETERS: Final = (
    OnboardingForm,
    PolicyModel,
    RevalidationRequest,
    DiscoveryRequest,
    Announcement,
    GatewaySettings,
)
"""Data that other programs send: a field may be added, none may be renamed."""
RECORDS: Final = (
    Plan,
    ApprovalRequest,
    ApprovalResponse,
    Statement,
    EvidenceEntry,
    Footer,
    KeyRecord,
    JournalEntry,
)
"""Data that is stored and read again, perhaps by a later version."""
ENUMS: Final = (RunOutcome, RefusalKind, Health, IntentOutcome)
WORDING: Final = frozenset({"title", "description", "examples", "position"})
"""Parts of a JSON schema that are text for people, not names."""
PREFIXED: Final = re.compile(r"cmek[-:][^\s()\\]+")

CHANGED: Final = """
A stored or visible name changed (above: expected from tests/golden/names.json, then found).
Waiting runs, evidence, signatures, artifacts, automations and programs of users still carry the old
name, and will not be found, read or verified under the new one. Keep the old name. If the change is
meant, read both names, or write in CHANGELOG.md what has to be done at the upgrade, and then run
`python -m tests.test_names_golden`.
"""


def literals(calls: str) -> set[str]:
    """First arguments, or `kind=`, of calls of a function, where they are literals."""
    found = set()
    for node in _nodes():
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == calls:
            given = [*node.args[:1], *(one.value for one in node.keywords if one.arg == "kind")]
            found |= {one.value for one in given if isinstance(one, ast.Constant)}
    return {str(one) for one in found}


def prefixed() -> set[str]:
    """Every literal that begins with our prefix: tags, labels, artifact keys, record keys."""
    texts = set()
    for node in _nodes():
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.add(node.value)
        elif isinstance(node, ast.JoinedStr):
            parts = [one.value if isinstance(one, ast.Constant) else "…" for one in node.values]
            texts.add(re.sub("…+", "…", "".join(map(str, parts))))
    whole = {one for one in texts if PREFIXED.fullmatch(one)}
    # the constant beginning of a formatted name is a node of its own
    return {one for one in whole if not any(other.startswith(f"{one}…") for other in whole)}


def _nodes() -> Iterator[ast.AST]:
    for package in PACKAGES:
        for path in (PROJECT / package).rglob("*.py"):
            yield from ast.walk(ast.parse(path.read_text()))


def schema(model: type[BaseModel]) -> Any:
    """The model's JSON schema without the wording, which may change."""
    return _without_wording(model.model_json_schema())


def _without_wording(value: Any) -> Any:
    """The names of all fields stay, even of one that is called `title`."""
    if isinstance(value, list):
        return [_without_wording(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        key: {name: _without_wording(one) for name, one in inner.items()}
        if key in {"properties", "$defs"}
        else _without_wording(inner)
        for key, inner in value.items()
        if key not in WORDING and not (key == "then" and "'pattern'" in str(value.get("if")))
    }


def deployment_names() -> list[str]:
    """Every deployment as FLOW/NAME."""
    found = []
    for deployment in yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]:
        module, _, name = deployment["entrypoint"].partition(":")
        flow = getattr(importlib.import_module(module), name)
        assert isinstance(flow, Flow)
        found.append(f"{flow.name}/{deployment['name']}")
    return found


def automation_names() -> list[str]:
    """Names under which automations are installed, and by which they are found again."""
    files = sorted((PROJECT / "deploy" / "automations").glob("*.yaml"))
    return [yaml.safe_load(path.read_text())["name"] for path in files]


def values(enum: type[StrEnum]) -> list[str]:
    """The values, which are stored, not the members' names."""
    return sorted(one.value for one in enum)


def names() -> dict[str, Any]:
    """Everything that the golden file holds."""
    constants = {name: text for name, text in vars(tags).items() if name.isupper()}
    return {
        "deployments": sorted(deployment_names()),
        "automations": sorted(automation_names()),
        "block types": sorted(one.get_block_type_slug() for one in BLOCKS),
        "enumerations": {one.__name__: values(one) for one in ENUMS},
        "events": sorted({EVENT, *_event_literals()}),
        "evidence kinds": sorted(literals("Event")),
        "artifacts: cmek-KIND-…": sorted(
            literals("publish") | literals("artifact_key") | {_key_page()}
        ),
        "prefixed names": sorted(prefixed()),
        "tags": sorted({*constants.values(), tags.workspace_tag("…"), tags.claim_tag("…")}),
        "labels": [*organization_label("0" * 8 + "-0000" * 3 + "-" + "0" * 12), *in_use_label("")],
        "SSH namespace": NAMESPACE,
        "schemas": {one.__name__: schema(one) for one in (*PARAMETERS, *RECORDS)},
    }


def _key_page() -> str:
    return page_key("ekey").removeprefix("cmek-").partition("-")[0]


def _event_literals() -> set[str]:
    texts = {
        node.value
        for node in _nodes()
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return {one for one in texts if re.fullmatch(r"cmek(\.[a-z_]+)+", one)} - _modules()


def _modules() -> set[str]:
    """`cmek.terraform` is a package's name, not an event's."""
    paths = [path.with_suffix("").relative_to(PROJECT) for path in (PROJECT / "cmek").rglob("*")]
    return {".".join(path.parts) for path in paths}


def differences(expected: Any, found: Any, path: str = "") -> Iterator[str]:
    """One line for each place at which the two differ."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted({*expected, *found}):
            yield from differences(
                expected.get(key), found.get(key), f"{path} → {key}".lstrip(" →")
            )
    elif isinstance(expected, list) and isinstance(found, list):
        gone = [one for one in expected if one not in found]
        new = [one for one in found if one not in expected]
        if gone or new:
            yield f"{path}: gone {gone}, new {new}"
    elif expected != found:
        yield f"{path}: {expected!r}, then {found!r}"


def text(content: dict[str, Any]) -> str:
    """The file's text; sorted, so that the order of declarations does not matter."""
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def test_no_stored_or_visible_name_has_changed() -> None:
    """Schemas, states, tags, labels, events, keys and addresses are the same as in the file."""
    found = json.loads(text(names()))
    changed = list(differences(json.loads(GOLDEN.read_text()), found))
    assert not changed, "\n".join([*changed, CHANGED])


def test_a_renamed_field_a_lost_value_and_a_new_one_are_found() -> None:
    """The comparison finds each of them; wording alone is not a difference."""
    expected = {"schemas": {"Plan": schema(Plan)}, "events": ["a", "b"]}
    renamed = json.loads(text(expected).replace('"key_name"', '"key"'))
    assert [one.partition(":")[0] for one in differences(expected, renamed)] == [
        "schemas → Plan → properties → key",
        "schemas → Plan → properties → key_name",
        "schemas → Plan → required",
    ]
    assert list(differences({"events": ["a", "b"]}, {"events": ["b", "c"]})) == [
        "events: gone ['a'], new ['c']"
    ]
    assert "description" not in str(schema(OnboardingForm))


if __name__ == "__main__":
    Path(GOLDEN).write_text(text(names()))
