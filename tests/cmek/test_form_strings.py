"""Every string of every flow's parameters: Prefect's schema and our model refuse exactly the same.

A value that only the model refuses would make a run that fails, after the form has accepted it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prefect import Flow
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import preprocess_schema, validate
from pydantic import BaseModel, ValidationError

from cmek.discovery.request import DiscoveryRequest
from cmek.models import TextRule, refusals, shown
from cmek.onboarding.policy import OnboardingSettings
from cmek.onboarding.request import OnboardingForm
from cmek.revalidation.request import RevalidationRequest
from flows.check import check_prerequisites_only
from flows.discover import discover_workspaces, workspace_created
from flows.onboard import onboard_workspace
from flows.revalidate import revalidate_keys

ONBOARDING: dict[str, Any] = {
    "workspace": "wrkspc_01HxPv6KsDq9TnBzMw3YfLrE",
    "project_id": "acme-kms-prod",
    "requested_by": "ada@example.com",
}
NEW = ONBOARDING | {"workspace": "payments-prod", "new_workspace": True}
BY_NAME = {"opt_in": "name", "name_patterns": ["*-prod"]}
FLOWS: tuple[tuple[Flow[..., Any], type[BaseModel], dict[str, Any]], ...] = (
    (onboard_workspace, OnboardingForm, ONBOARDING),
    (onboard_workspace, OnboardingForm, NEW),
    (check_prerequisites_only, OnboardingForm, ONBOARDING),
    (revalidate_keys, RevalidationRequest, {}),
    (discover_workspaces, DiscoveryRequest, BY_NAME),
    (workspace_created, DiscoveryRequest, BY_NAME),
)


@dataclass(frozen=True)
class Field:
    """One string field of a request; of a tuple field, its only element."""

    schema: dict[str, Any]
    model: type[BaseModel]
    given: dict[str, Any]
    name: str
    is_list: bool
    is_override: bool = False

    @property
    def usual(self) -> str:
        """A value that both accept: the request's, an example, or the default."""
        info = (OnboardingSettings if self.is_override else self.model).model_fields[self.name]
        (usual, *_) = info.examples or [info.default or ""]
        value = self.given.get(self.name, usual)
        return str(value[0] if isinstance(value, list | tuple) else value)

    def verdicts(self, text: str) -> tuple[bool, bool]:
        """Whether the schema, as Prefect validates it, and the model accept this string."""
        changed: dict[str, Any] = {self.name: [text] if self.is_list else text}
        request = self.given | ({"overrides": changed} if self.is_override else changed)
        parameters = {"request": request, "payload": ""}
        by_schema = not validate(parameters, self.schema, preprocess=False)
        try:
            self.model.model_validate(request)
            by_model = True
        except ValidationError:
            by_model = False
        return by_schema, by_model


def fields() -> Iterator[Field]:
    """All string fields, found in the schemas that Prefect gets."""
    for flow, model, given_ in FLOWS:
        schema = dict(preprocess_schema(parameter_schema(flow).model_dump_for_openapi()))
        properties = schema["definitions"][model.__name__]["properties"]
        for name, one in properties.items():
            item = one.get("items", {})
            if _is_text(one) or _is_text(item):
                yield Field(schema, model, given_, name, bool(item))
        if model is OnboardingForm:
            for pattern, one in properties["overrides"]["patternProperties"].items():
                item = one.get("items", {})
                if _is_text(one) or _is_text(item):
                    name = pattern.strip("^$")
                    yield Field(schema, model, given_, name, bool(item), is_override=True)


def _is_text(schema: dict[str, Any]) -> bool:
    kinds = [schema, *schema.get("anyOf", [])]
    return any("string" in str(one.get("type")) and "enum" not in one for one in kinds)


FIELDS = {f"{one.model.__name__}.{one.name}.{at}": one for at, one in enumerate(fields())}
TRAPS = st.sampled_from(
    [
        *(
            "\n",
            "\r\n",
            "\r",
            " ",
            "\t",
            "\u00a0",
            "\u2028",
            "\u3000",
            "\x00",
            "\x1c",
            "\x1f",
            "\x85",
        ),
        *("\u200b", "\u034f", "\u3164", "\u2800", "\ufe0f", "\ufeff", "\U000e0001", "\ud800"),
        *(
            "\u0661",
            "\uff11",
            "\u0430",
            "\u212a",
            "\u017f",
            "\u0130",
            "e\u0301",
            "\U0001f511",
            "|",
            "`",
        ),
    ]
)


