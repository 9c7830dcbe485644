"""Forms, approval and reports, used by clicking in a real browser.

With `CMEK_SCREENSHOTS=docs/screenshots` it also takes the pictures of the documentation.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prefect.client.schemas.objects import FlowRun

from cli.approvals import PendingApproval
from cli.local.processes import poll
from tasks.runs import ONBOARDING
from tests.support.browser import CHROMIUM, NO_CHROMIUM, Browser, Form, chromium
from tests.support.requests import APPROVER, REQUESTER
from tests.support.stack import Stack

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(900),
    pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM),
]


@pytest.fixture(scope="module")
def browser(stack: Stack) -> Iterator[Browser]:
    """One window, which stays open for all tests of the file."""
    with chromium(stack.local.ui_url) as browser:
        yield browser


def started_by(stack: Stack, browser: Browser, form: Form | None, deployment: str) -> FlowRun:
    """Send the form, or start with defaults; returns the one new run."""
    before = {run.id for run in stack.client.read_flow_runs(limit=200)}
    if form is None:
        browser.quick_run(deployment)
    else:
        form.send()

    def created() -> list[FlowRun] | None:
        now = stack.client.read_flow_runs(limit=200)
        found = [run for run in now if run.id not in before and not run.auto_scheduled]
        return found or None

    (run,) = poll(created, seconds=60) or []
    return run


def fill_in(form: Form, stack: Stack, workspace_id: str) -> None:
    """Fill in the three fields that have no default."""
    form.answer("Workspace", workspace_id)
    form.answer("Google Cloud project", stack.local.sandbox.project_id)
    form.answer("Requested by", REQUESTER)


def answer(form: Form, ask: PendingApproval, decision: str) -> None:
    """Fill in what a person types; the digest is in the form already."""
    form.answer("Decision", decision)
    form.answer("Workspace id, typed", ask.workspace)
    form.answer("Your e-mail address", APPROVER)
    form.answer("Comment", "reviewed with the platform team")
    form.holds("Plan digest", ask.plan_digest)


def start(stack: Stack, browser: Browser, form: Form, workspace_id: str) -> PendingApproval:
    """Send the form, wait for its approval request, and open the run."""
    run = started_by(stack, browser, form, ONBOARDING)
    ask = stack.wait_for_pending(run, seconds=120)
    browser.open_run(f"onboard {workspace_id} · waiting for approval")
    return ask


def test_an_onboarding_from_the_form_to_the_report(stack: Stack, browser: Browser) -> None:
    """The steps of `docs/first-steps.md`. A wrong id and a missing acknowledgement are refused.

    Each refusal shows its reason, and the form stays open; the right response attaches.
    """
    workspace_id = stack.workspace("fresh")
    form = browser.open_form(ONBOARDING)
    fill_in(form, stack, workspace_id)
    browser.picture("run-form")
    run = started_by(stack, browser, form, ONBOARDING)
    browser.follow_the_note()
    ask = stack.wait_for_pending(run, seconds=120)
    browser.shows(f"onboard {workspace_id} · waiting for approval")

    browser.open_artifact("cmek-onboarding-")
    for essential in (
        "This can never be undone.",
        "can never be removed or replaced",
        "Structured outputs and Console Playground will be off",
        "Who else can use the key",
        "can be destroyed without being disabled first",
        "Not checked: Workspace retains data",
        "workspace's privacy settings",
    ):
        browser.shows_in_view(essential)
    browser.picture("plan")

    browser.open_run(f"onboard {workspace_id} · waiting for approval")
    form = browser.resume()
    browser.shows_in_view("can never be removed or replaced")
    browser.picture("resume")
    answer(form, ask, "approve")
    browser.picture("resume-form")
    needed = browser.clicks.number
    form.send()
    form.refuses("acknowledge_warnings")
    form.answer("Workspace id, typed", "wrkspc_01TypedWrong1111111111111")
    form.send()
    form.refuses("wrkspc_01TypedWrong")
    browser.picture("refused")
    assert stack.run(ask.run.id).state_name == "Suspended"
    browser.clicks.number = needed
    form.switch_on("I accept the warnings")
    form.answer("Workspace id, typed", workspace_id)
    form.send()
    assert browser.clicks.number <= 10
    print(f"clicks from the dashboard to approved: {browser.clicks.number}")  # noqa: T201
    stack.wait_for_state(run, "Attached", seconds=300)
    assert stack.is_attached(workspace_id)
    browser.open_run(f"onboard {workspace_id}")
    browser.shows_state("Attached")
    browser.open_artifact("cmek-onboarding-")
    browser.shows("payments-prod has its key")
    browser.shows(APPROVER)
    browser.shows_in_view("What to do next")
    browser.picture("report")


@pytest.mark.prove
def test_a_rejection_attaches_nothing(stack: Stack, browser: Browser) -> None:
    """The report says that nothing was attached; a rejection needs no acknowledgement."""
    workspace_id = stack.new_workspace("reject-me")
    form = browser.custom_run(ONBOARDING)
    fill_in(form, stack, workspace_id)
    ask = start(stack, browser, form, workspace_id)
    form = browser.resume()
    answer(form, ask, "reject")
    form.send()
    stack.wait_for_state(ask.run, "Rejected", seconds=300)
    assert not stack.is_attached(workspace_id)
    browser.open_run(f"onboard {workspace_id}")
    browser.shows_state("Rejected")
    browser.open_artifact("cmek-onboarding-")
    browser.shows("nothing was attached")


@pytest.mark.prove
def test_a_revalidation_by_two_clicks_shows_the_broken_key(stack: Stack, browser: Browser) -> None:
    """The run fails because a sample key is broken, and the table of all keys shows which."""
    run = started_by(stack, browser, None, "revalidate-keys/scheduled")
    stack.wait_for_state(run, "Failed", seconds=120)
    browser.open_run("revalidate full")
    browser.open_artifact("cmek-fleet")
    browser.shows("broken")
    browser.picture("fleet")


@pytest.mark.prove
@pytest.mark.parametrize(
    ("state", "ends_as", "why"),
    [
        ("archived", "Failed", "archived"),
        ("default", "Failed", "is the default workspace"),
        ("attached", "Failed", "already has another key"),
        ("broken", "Failed", "already has another key"),
        ("onboarded", "Already attached", "nothing was written"),
    ],
)
def test_the_other_samples_end_as_the_page_says(
    stack: Stack, browser: Browser, state: str, ends_as: str, why: str
) -> None:
    """Each is tried; the reason is the message of the run's state."""
    if state == "onboarded":
        workspace_id = stack.new_workspace("onboarded-twice")
        form = browser.custom_run(ONBOARDING)
        fill_in(form, stack, workspace_id)
        ask = start(stack, browser, form, workspace_id)
        stack.answer(ask)
        stack.wait_for_state(ask.run, "Attached", seconds=300)
    else:
        workspace_id = stack.workspace(state)
    form = browser.custom_run(ONBOARDING)
    fill_in(form, stack, workspace_id)
    run = started_by(stack, browser, form, ONBOARDING)
    ended = stack.wait_for_state(run, ends_as, seconds=300)
    assert ended.state is not None
    assert why in str(ended.state.message)
    browser.open_run(f"onboard {workspace_id}")
    browser.shows_state(ends_as)


@pytest.mark.prove
def test_prerequisites_alone_are_checked_from_their_form(stack: Stack, browser: Browser) -> None:
    """The table of checks is the run's artifact, and nothing was made."""
    workspace_id = stack.new_workspace("only-checked")
    deployment = "check-prerequisites/prerequisites"
    form = browser.custom_run(deployment)
    fill_in(form, stack, workspace_id)
    run = started_by(stack, browser, form, deployment)
    stack.wait_for_state(run, "Checked", seconds=120)
    browser.open_run(f"check {workspace_id}")
    browser.open_artifact("cmek-checks-")
    browser.shows("Cloud KMS API is enabled")
    assert not stack.is_attached(workspace_id)
