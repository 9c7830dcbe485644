"""Names: the rule of each id and name, the name of a crypto key, names that look like others.

Source: guide steps 1, 2 and 4; https://docs.cloud.google.com/kms/docs/locations,
https://www.unicode.org/reports/tr39/
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Final, Literal, get_args
from uuid import UUID

from cmek.errors import CmekError
from cmek.models import TextRule, shown

PROJECT_ID_PATTERN: Final = r"(?:[a-z][a-z0-9.-]*:)?[a-z][a-z0-9-]{4,28}[a-z0-9]"
KMS_ID_PATTERN: Final = r"[a-zA-Z0-9_-]{1,63}"
WORKSPACE_ID: Final = r"wrkspc_[a-zA-Z0-9]{6,64}"
EXTERNAL_KEY_ID: Final = r"ekey_[a-zA-Z0-9]{6,64}"
EMAIL: Final = r"[a-zA-Z0-9.!#$%&'+/=^_{}~-]{1,64}@[a-zA-Z0-9](?:[a-zA-Z0-9.-]{0,188}[a-zA-Z0-9])?"
"""ASCII only: with letters of other alphabets two addresses could look like one person's."""
UNSEEN: Final = (
    r"\u0000-\u001f\u007f-\u00a0\u00ad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f"
    r"\u2000-\u200f\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff"
    "\\uffa0\\ufff0-\\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
"""For use inside the brackets of a character class: control characters, all blanks except the
space, and what Unicode says to draw as nothing."""
_TYPED: Final = (
    r"!-;=-_a-\{\}~\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0386\u0388-\u038a\u038c\u038e-\u03a1"
    r"\u03a3-\u03ce\u0400-\u0481\u048a-\u052f\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff"
    r"\uac00-\ud7a3"
)
"""ASCII without three characters of Markdown, and letters of one code point each: a letter with a
separate accent would not equal the same letter typed in another normal form."""
WORKSPACE_NAME: Final = f"(?! )(?!.*  )[ {_TYPED}]+(?<! )"
"""For a workspace to be created: an approver reads its name in a plan and types it again."""

WorkspaceId = Annotated[
    str, TextRule(WORKSPACE_ID, "a workspace's id, such as wrkspc_01HxPv6KsDq9TnBzMw3YfLrE")
]
ExternalKeyId = Annotated[
    str, TextRule(EXTERNAL_KEY_ID, "an external key's id, such as ekey_01HxPv6KsDq9TnBzMw3YfLrE")
]
ProjectId = Annotated[
    str, TextRule(PROJECT_ID_PATTERN, "a project's id (not its number), such as acme-kms-prod")
]
KmsId = Annotated[
    str, TextRule(KMS_ID_PATTERN, "1 to 63 letters, digits, - and _, such as anthropic-cmek")
]
Email = Annotated[str, TextRule(EMAIL, "an e-mail address in ASCII, such as ada@example.com")]
BlockName = Annotated[
    str,
    TextRule(
        r"[a-z0-9][a-z0-9-]{0,62}", "a block's name in lower case, digits and -, such as google-kms"
    ),
]
OrganizationId = Annotated[
    UUID,
    TextRule(
        r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
        "an organization's UUID, such as 1fb5ab5a-5b0c-4ed1-8f4b-2cb2f0a9c1de",
    ),
]
CustomerId = Annotated[str, TextRule(r"C[0-9a-z]{4,20}", "a Google customer id, such as C01abcdef")]
WorkspaceName = Annotated[
    str,
    TextRule(
        WORKSPACE_NAME,
        "a name of letters (Latin, Greek, Cyrillic, Chinese, Japanese, Korean), digits and signs "
        "other than ` | <, with single spaces inside, such as payments-prod",
    ),
]
OneLine = Annotated[
    str,
    TextRule(f"(?! )[^{UNSEEN}]+(?<! )", "one line without invisible characters"),
]

Region = Literal[
    "us-east5",
    "us-central1",
    "us-east1",
    "us-east4",
    "us-south1",
    "us-west1",
    "us-west2",
    "us-west3",
    "us-west4",
]
US_SINGLE_REGIONS: Final[tuple[str, ...]] = get_args(Region)
"""US single regions of Cloud KMS with HSM; what Cloud KMS says of the live location decides."""
RECOMMENDED_REGIONS: Final = ("us-east5", "us-central1")

_KEY_NAME = re.compile(
    rf"projects/(?P<project>{PROJECT_ID_PATTERN}|[0-9]+)/locations/(?P<location>[a-z0-9-]+)"
    rf"/keyRings/(?P<key_ring>{KMS_ID_PATTERN})/cryptoKeys/(?P<crypto_key>{KMS_ID_PATTERN})"
)


class BadNameError(CmekError, ValueError):
    """A name that can't be parsed; the message has the name and the form that is expected."""


@dataclass(frozen=True, slots=True, order=True)
class KeyName:
    """The full resource name of a crypto key (guide step 4).

    Prints as `projects/P/locations/L/keyRings/R/cryptoKeys/K`, the form that the Admin API takes.
    """

    project: str
    location: str
    key_ring: str
    crypto_key: str

    @classmethod
    def parse(cls, text: str) -> KeyName:
        """Parse a full resource name.

        Raises:
            BadNameError: Not the name of a crypto key; the name of a version is refused too.
        """
        match = _KEY_NAME.fullmatch(text)
        if match is None:
            raise BadNameError(
                f"key name {shown(text)}: expected projects/PROJECT/locations/LOCATION/keyRings/"
                "RING/cryptoKeys/KEY, without a version at the end"
            )
        return cls(**match.groupdict())

    @property
    def location_name(self) -> str:
        """`projects/P/locations/L`."""
        return f"projects/{self.project}/locations/{self.location}"

    @property
    def key_ring_name(self) -> str:
        """`projects/P/locations/L/keyRings/R`."""
        return f"{self.location_name}/keyRings/{self.key_ring}"

    def __str__(self) -> str:
        return f"{self.key_ring_name}/cryptoKeys/{self.crypto_key}"


def may_be_within(key_name: str, name: str) -> bool:
    """Whether a key may be that key, or in that ring; one name may have the project's number."""
    (project, place), (other, wanted) = _project_and_place(key_name), _project_and_place(name)
    # whether a number and an id are the same project is not known here, so they may be
    alike = project == other or project.isdigit() is not other.isdigit()
    return alike and f"{place}/".startswith(f"{wanted}/")


def may_be_one_key(name: str, other: str) -> bool:
    """Whether both may name one crypto key."""
    return may_be_within(name, other) and may_be_within(other, name)


def _project_and_place(name: str) -> tuple[str, str]:
    # registered by others, a name may have any form
    project, _, place = name.removeprefix("projects/").partition("/")
    return project, place


_IGNORED: Final = re.compile(f"[ {UNSEEN}]")


def look_alike(one: str, other: str) -> bool:
    """Whether a person could mistake one name for the other, by Unicode's confusables (UTS 39).

    Case is ignored both before and after the comparison of shapes: `I` looks like `l`, but is also
    the same letter as `i`.
    """
    if _skeleton(one).casefold() == _skeleton(other).casefold():
        return True
    return _skeleton(_fold(one)) == _skeleton(_fold(other))


def _fold(name: str) -> str:
    # normalized again, since folding the case of a normalized text may undo that
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def _skeleton(name: str) -> str:
    """UTS 39's skeleton, without blanks and invisible characters."""
    seen = _IGNORED.sub("", unicodedata.normalize("NFD", name))
    prototypes = "".join(_prototypes().get(one, one) for one in seen)
    return _IGNORED.sub("", unicodedata.normalize("NFD", prototypes))


@cache
def _prototypes() -> dict[str, str]:
    """The prototype of each character: the one that it looks like.

    The library's table has both directions: character to prototype, and prototype to all its
    characters. When a prototype has only one character, the table does not show which of the two is
    the prototype: the one that sorts first is taken.
    """
    from confusable_homoglyphs.confusables import (  # noqa: PLC0415 - 0.9 MB, for a comparison
        confusables_data,
    )

    alike = {one: [each["c"] for each in found] for one, found in confusables_data.items()}
    return {
        one: found[0]
        for one, found in alike.items()
        if len(one) == len(found) == 1 and (len(alike[found[0]]) > 1 or found[0] < one)
    }


def slug(text: str, length: int, *, allowed: str = "a-z0-9") -> str:
    """A readable part of a name, made from any text; may be empty.

    Args:
        text: Any text.
        length: The maximum length. The cut may leave a `-` at the end.
        allowed: Characters that stay, as in the brackets of a pattern; each run of other characters
            becomes one `-`.
    """
    return re.sub(f"[^{allowed}]+", "-", text).strip("-")[:length]


def short_hash(text: str, digits: int = 8) -> str:
    """Hexadecimal digits to distinguish texts with the same slug, such as `A` and `a`."""
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def artifact_key(kind: str, subject: str) -> str:
    """The key of an artifact: Prefect accepts it (`a-z0-9-`), and each subject has its own.

    Two ids may differ in case only, so a hash follows the readable part.
    """
    return f"cmek-{kind}-{slug(subject.lower(), 40)}-{short_hash(subject)}"


def is_us_single_region(location: str) -> bool:
    """Whether the name has the shape of one US region (not `us`, `global`, `nam4`, …)."""
    return re.fullmatch(r"us-[a-z]+[0-9]+", location) is not None


ORGANIZATION_LABEL_PREFIX: Final = "anthropic-org-"


def organization_label(organization: UUID | str) -> tuple[str, str]:
    """The label on a key that lets this organization use it, as (key, value).

    The guide does not have it; without it validation fails. Source:
    https://platform.claude.com/docs/en/manage-claude/cmek-google-cloud-kms

    Raises:
        ValueError: `organization` is not a bare UUID (the form `org_…` is refused).
    """
    return f"{ORGANIZATION_LABEL_PREFIX}{UUID(str(organization))}", "true"


WORKSPACE_LABEL_PREFIX: Final = "cmek-workspace-"


def in_use_label(workspace_id: str) -> tuple[str, str]:
    """The label that marks a key as used by a workspace, as (key, value).

    A label holds lower case only and workspace ids differ in case, hence the hash.
    """
    return f"cmek-workspace-{short_hash(workspace_id, 12)}", "attached"


def is_custom_role(role: str) -> bool:
    """Whether the role is a project's or an organization's own, not one of Google's."""
    return role.startswith(("projects/", "organizations/"))
