"""Outside text is shown to a reader as text only: no markup, no sequence, nothing hidden."""

from __future__ import annotations

import io
import re
import shlex
import unicodedata

from hypothesis import example, given
from hypothesis import strategies as st

from cli.terminal import markdown, new_console, printable
from cmek.errors import MAX_MESSAGE, CmekError
from cmek.gcp.gcloud import revoke
from cmek.keys.history import key_page, onboarding_record
from cmek.keys.verdicts import Health, HealthReason, Severity
from cmek.plain_text import HIDDEN, NO_LINK, code, escape, plain
from tests.support.facts import NOW, facts

ATTACKS = (
    "\x1b[2J\x1b[1;1Happroved",
    "\x1b]8;;https://evil.example\x07click\x1b]8;;\x07",
    "\x9b31mred",
    "wrkspc_\u202e1edoN\u202c",
    "pay\u200bments\u2060\ufeff\u00ad",
    "a\ufe0fb\u034fc\u3164d\u2800e\u115ff\U000e0041g",
    "[red]x[/red] [link=https://evil.example]y[/link] \\",
    "<https://evil.example|Approve> <!channel> <@U0> @here *b* `c`",
    "\ufffe\uffff\x0b\x00\ud800]]>&<x/>",
    "Z\u0300\u0301\u0302\u0303\u0304\u0305\u0306",
    ":warning: www.evil.example",
)
outside = st.text(st.characters(exclude_categories=())) | st.sampled_from(ATTACKS)


BLANK = (
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0\U00016fe4\U0001d159"
)


def is_visible(character: str) -> bool:
    """By the Unicode database, except the characters that are blank although it says otherwise."""
    if character in BLANK:
        return False
    selector = "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"
    category = unicodedata.category(character)
    return not selector and (category[0] not in "CZ" or character == " ")


@given(outside)
@example("\x1b[31m\u202e\ufe0f")
def test_plain_text_has_visible_characters_only_and_hides_none_silently(text: str) -> None:
    """It is one line; invisible characters become a visible mark, other text stays unchanged."""
    shown = plain(text)
    assert all(map(is_visible, shown)), ascii(shown)
    assert plain(shown) == shown
    if shown == text:
        return
    assert HIDDEN in shown or re.search(r"\s", text) or most_marks(text) > 3


def most_marks(text: str) -> int:
    """How many marks are on the letter that has the most."""
    kinds = "".join(unicodedata.category(one)[0] for one in text)
    return max(map(len, re.findall("M+", kinds)), default=0)


@given(st.text(st.characters(categories=["Mn", "Me", "Mc"]) | st.just("e"), min_size=4))
@example("e" + "\u20d2" * 200)
@example("e" + "\u0489" * 200)
def test_marks_do_not_pile_up_over_other_lines(text: str) -> None:
    """A letter of any script keeps three."""
    assert most_marks(plain(text)) <= 3


@given(outside)
def test_a_page_gets_nothing_invisible_but_our_own_mark(text: str) -> None:
    for shown in (escape(text), code(text)):
        assert all(map(is_visible, shown.replace(NO_LINK, ""))), ascii(shown)


@given(st.text())
def test_escaped_text_has_nothing_that_markdown_or_html_interprets(text: str) -> None:
    bare = re.sub(r"&(amp|lt|gt);|\\[\\`*_{}\[\]()#+!|~$-]", "", escape(text))
    assert not set(bare) & set("\\`*_{}[]()<>#+!|~$-&\n\r")
    assert not re.search(r"(?i)[a-z]://|www\.\S", bare)


@given(st.text())
def test_a_code_span_can_not_be_left(text: str) -> None:
    inner = code(text)[1:-1]
    assert not set(inner) & set("`|<\n\r")


@given(outside)
def test_a_terminal_shows_outside_text_letter_by_letter(text: str) -> None:
    """No rich markup, no emoji for `:name:`, no escape sequence, even inside our own markup."""
    sink = io.StringIO()
    console = new_console()
    console.file, console.width = sink, 10_000
    console.print(f"[bold]{printable(text)}[/]!", soft_wrap=True)
    shown = plain(text, lines=True)
    assert sink.getvalue() == shown + (" !" if shown.endswith("\\") else "!") + "\n"


@given(outside)
def test_a_page_in_a_terminal_has_no_sequence_of_the_outside_world(text: str) -> None:
    """This is true for a page that somebody else has stored on the server, too."""
    sink = io.StringIO()
    console = new_console()
    console.file = sink
    console.print(markdown(f"# {text}\n\n{escape(text)}"))
    assert all(is_visible(one) or one == "\n" for one in sink.getvalue())


@given(outside)
def test_an_error_says_nothing_that_a_terminal_or_a_state_would_obey(text: str) -> None:
    """Messages quote services and people; states, logs and the command show them."""
    shown = str(CmekError(f"workspace {text}: refused"))
    assert all(is_visible(one) or one == "\n" for one in shown)
    assert len(str(CmekError(text * MAX_MESSAGE))) < MAX_MESSAGE + 50


@given(st.text(alphabet="ab`'\"$&;|<>\\@.", min_size=1, max_size=20))
@example("a`&id&`@evil.example")
@example("a'&id&'@evil.example")
def test_a_command_with_any_member_stays_one_command_wherever_it_is_shown(name: str) -> None:
    """Whoever may add a member to a key must not run code as the person who pastes the command."""
    command = revoke("projects/acme-kms-prod", f"user:{name}", "roles/owner")
    wanted = shlex.split(command)
    in_line = str.maketrans({"`": "ˋ", "|": "¦", "<": "‹"})
    assert shlex.split(code(command)[1:-1]) == [one.translate(in_line) for one in wanted]
    run = "3f1c9a52-0000-4000-8000-000000000001"
    record = onboarding_record(facts(), users_before=(), decrypters=(), run_id=run, now=NOW)
    reason = HealthReason(
        rule="foreign-decrypter",
        means=Health.AT_RISK,
        severity=Severity.HIGH,
        says="somebody else",
        commands=(command,),
    )
    page = key_page(record.model_copy(update={"reasons": (reason,)}))
    (line,) = [one for one in page.splitlines() if one.startswith("gcloud ")]
    assert shlex.split(line) == wanted
