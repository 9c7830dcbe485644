"""Pairs of texts, many of which differ only in what a reader or a careless rule overlooks."""

from __future__ import annotations

from hypothesis import strategies as st


def similar(one: str) -> st.SearchStrategy[tuple[str, str]]:
    """The text, paired with itself, with a variant (case, separators), or with any other text."""
    forms = [one, one.swapcase(), one.lower(), f"{one} ", f"{one}-", f".{one}", f"_{one}"]
    forms += [one.replace(" ", "-"), one.replace("-", " "), "".join(one.split())]
    return st.tuples(st.just(one), st.sampled_from(forms) | st.text())
