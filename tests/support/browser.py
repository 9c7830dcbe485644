"""Prefect's user interface in headless Chromium, as a person uses it.

For the first UI (V1), which Prefect 3.9 serves beside its new one. Fields are found by the titles
that people read.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Locator, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium")
NO_CHROMIUM = "needs Debian's chromium as `chromium` on the PATH: apt-get install chromium"
SCREENSHOTS = "CMEK_SCREENSHOTS"
"""Name of the environment variable with the directory for pictures; none are saved without it."""

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # whatever the page would load from elsewhere, it must do without
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
_PATIENCE_MS = 60_000.0
_WIDTH, _HEIGHT = 1280, 860


@dataclass(frozen=True)
class Form:
    """A form that Prefect draws from a JSON schema, and the button that sends it."""

    page: Page

    def answer(self, title: str, value: str) -> None:
        """Type into the field of this title, or choose one of its values."""
        field = self._field(title)
        if field.get_by_role("textbox").count():
            field.get_by_role("textbox").fill(value)
        else:
            field.get_by_role("button").press("ArrowDown")
            self.page.get_by_role("listbox").get_by_text(value, exact=True).click()

    def switch_on(self, title: str) -> None:
        """Turn the switch of this title on."""
        self._field(title).get_by_role("switch").click()

    def send(self) -> None:
        """Press Submit; with the keyboard, since the note of a refusal lies over the button."""
        self.page.get_by_role("button", name="Submit", exact=True).press("Enter")

    def refusal(self) -> str:
        """The reason that the server gives in a note."""
        return self.page.locator(".p-toast__card", has_text="Failure reason").last.inner_text()

    def _field(self, title: str) -> Locator:
        titled = f':has(.schema-form-property__label:text-matches("^{title}( |$)"))'
        return self.page.locator(f".p-label__header{titled} + .p-label__body").last


@dataclass(frozen=True)
class Browser:
    """One window on one server's UI."""

    page: Page
    url: str

    def open_deployment(self, deployment: str) -> None:
        """From the list of deployments to one of them, given as FLOW/NAME."""
        flow, _, name = deployment.partition("/")
        self.page.goto(f"{self.url}/deployments")
        row = self.page.locator("tr", has_text=flow)
        row.get_by_role("link", name=name, exact=True).click()
        self.page.get_by_role("button", name="Run", exact=True).wait_for()

    def open_tab(self, name: str) -> None:
        """One of the open page's tabs."""
        self.page.locator(".p-tab", has_text=name).click()

    def custom_run(self, deployment: str) -> Form:
        """The form of a deployment's custom run."""
        self.open_deployment(deployment)
        self._run_menu("Custom run")
        self.page.get_by_role("button", name="Submit", exact=True).wait_for()
        return Form(self.page)

    def quick_run(self, deployment: str) -> None:
        """Start a deployment with its defaults."""
        self.open_deployment(deployment)
        self._run_menu("Quick run")

    def open_run(self, name: str) -> None:
        """From the list of runs to the newest of this name."""
        self.page.goto(f"{self.url}/runs")
        self.page.get_by_role("link", name=name, exact=True).first.click()

    def resume(self) -> Form:
        """The form that the open run waits with."""
        self.page.get_by_role("button", name="Resume", exact=True).click()
        self.page.get_by_text("Resume Flow Run").wait_for()
        self.page.get_by_role("button", name="Submit", exact=True).wait_for()
        return Form(self.page)

    def open_artifact(self, key: str) -> None:
        """From the open run to its artifact whose key begins so."""
        self.open_tab("Artifacts")
        # only what is on the screen is drawn
        self.page.set_viewport_size({"width": _WIDTH, "height": 3 * _HEIGHT})
        title = re.compile(rf"^{re.escape(key)}")
        self.page.locator(".artifact-card__title", has_text=title).first.click()
        expect(self.page.locator(".artifact-card")).to_have_count(0)  # they say some of its text
        self.page.set_viewport_size({"width": _WIDTH, "height": _HEIGHT})

    def shows(self, text: str) -> None:
        """Wait until the page shows this."""
        expect(self.page.get_by_text(text).first).to_be_visible()

    def shows_state(self, state: str) -> None:
        """Wait until the open run is in the state of this name."""
        heading = self.page.locator(".page-heading")
        expect(heading.get_by_text(state, exact=True).first).to_be_visible()

    def shows_in_view(self, text: str) -> None:
        """Wait until the open form shows this without scrolling."""
        expect(self.page.locator(".p-modal__body").get_by_text(text).last).to_be_in_viewport()

    def picture(self, name: str, *, top: bool = False) -> None:
        """Save what is in the window for the documentation, when `CMEK_SCREENSHOTS` is set."""
        directory = os.environ.get(SCREENSHOTS)
        if directory is None:
            return
        if top:
            self.page.get_by_text("Parameters", exact=True).scroll_into_view_if_needed()
        self.page.wait_for_load_state("networkidle")
        self.page.screenshot(path=Path(directory) / f"{name}.png", animations="disabled")

    def _run_menu(self, item: str) -> None:
        self.page.get_by_role("button", name="Run", exact=True).click()
        self.page.get_by_role("button", name=item, exact=True).click()


@contextmanager
def chromium(url: str) -> Iterator[Browser]:
    """A window of a Chromium without a screen."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        try:
            page = browser.new_page(viewport={"width": _WIDTH, "height": _HEIGHT})
            page.set_default_timeout(_PATIENCE_MS)
            expect.set_options(timeout=_PATIENCE_MS)
            yield Browser(page, url)
        finally:
            browser.close()
