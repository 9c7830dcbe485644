"""Base classes of the models and of flow parameters, and the rule for one string (`TextRule`).

Prefect checks parameters twice: by JSON schema before a run exists, and by the model inside the
run. If the two disagree, for example about a pasted line break, a run is created and then fails.
So the rule for a string is a `TextRule`: one pattern for both, and one text for people.
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
"""The end of the text. In Python, `$` also matches before a final line break."""
_ASCII: Final = frozenset(string.ascii_letters + string.digits + string.punctuation)
_WANTED: Final = {
    "path_type": "wanted is a path, as a text in quotes",
    "tuple_type": "wanted is a list, in square brackets",
    "list_type": "wanted is a list, in square brackets",
    "model_type": "wanted are named fields (in JSON an object, in TOML a table)",
}
"""By Pydantic's type of an error, where its own message names a class or type of Python."""
_SHOWN: Final = 120
"""How many characters of a refused value a message shows."""


class FrozenModel(BaseModel):
    """An immutable value: it can be a member of a set and a key of a dictionary."""

    model_config = ConfigDict(frozen=True)


class FormModel(FrozenModel):
    """A flow's parameter; Prefect's form shows the fields in the order of their declaration."""

    elsewhere: ClassVar[Mapping[str, str]] = {}
    """Fields that belong to plans, evidence or policies, each with what to write here instead; not
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
        """Number the fields, since the form sorts by `position`; refuse others with advice.

        Before a run exists, Prefect's server refuses by the schema alone. Its message about
        `additionalProperties` together with `patternProperties` is a list of regular expressions,
        so unknown names are refused by `propertyNames` instead.
        """
        schema = handler(core_schema)
        resolved = handler.resolve_ref_schema(schema)
        for position, field in enumerate(resolved["properties"].values()):
            field["position"] = position
        if cls.elsewhere:
            # an `enum` with the advice as its only value: the server's refusal shows it
            named = {f"^{name}$": {"enum": [where]} for name, where in cls.elsewhere.items()}
            resolved["patternProperties"] = named
            fields = list(resolved["properties"])
            other = {"not": {"enum": list(cls.elsewhere)}}
            resolved["propertyNames"] = {"if": other, "then": {"enum": fields}}
            resolved.pop("additionalProperties", None)
        return schema


def whole(pattern: str) -> str:
    """The pattern for a whole text; JSON schema, browsers and Python interpret it alike."""
    return f"^(?:{pattern}){_END}"


@dataclass(frozen=True)
class TextRule:
    """The rule for a string: `Annotated[str, TextRule(…)]`.

    Not `Field(pattern=…)`: the regular expressions of Pydantic and of Python, which Prefect uses,
    disagree about the end of a text and about which characters are blank.
    """

    pattern: str
    """Matches the whole text. No anchors and no classes such as `\\s`: engines differ in these."""
    wanted: str
    """What is wanted, with an example, for people: they never see the regular expression."""

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        return re.compile(self.pattern)

    def fits(self, text: str) -> bool:
        """Whether the whole text matches."""
        return self._compiled.fullmatch(text) is not None

    def refusal(self, text: str) -> str:
        """The value (invisible characters escaped), what is wrong with it, and what is wanted."""
        return f"{shown(text)} {_flaw(text, self) or 'does not fit'}; wanted is {self.wanted}"

    def check(self, value: Any) -> Any:  # noqa: ANN401 - other types are checked by Pydantic
        """Return the value when it matches.

        Raises:
            PydanticCustomError: It does not match; with value, flaw and what is wanted.
        """
        if isinstance(value, str) and not self.fits(value):
            raise PydanticCustomError("text_rule", "{refusal}", {"refusal": self.refusal(value)})
        return value

    def __get_pydantic_core_schema__(
        self,
        source: Any,  # noqa: ANN401 - any type that is made of a string
        handler: GetCoreSchemaHandler,
    ) -> CoreSchema:
        """Check the given text before Pydantic converts it to a UUID or another type."""
        return core_schema.no_info_before_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """The same rule as JSON schema, without `format`, which not every validator checks."""
        schema = handler(core_schema)
        schema.pop("format", None)
        return schema | self.schema

    @property
    def schema(self) -> dict[str, Any]:
        """The rule as JSON schema.

        When a `pattern` fails, people are shown the regular expression. So the pattern is an `if`,
        and what fails is an `enum` whose only element says what is wanted.
        """
        return {
            "if": {"type": "string", "not": {"pattern": whole(self.pattern)}},
            "then": {"enum": [self.wanted]},
        }


def rule_of(kind: Any) -> TextRule:  # noqa: ANN401 - `Annotated[…]` is not a `type`
    """The rule of an `Annotated[str, TextRule(…)]`."""
    (rule,) = [one for one in kind.__metadata__ if isinstance(one, TextRule)]
    return rule


def shown(text: str) -> str:
    """A value in quotes: ASCII unchanged, other characters escaped; a long value is cut."""
    cut = f" (the first {_SHOWN} of {len(text)} characters)" if len(text) > _SHOWN else ""
    return ascii(text[:_SHOWN]) + cut


def too_long(text: str, limit: int) -> str:
    """Message: the value, its length, and the maximum length."""
    return f"{shown(text)} has {len(text)} characters; at most {limit} are allowed"


def _flaw(text: str, rule: TextRule) -> str:
    """A flaw that a person easily overlooks: an empty text, blanks at the ends, odd characters."""
    if not text:
        return "is empty"
    if text != text.strip() and rule.fits(text.strip()):
        return "begins or ends with a blank or a line break: take it away"
    odd = [one for one in text if not " " <= one <= "~"]
    if not odd:
        return ""
    # rather name a character that is the only flaw than the first one, which may be allowed
    only_flaws = (one for one in odd if rule.fits(text.replace(one, "x")))
    first = next(only_flaws, odd[0])
    name = unicodedata.name(first, "a control character" if first < " " else "no character")
    typed_again = _is_unseen(first) or rule.fits(unicodedata.normalize("NFKC", text))
    advice = "type it again instead of pasting it" if typed_again else "it is not allowed here"
    return f"holds {name} (U+{ord(first):04X}): {advice}"


def _is_unseen(character: str) -> bool:
    """Whether the character is invisible, or looks like an ASCII character."""
    from confusable_homoglyphs.confusables import (  # noqa: PLC0415 - 0.9 MB, for a refusal
        confusables_data,
    )

    if plain(character, lines=True) in (HIDDEN, " ", "\n"):
        return True
    return any(one["c"] in _ASCII for one in confusables_data.get(character, ()))


def request_in(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The request among a run's parameters; empty if it is missing or no object.

    Whoever may write to Prefect's API can create a run with any parameters.
    """
    found = parameters.get("request")
    return found if isinstance(found, dict) else {}


def refusals(error: ValidationError, *, values: bool = True, root: str = "") -> Iterator[str]:
    """One message for each wrong field: its name, its value and what is wrong.

    Args:
        error: The model's error.
        values: Whether to show values; not when one may be a secret.
        root: A name for the model itself, for an error that is about no single field.
    """
    for one in error.errors(include_url=False):
        where = ".".join(map(str, one["loc"])) or root
        what = one["msg"].removeprefix("Value error, ")
        given = one["input"]
        # the message of a text rule has the value already
        shows_value = values and one["type"] not in {"text_rule", "extra_forbidden"}
        if shows_value and isinstance(given, (str, int)):
            what = f"{shown(str(given))}: {what}"
        if one["type"] == "extra_forbidden":
            what = "there is no such field"
        elif one["type"] == "missing":
            what = "is needed"
        elif one["type"] == "too_long" and isinstance(given, str):
            # Pydantic's own message calls the characters of a text "items"
            limit = one["ctx"]["max_length"]
            what = too_long(given, limit) if values else f"has more than {limit} characters"
        what = _WANTED.get(one["type"], what)
        yield ": ".join(filter(None, (where, what)))