@st.composite
def nearly(draw: st.DrawFn, text: str) -> str:
    """The valid value with characters in it that are easily overlooked, or only these."""
    at = draw(st.sampled_from([0, len(text), len(text) // 2]))
    trap = draw(TRAPS | st.text(max_size=2))
    return draw(st.sampled_from([text[:at] + trap + text[at:], trap, text]))


def test_the_walk_finds_the_strings_of_every_flow() -> None:
    """Otherwise the property below would test nothing."""
    assert {one.model for one in FIELDS.values()} == {model for _, model, _ in FLOWS}
    assert {"workspace", "expected_organization", "crypto_key", "accepted_warnings"} <= {
        one.name for one in FIELDS.values()
    }


@pytest.mark.parametrize("name", FIELDS)
@settings(max_examples=40)
@given(data=st.data())
def test_schema_and_model_take_the_same_strings(name: str, data: st.DataObject) -> None:
    field = FIELDS[name]
    text = data.draw(nearly(field.usual) | st.text(max_size=300))
    by_schema, by_model = field.verdicts(text)
    assert by_schema is by_model, shown(text)


@pytest.mark.parametrize("name", FIELDS)
def test_a_pasted_line_break_is_refused_before_a_run_exists(name: str) -> None:
    field = FIELDS[name]
    assert field.verdicts(field.usual) == (True, True)
    assert field.verdicts(f"{field.usual}\n") == (False, False)


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"project_id": "acme-kms-prod\n"}, ["project_id: 'acme-kms-prod\\n'", "line break"]),
        ({"project_id": "\u0430cme-kms-prod"}, [r"'\u0430cme", "CYRILLIC SMALL LETTER A (U+0430)"]),
        ({"requested_by": "ada@example.com\u200b"}, ["requested_by: ", "ZERO WIDTH SPACE"]),
        ({"requested_by": "ada"}, ["requested_by: 'ada'", "such as ada@example.com"]),
        ({"overrides": {"key_ring": ""}}, ["overrides: key_ring: '' is empty"]),
        ({"overrides": {"key_ring": "x" * 3000}}, ["the first 120 of 3000 characters"]),
        (
            {"workspace": "w" * 5000, "new_workspace": True},
            ["workspace: 'ww", "has 5000 characters; at most 255 are allowed"],
        ),
        ({"workspace": "w" * 5000}, ["does not fit; wanted is a workspace's id"]),
        (
            {"overrides": {"display_name": "\u00fc" * 400}},
            ["display_name: ", "has 400 characters; at most 255 are allowed"],
        ),
        ({"overrides": {"crypto_key": "k\u00e4se"}}, ["it is not allowed here; wanted is letters"]),
        ({"overrides": {"crypto_key": "k\u0430se"}}, ["CYRILLIC", "type it again"]),
        ({"overrides": {"crypto_key": "a\u2013b"}}, ["EN DASH (U+2013): type it again"]),
        ({"overrides": {"crypto_key": "\uff11"}}, ["FULLWIDTH DIGIT ONE", "type it again"]),
        ({"workspace": "e\u0301t\u00e9", "new_workspace": True}, ["ACUTE ACCENT", "type it again"]),
        ({"workspace": "\U0001f511", "new_workspace": True}, ["it is not allowed here; wanted"]),
        ({"overrides": {"expected_organization": "org_01"}}, ["zation: 'org_01'", "UUID"]),
        ({"overrides": {"display_name": "a\x1b[31mb"}}, [r"'a\x1b[31mb'", "control character"]),
    ],
)
def test_a_refusal_shows_field_value_flaw_and_remedy(
    given_: dict[str, Any], words: list[str]
) -> None:
    """It shows no regular expression."""
    with pytest.raises(ValidationError) as caught:
        OnboardingForm.model_validate(ONBOARDING | given_)
    (said,) = refusals(caught.value)
    assert all(word in said for word in words), said
    assert not any(syntax in said for syntax in ("[a-z", "{1,", "(?", "^", "\\u0000-"))
    assert len(said) < 600


def test_a_refusal_without_values_names_the_flaw_too() -> None:
    """Values are left out where one may be a secret."""
    with pytest.raises(ValidationError) as caught:
        OnboardingSettings.model_validate({"display_name": "\u00fc" * 400})
    (said,) = refusals(caught.value, values=False)
    assert said == "display_name: has more than 255 characters"


@given(st.text(alphabet=st.characters(), max_size=60), st.sampled_from(["[a-z]+", "[a-z]*"]))
@example("a\n", "[a-z]+")
def test_a_refusal_is_plain_ascii_whatever_was_pasted(text: str, pattern: str) -> None:
    rule = TextRule(pattern, "small letters")
    if not rule.fits(text):
        assert rule.refusal(text).isascii()
        assert rule.refusal(text).isprintable()
