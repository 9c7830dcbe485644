"""`docs/troubleshooting.md`, and the table of rules in `docs/revalidation.md`: made from the code.

The tests compare each row with what the checks and the diagnosis really report. After a change,
`python -m tests.support.troubleshooting` writes both pages.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Final

from cmek.keys.diagnosis import CAUSES, diagnose, gather_facts
from cmek.keys.health_rules import HEALTH_RULES
from cmek.keys.prerequisites import CATALOGUE
from cmek.keys.rules import Cause
from cmek.keys.verdicts import Check, Health
from cmek.onboarding.reports import STATUS_SIGNS
from sandbox.server import Sandbox
from tests.support.checking import check, clients, failure, request
from tests.support.condition_setups import ExpectedCause, ExpectedCheck, Situation
from tests.support.conditions import CHECKED, DIAGNOSED
from tests.support.sandbox import running
from tests.support.staging import Stage

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "troubleshooting.md"
RULES_DOCUMENT: Final = DOCUMENT.with_name("revalidation.md")

DATA_PLANE_ADVICE: Final[dict[str, str]] = {
    "cmek_key_disabled": (
        "The key is disabled, destroyed, or Anthropic lost its grants: run `cmek status --live "
        "WORKSPACE`, do what it says, then retry."
    ),
    "cmek_key_network_blocked": (
        "The key may be healthy: VPC Service Controls keep Anthropic out. Let it in, or exclude "
        "the project from the perimeter."
    ),
    "cmek_key_unreachable": (
        "Retry; if it stays so, check that Cloud KMS is available in the key's location, then ask "
        "Anthropic's support."
    ),
    "cmek_context_unavailable": (
        "Anthropic could not read the workspace's encryption settings: retry in a few minutes."
    ),
}
"""Error codes that users of a workspace get from Claude's API while its key cannot be used, with
advice; the Admin API has none of them."""

INTRODUCTION: Final = """# Troubleshooting

What can be wrong before a key is made, why a validation fails, and what fixes it. Every line below
is a state that the tests set up in the sandbox; the commands are what `cmek` then prints, so they
name the sandbox's project `acme-kms-prod` and key `payments-prod` where yours will stand.

- ✅ **pass**: read, and in order.
- ⚠ **warn**: goes on, after an approver has seen it.
- ❌ **fail**: nothing is made until it is fixed.
- ❓ **unknown**: could not be read; it says who can. Never shown as a pass.
"""

CHECKS_HEAD: Final = """
## The checks

All at once, by reads only. With one folder above the project there are at most 29 requests (23
when neither ring nor key exists), besides one token for each transport, in at most three waves
that depend on each other: first what the request names; then what project, ring, key and workspace
led to; then the perimeters of the organization's access policies. A read that takes longer than
25 s with all its attempts leaves its checks unknown.

`cmek check WORKSPACE --project PROJECT` makes them without a run and prints what is not a pass. Its
exit code is 1 when one fails, and when `project` is unknown, since the project may not exist.

| id | check | requests | what goes wrong otherwise | who can tell |
| --- | --- | --- | --- | --- |
"""

CONDITIONS_HEAD: Final = """
## What the checks find

| when | check | says | what to do |
| --- | --- | --- | --- |
"""

CAUSES_HEAD: Final = """
## Why a validation fails

After a final `failure` of Anthropic's validation, and after a refused attach, each of these causes
is **proved**, **excluded** or left **open** by our own reads. Anthropic's text is shown and never
interpreted; keep its request id for Anthropic's support. Proved causes come first, then open ones,
each group in this order:

| id | cause | proved or excluded by |
| --- | --- | --- |
"""

DIAGNOSED_HEAD: Final = """
## What the diagnosis says first

| when | first cause | verdict | what to do |
| --- | --- | --- | --- |
"""


RULES_HEAD: Final = """| rule | means | severity | benchmark | why |
| --- | --- | --- | --- | --- |
"""

DATA_PLANE_HEAD: Final = """
## What Claude's API answers while a key can't be used

