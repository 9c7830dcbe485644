"""Outside text can't draw anything."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from cmek.markdown import code, escape
from cmek.names import artifact_key


@given(st.text())
def test_escaped_text_has_nothing_that_markdown_or_html_interprets(text: str) -> None:
    bare = re.sub(r"&(amp|lt|gt);|\\[\\`*_{}\[\]()#+!|~$-]", "", escape(text))
    assert not set(bare) & set("\\`*_{}[]()<>#+!|~$-&\n\r")
    assert not re.search(r"(?i)[a-z]://|www\.\S", bare)


@given(st.text())
def test_a_code_span_can_not_be_left(text: str) -> None:
    inner = code(text)[1:-1]
    assert not set(inner) & set("`|<\n\r")


@given(st.text(), st.text())
def test_artifact_keys_are_what_prefect_accepts_and_differ(one: str, other: str) -> None:
    """Two ids never share a history, also where they differ in case only."""
    assert re.fullmatch(r"[a-z0-9-]+", artifact_key("onboarding", one))
    assert (artifact_key("x", one) == artifact_key("x", other)) is (one == other)
