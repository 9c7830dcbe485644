"""Prefect's user interface in headless Chromium, as a person uses it.

This is the UI that Prefect 3.9 serves by default (V2). Fields are found by their visible titles.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from playwright.sync_api import Locator, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium")
NO_CHROMIUM = "needs Debian's chromium as `chromium` on the PATH: apt-get install chromium"
SCREENSHOTS = "CMEK_SCREENSHOTS"
"""Name of the environment variable with the directory for pictures; none are saved without it."""

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-software-rasterizer",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # the page must not load anything from other hosts
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
_PATIENCE_MS = 60_000.0
_WIDTH, _HEIGHT = 1280, 860


@dataclass
class Clicks:
    """The number of clicks; typing, and Tab from field to field, are not counted."""

    number: int = 0

    def on(self, target: Locator) -> None:
        """Click, and count it."""
        target.click()
        self.number += 1


@dataclass(frozen=True)
class Form:
    """A form that Prefect draws from a JSON schema, and the button that sends it."""

    page: Page
    within: Locator
    button: str
    clicks: Clicks

    def answer(self, title: str, value: str) -> None:
        """Type into the field of this title, or choose one of its values by typing it."""
        field = self._field(title)
        text, choice = field.get_by_role("textbox"), field.get_by_label(f"Select {title}")
        text.or_(choice).first.wait_for()
        if text.count():
            text.fill(value)
            return
        choice.press("Enter")
        self.page.get_by_role("option", name=value, exact=True).wait_for()
        self.page.keyboard.type(value)
        self.page.keyboard.press("Enter")
        expect(choice).to_contain_text(value)

    def holds(self, title: str, value: str) -> None:
        """Wait until the field of this title has this value."""
        expect(self._field(title).get_by_role("textbox")).to_have_value(value)

    def switch_on(self, title: str) -> None:
        """Turn the switch of this title on."""
        self.clicks.on(self._field(title).get_by_role("switch"))

    def send(self) -> None:
        """Press the form's button."""
        self.clicks.on(self.within.get_by_role("button", name=self.button, exact=True))

    def refuses(self, *texts: str) -> None:
        """Wait until the notification with the server's reason contains these texts."""
        note = self.page.locator("[data-sonner-toast]").first
        for text in texts:
            expect(note).to_contain_text(text)

    def _field(self, title: str) -> Locator:
        label = self.page.locator("label", has_text=re.compile(rf"^{title}( |$)"))
        return self.within.locator("div:has(> fieldset)", has=label).last


_UNTIL_DRAWN: Final = """() => new Promise(resolve => {
  let timer;
  const wait = () => { clearTimeout(timer); timer = setTimeout(resolve, 1000); };
  new MutationObserver(wait).observe(document.body, {childList: true, subtree: true});
  wait();
})"""
"""Resolves when nothing has been drawn for a second."""


@dataclass(frozen=True)
class Browser:
    """One window on one server's UI."""

    page: Page
    url: str
    clicks: Clicks = field(default_factory=Clicks)

    def open_form(self, deployment: str) -> Form:
        """From the dashboard to the form of a deployment's custom run, by the shortest way."""
        self.page.goto(f"{self.url}/v2/dashboard")
        self.clicks.on(self.page.get_by_role("link", name="Deployments", exact=True).first)
        row = self.page.get_by_role("row").filter(has_text=deployment.partition("/")[0])
        name = self.page.get_by_role("link", name=deployment.partition("/")[2], exact=True)
        menu = row.filter(has=name).locator("button[aria-haspopup=menu]")
        menu.wait_for()
        # the row is drawn again when its runs arrive, which closes an open menu; a load state does
        # not help, since for the browser the dashboard is still the loaded page
        self.page.evaluate(_UNTIL_DRAWN)
        self.clicks.on(menu)
        self.clicks.on(self.page.get_by_role("menuitem", name="Custom Run", exact=True))
        return self._start_form()

    def follow_the_note(self) -> None:
        """From the notification about a new run to that run."""
        self.clicks.on(self.page.get_by_role("link", name="View run").first)
        self.page.get_by_role("tab", name="Artifacts", exact=True).wait_for()

    def open_deployment(self, deployment: str) -> None:
        """From the list of deployments to one of them, given as FLOW/NAME."""
        flow, _, name = deployment.partition("/")
        self.page.goto(f"{self.url}/v2/deployments")
        row = self.page.get_by_role("row").filter(has_text=flow)
        row.get_by_role("link", name=name, exact=True).click()
        self.page.get_by_role("button", name="Run", exact=True).wait_for()

    def custom_run(self, deployment: str) -> Form:
        """The form of a deployment's custom run."""
        self.open_deployment(deployment)
        self._run_menu("Custom run")
        return self._start_form()

    def quick_run(self, deployment: str) -> None:
        """Start a deployment with its defaults."""
        self.open_deployment(deployment)
        self._run_menu("Quick run")

    def open_run(self, name: str) -> None:
        """From the list of runs to the newest whose name begins with this."""
        self.page.goto(f"{self.url}/v2/runs")
        link = self.page.get_by_role("link", name=re.compile(rf"^{re.escape(name)}"))
        link.first.click()
        self.page.get_by_role("tab", name="Artifacts", exact=True).wait_for()

    def resume(self) -> Form:
        """Open the form of the waiting run on the page."""
        menu = "button[aria-haspopup=menu]:visible"
        self.clicks.on(self.page.locator(menu, has_text="Open menu").first)
        self.clicks.on(self.page.get_by_role("menuitem", name="Resume", exact=True))
        dialog = self.page.get_by_role("dialog")
        dialog.locator("fieldset").first.wait_for()
        return Form(self.page, dialog, "Resume", self.clicks)

    def open_artifact(self, key: str) -> None:
        """From the open run to its artifact with this text in its key."""
        self.page.get_by_role("tab", name="Artifacts", exact=True).click()
        card = self.page.locator("a[href*='/artifacts/artifact/']", has_text=key)
        card.first.click()
        self.page.get_by_role("tab", name="Raw", exact=True).wait_for()

    def shows(self, text: str) -> None:
        """Wait until the page shows this text."""
        expect(self.page.get_by_text(text).first).to_be_visible()

    def shows_in_view(self, text: str) -> None:
        """Wait until the page shows this text without scrolling."""
        expect(self.page.get_by_text(text).first).to_be_in_viewport()

    def shows_state(self, state: str) -> None:
        """Wait until the open run is in the state of this name."""
        expect(self.page.get_by_text(state, exact=True).first).to_be_visible()

    def picture(self, name: str) -> None:
        """Save what is in the window for the documentation, when `CMEK_SCREENSHOTS` is set."""
        directory = os.environ.get(SCREENSHOTS)
        if directory is None:
            return
        self.page.wait_for_load_state("networkidle")
        self.page.screenshot(path=Path(directory) / f"{name}.png", animations="disabled")

    def _start_form(self) -> Form:
        self.page.get_by_role("button", name="Submit", exact=True).wait_for()
        return Form(self.page, self.page.locator("body"), "Submit", self.clicks)

    def _run_menu(self, item: str) -> None:
        self.page.get_by_role("button", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name=item, exact=True).click()


@contextmanager
def chromium(url: str) -> Iterator[Browser]:
    """A window of headless Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        try:
            page = browser.new_page(viewport={"width": _WIDTH, "height": _HEIGHT})
            page.set_default_timeout(_PATIENCE_MS)
            expect.set_options(timeout=_PATIENCE_MS)
            yield Browser(page, url)
        finally:
            browser.close()