To the users of the workspace, as `error.details.error_code`; the Admin API does not give these.

| code | what to do |
| --- | --- |
"""


def data_plane_rows() -> list[str]:
    """One row for each code."""
    return [_row(f"`{code}`", advice) for code, advice in DATA_PLANE_ADVICE.items()]


def catalogue_rows() -> list[str]:
    """One row for each check."""
    return [
        _row(
            f"`{one.id}`",
            one.title,
            "<br>".join(one.requests) or "none",
            one.why,
            one.who_can_tell,
        )
        for one in CATALOGUE
    ]


def condition_row(condition: Situation, found: Check) -> str:
    """The row of one fault, with what the check really reported."""
    remedy = found.remedy or (f"ask {found.who_can_tell}" if found.who_can_tell else "acknowledge")
    return _row(condition.name, f"`{found.id}`", STATUS_SIGNS[found.status], _code(remedy))


def cause_rows() -> list[str]:
    """One row for each cause, in rank order."""
    return [_row(f"`{one.id}`", one.title, one.reads) for one, _ in CAUSES]


def cause_row(condition: Situation, first: Cause) -> str:
    """The row of one fault, with the cause that really came first, without times of day."""
    command = re.sub(r"[0-9]{2}:[0-9]{2} UTC", "HH:MM UTC", first.command)
    return _row(condition.name, f"`{first.id}`", first.verdict, _code(command))


def rules_table() -> str:
    """The health rules in the order of evaluation; `why` is the first line of each docstring."""
    rows = []
    for rule in HEALTH_RULES:
        means = "a remark" if rule.means is Health.HEALTHY else rule.means.replace("_", " ")
        why = (rule.find.__doc__ or "").strip().splitlines()[0]
        rows.append(_row(f"`{rule.id}`", means, rule.severity, rule.benchmark or "", why))
    return RULES_HEAD + "\n".join(rows) + "\n"


def with_rules(page: str) -> str:
    """The page about revalidation with the present rules."""
    before, head, rest = page.partition(RULES_HEAD)
    assert head, f"{RULES_DOCUMENT.name} has no table of rules"
    return before + rules_table() + rest[rest.index("\n\n") + 1 :]


async def document() -> str:
    """The whole page; every state is set up in a sandbox."""
    with running(minimal=True) as (sandbox, _):
        stage = Stage(sandbox.world)
        checked = [await _checked(sandbox, stage, *one) for one in CHECKED]
        diagnosed = [await _diagnosed(sandbox, stage, *one) for one in DIAGNOSED]
    parts = (
        (CHECKS_HEAD, catalogue_rows()),
        (CONDITIONS_HEAD, checked),
        (CAUSES_HEAD, cause_rows()),
        (DIAGNOSED_HEAD, diagnosed),
        (DATA_PLANE_HEAD, data_plane_rows()),
    )
    return INTRODUCTION + "".join(head + "\n".join(rows) + "\n" for head, rows in parts)


async def _checked(
    sandbox: Sandbox, stage: Stage, condition: Situation, expected: ExpectedCheck
) -> str:
    stage.reset()
    condition.bring_about(stage)
    report = await check(sandbox, **expected.subject)
    return condition_row(condition, next(one for one in report.checks if one.id == expected.id))


async def _diagnosed(
    sandbox: Sandbox, stage: Stage, condition: Situation, expected: ExpectedCause
) -> str:
    stage.reset()
    condition.bring_about(stage, registered=True)
    async with clients(sandbox) as ours:
        facts = await gather_facts(request(), failure(**expected.failure), ours)
    return cause_row(condition, diagnose(facts)[0])


def _code(text: str) -> str:
    """Commands as code, remarks after them as text."""
    command, remark, rest = text.partition(" (")
    return f"`{command}`{remark}{rest}" if text.startswith("gcloud") else text


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    DOCUMENT.write_text(asyncio.run(document()))
    RULES_DOCUMENT.write_text(with_rules(RULES_DOCUMENT.read_text()))
