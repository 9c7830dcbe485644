"""`docs/troubleshooting.md` holds the tables of the tests, row by row, and nothing else.

`test_checks_table.py` and `test_diagnosis_table.py` test that each row says what the checks and
the diagnosis really report.
"""

from __future__ import annotations

import re

from cmek.keys.health_rules import HEALTH_RULES
from cmek.keys.prerequisites import CATALOGUE
from tests.support import troubleshooting as page
from tests.support.conditions import CHECKED, DIAGNOSED

AGAIN = "write it again: python -m tests.support.troubleshooting"


def test_the_page_has_every_check_and_cause_and_no_row_too_many() -> None:
    """A check, a cause or a state that is new, renamed or removed makes the page stale."""
    text = page.DOCUMENT.read_text()
    for part in (page.INTRODUCTION, page.CHECKS_HEAD, page.CONDITIONS_HEAD, page.CAUSES_HEAD,
                 page.DIAGNOSED_HEAD, page.DATA_PLANE_HEAD, *page.catalogue_rows(),
                 *page.cause_rows(), *page.data_plane_rows()):  # fmt: skip
        assert part in text, AGAIN
    sections = text.split("\n## ")[1:]
    rows = [section.count("\n| ") - 2 for section in sections]
    listed = (page.catalogue_rows(), CHECKED, page.cause_rows(), DIAGNOSED)
    expected = [len(one) for one in (*listed, page.data_plane_rows())]
    assert rows == expected, AGAIN


def test_the_guide_has_a_row_for_every_check_and_health_rule() -> None:
    """So a new one is added beside the guide's sentence that it checks."""
    guide = (page.DOCUMENT.parent / "guide.md").read_text()
    rows = guide.partition("## The guide, sentence by sentence")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([a-z][a-z_-]+)`", rows))
    rules = {one.id for one in HEALTH_RULES}
    aside = {"drift", "protection-mixed", "project-policy-unread", "grant-conditional",
             "kms-public-key", "kms-role-separation"}  # fmt: skip
    assert {one.id for one in CATALOGUE} <= named
    assert rules - named == aside, "of these the guide says nothing"


def test_the_page_about_revalidation_lists_every_rule_as_it_is() -> None:
    written = page.RULES_DOCUMENT.read_text()
    assert page.with_rules(written) == written, AGAIN
