"""What nearly every model here is, what a flow's parameter is, and the rule of one string.

Prefect checks parameters twice: by JSON schema before a run exists, and by the model inside the
run. Where the two disagree, a pasted line break makes a run that fails. So a rule for a string is
a `TextRule`: one pattern, which both use in the same way, and one text for people.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Final

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from cmek.plain_text import HIDDEN, plain

_END: Final = r"(?![\s\S])"
"""The end of the text. `$` also fits before a final line break, in Python."""
_ASCII: Final = frozenset(string.ascii_letters + string.digits + string.punctuation)
_SHOWN: Final = 120
"""Characters of a refused value that its message shows."""


class FrozenModel(BaseModel):
    """A value: it never changes once it is made, and can stand in sets and as a key."""

    model_config = ConfigDict(frozen=True)


class FormModel(FrozenModel):
    """A flow's parameter: Prefect's form shows its fields in the order of their declaration."""

    elsewhere: ClassVar[Mapping[str, str]] = {}
    """What plans, evidence and policies have as a field, each with where its value goes here; never
    shown in the form."""

    @model_validator(mode="before")
    @classmethod
    def _say_where_it_goes(cls, given: Any) -> Any:  # noqa: ANN401 - whatever was given
        if isinstance(given, Mapping):
            found = [f"{name} {cls.elsewhere[name]}" for name in given if name in cls.elsewhere]
            if found:
                raise ValueError("; ".join(found))
        return given

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Number the fields, by which the form sorts them; others are refused with where to go.

        Prefect's server refuses by the schema alone, before a run exists. What it says of
        `additionalProperties` beside patterns is a list of patterns, so names have a rule instead.
        """
        schema = handler(core_schema)
        resolved = handler.resolve_ref_schema(schema)
        for position, field in enumerate(resolved["properties"].values()):
            field["position"] = position
        if cls.elsewhere:
            named = {f"^{name}$": {"enum": [where]} for name, where in cls.elsewhere.items()}
            resolved["patternProperties"] = named
            fields = list(resolved["properties"])
            other = {"not": {"enum": list(cls.elsewhere)}}
            resolved["propertyNames"] = {"if": other, "then": {"enum": fields}}
            resolved.pop("additionalProperties", None)
        return schema


def whole(pattern: str) -> str:
    """The pattern of a whole text, as JSON schema, browsers and Python read it alike."""
    return f"^(?:{pattern}){_END}"


@dataclass(frozen=True)
class TextRule:
    """What a string must be: `Annotated[str, TextRule(…)]`.

    `Field(pattern=…)` won't do: Pydantic's engine and Python's, which Prefect uses, disagree about
    the end of a text and about which characters are blank.
    """

    pattern: str
    """Of the whole text: no anchors, no classes such as `\\s`, nothing else engines differ in."""
    wanted: str
    """What it is, with an example, for a person: no regular expression is ever shown."""

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        return re.compile(self.pattern)

    def fits(self, text: str) -> bool:
        """Whether the whole text is as it must be."""
        return self._compiled.fullmatch(text) is not None

    def refusal(self, text: str) -> str:
        """The value, so that the invisible is seen, what is wrong with it, and what is wanted."""
        return f"{shown(text)} {_flaw(text, self) or 'does not fit'}; wanted is {self.wanted}"

    def check(self, value: Any) -> Any:  # noqa: ANN401 - what is no string is left to its type
        """The value, where it fits.

        Raises:
            PydanticCustomError: It does not; says value, flaw and what is wanted.
        """
        if isinstance(value, str) and not self.fits(value):
            raise PydanticCustomError("text_rule", "{refusal}", {"refusal": self.refusal(value)})
        return value

    def __get_pydantic_core_schema__(
        self,
        source: Any,  # noqa: ANN401 - any type that is made of a string
        handler: GetCoreSchemaHandler,
    ) -> CoreSchema:
        """Check what was given, before a UUID or another type is made of it."""
        return core_schema.no_info_before_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """The same rule for the schema, and no `format`, which not every reader checks."""
        schema = handler(core_schema)
        schema.pop("format", None)
        return schema | self.schema

    @property
    def schema(self) -> dict[str, Any]:
        """The rule as JSON schema.

        A `pattern` that does not fit is shown to people as it is. So the pattern is a condition,
        and what fails is a list whose only element says what is wanted.
        """
        return {
            "if": {"type": "string", "not": {"pattern": whole(self.pattern)}},
            "then": {"enum": [self.wanted]},
        }


def rule_of(kind: Any) -> TextRule:  # noqa: ANN401 - an annotated type is no type of its own
    """The rule of an `Annotated[str, TextRule(…)]`."""
    (rule,) = [one for one in kind.__metadata__ if isinstance(one, TextRule)]
    return rule


def shown(text: str) -> str:
    """A value in quotes: ASCII as it is, everything else as an escape; long ones are cut."""
    cut = f" (the first {_SHOWN} of {len(text)} characters)" if len(text) > _SHOWN else ""
    return ascii(text[:_SHOWN]) + cut


def too_long(text: str, limit: int) -> str:
    """The value, how long it is, and how long it may be."""
    return f"{shown(text)} has {len(text)} characters; at most {limit} are allowed"


def _flaw(text: str, rule: TextRule) -> str:
    """What a person overlooks, where that is all that is wrong or the first thing that is."""
    if not text:
        return "is empty"
    if text != text.strip() and rule.fits(text.strip()):
        return "begins or ends with a blank or a line break: take it away"
    odd = [one for one in text if not " " <= one <= "~"]
    if not odd:
        return ""
    alone = (one for one in odd if rule.fits(text.replace(one, "x")))
    first = next(alone, odd[0])
    name = unicodedata.name(first, "a control character" if first < " " else "no character")
    typed_again = _is_unseen(first) or rule.fits(unicodedata.normalize("NFKC", text))
    advice = "type it again instead of pasting it" if typed_again else "it is not allowed here"
    return f"holds {name} (U+{ord(first):04X}): {advice}"


def _is_unseen(character: str) -> bool:
    """Whether nobody sees it, or sees an ASCII character in it."""
    from confusable_homoglyphs.confusables import (  # noqa: PLC0415 - 0.9 MB, for a refusal
        confusables_data,
    )

    if plain(character, lines=True) in (HIDDEN, " ", "\n"):
        return True
    return any(one["c"] in _ASCII for one in confusables_data.get(character, ()))


def refusals(error: ValidationError, *, values: bool = True, root: str = "") -> Iterator[str]:
    """Each wrong field of a model, by its name, with its value and what is wrong.

    Args:
        error: Of the model.
        values: Whether to show values; not where one may be a secret.
        root: What to call the whole, where that and no field is wrong.
    """
    for one in error.errors(include_url=False):
        where = ".".join(map(str, one["loc"])) or root
        what = one["msg"].removeprefix("Value error, ")
        given = one["input"]
        # a text rule shows the value itself
        shows = values and one["type"] not in {"text_rule", "extra_forbidden"}
        if shows and isinstance(given, (str, int)):
            what = f"{shown(str(given))}: {what}"
        if one["type"] == "extra_forbidden":
            what = "there is no such field"
        elif one["type"] == "missing":
            what = "is needed"
        elif one["type"] == "too_long" and isinstance(given, str):
            # Pydantic calls a text's characters items
            limit = one["ctx"]["max_length"]
            what = too_long(given, limit) if values else f"has more than {limit} characters"
        elif one["type"] == "path_type":
            what = "wanted is a path, as a text in quotes"
        yield ": ".join(filter(None, (where, what)))
