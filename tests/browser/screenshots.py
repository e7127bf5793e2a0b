"""Takes the pictures of the panel that the README shows, and narrow ones to look at.

Usage: python -m tests.browser.screenshots
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, expect, sync_playwright

from lbw.presets import DEFAULT_PRESETS, DEFAULT_RULE_SETS
from tests.browser.actions import fill_small, generate, open_page
from tests.browser.conftest import CHROMIUM_FLAGS
from tests.browser.panel import PRESETS_FILE, RULE_SETS_FILE, Panel, kept_files
from tests.server import Server, running_server

FOLDER = Path(__file__).resolve().parent / "screenshots"
PROMPT = "a red cat <lora:demo:1:lbw=OUTD:stop=2>"
VECTOR = "1,0,0.2,0.4,0.6,0.8,1,1,1,0.8,0.6,0.4,0.2,0,-0.25,-0.5,0"


def panel_on(browser: Browser, server: Server, theme: str, width: int) -> Panel:
    page = browser.new_context(viewport={"width": width, "height": 1600}).new_page()
    open_page(page, server, f"?__theme={theme}")
    return Panel(page).open()


def take(panel: Panel, name: str) -> None:
    panel.page.wait_for_timeout(400)
    panel.page.locator("#lbw_active").screenshot(path=FOLDER / f"{name}.png")
    panel.page.context.close()


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    executable = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with (
        tempfile.TemporaryDirectory() as data,
        kept_files({PRESETS_FILE: DEFAULT_PRESETS, RULE_SETS_FILE: DEFAULT_RULE_SETS}),
        running_server(Path(data)) as server,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)
        panel = panel_on(browser, server, "light", 1400)
        fill_small(panel.page, PROMPT)
        generate(panel.page)
        panel.open("lbw_weights_setting").choose("lbw_insert_preset", "OUTD")
        panel.presets.fill(f"{DEFAULT_PRESETS}MINE:1,0,0.5\n")
        expect(panel.notes).to_contain_text("Line 12")
        take(panel, "panel")
        for name, theme, width in (("make_weights", "light", 1400), ("dark", "dark", 1400), ("narrow", "light", 420)):
            panel = panel_on(browser, server, theme, width).open("lbw_make_weights")
            panel.made.fill(VECTOR)
            expect(panel.slider("BASE")).to_have_value("1")
            if name == "dark":
                panel.open("lbw_elemental").find("lbw_element_hits_button").click()
                expect(panel.find("lbw_element_hits")).to_contain_text("ATTNDEEPON")
            take(panel, name)
        browser.close()


if __name__ == "__main__":
    main()
