"""Pairs of texts of which many differ only in what a reader or a careless rule overlooks."""

from __future__ import annotations

from hypothesis import strategies as st


def similar(one: str) -> st.SearchStrategy[tuple[str, str]]:
    """The text, and itself, itself in another case or with other separators, or any other."""
    forms = [one, one.swapcase(), one.lower(), f"{one} ", f"{one}-", f".{one}", f"_{one}"]
    forms += [one.replace(" ", "-"), one.replace("-", " "), "".join(one.split())]
    return st.tuples(st.just(one), st.sampled_from(forms) | st.text())
