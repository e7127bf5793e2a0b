"""Takes the pictures of the panel that the README shows, and narrow ones to look at.

Usage: python -m tests.browser.screenshots
"""

from __future__ import annotations

import re
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, FloatRect, expect, sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from lbw.tags.presets import DEFAULT_PRESETS, DEFAULT_RULE_SETS
from tests.browser import chromium
from tests.browser.actions import PAGE_LIMIT_MS, fill_small, generate, open_page
from tests.browser.panel import Panel
from tests.preset_files import PRESETS_FILE, RULE_SETS_FILE, kept_files
from tests.server import Server, running_server

PLOT_LIMIT_MS = 600_000
FOLDER = Path(__file__).resolve().parent / "screenshots"
PROMPT = "a red cat <lora:demo:1:lbw=OUTD:stop=2>"
CURVE = "<lora:demo2:0.1@0,1@0.4,0.3@0.8:curve=cosine>"
BLOCK_CURVE = "<lora:demo2:1:lbw=NONE@14.6sigma,OUTD@3sigma,NONE,OUT03-OUT06=1@0.8sigma,ALL@0.15sigma>"
FLUX = "NONE,BASE IN OUT=1,D04-D14=0.4,D09-D18=1,S00-S12=0.7,S13-S19=0.3,S30-S37=-0.25"
VECTOR = "1,0,0.2,0.4,0.6,0.8,1,1,1,0.8,0.6,0.4,0.2,0,-0.25,-0.5,0"


def panel_on(browser: Browser, server: Server, theme: str, width: int) -> Panel:
    page = browser.new_context(viewport={"width": width, "height": 1600}).new_page()
    open_page(page, server, f"?__theme={theme}")
    return Panel(page).open()


def take(panel: Panel, name: str, section: str = "lbw_active") -> None:
    panel.page.wait_for_timeout(400)
    panel.find(section).screenshot(path=FOLDER / f"{name}.png")
    panel.page.context.close()


def take_pictures(browser: Browser, server: Server) -> None:
    """The sections that show what LoRAs do."""
    panel = panel_on(browser, server, "light", 1400)
    panel.write(f"a red cat {CURVE}", caret=12)
    panel.open("lbw_curve").page.locator("#lbw_curve circle").nth(1).focus()
    take(panel, "curve", "lbw_curve")
    panel = panel_on(browser, server, "light", 1400)
    panel.write(f"a red cat {BLOCK_CURVE}", caret=12)
    panel.open("lbw_curve").find("lbw_curve").get_by_label("What the curve is of").select_option("Block weights")
    panel.page.locator("#lbw_curve circle").nth(1).focus()
    take(panel, "block_curve", "lbw_curve")
    panel = panel_on(browser, server, "dark", 1400)
    panel.write(f"a red cat {CURVE} <lora:demo:0.8:lbw=NONE@0,OUTD@0.3,ALL@1> <lora:demo_locon:0.6:stop=60%>")
    panel.open("lbw_schedule").find("lbw_schedule_show").click()
    expect(panel.find("lbw_schedule_preview", "img")).to_be_visible()
    take(panel, "schedule", "lbw_schedule")
    panel = panel_on(browser, server, "light", 1400).open("lbw_strength")
    panel.find("lbw_strength_renew").click()
    panel.choose("lbw_strength_name", "demo2")
    panel.find("lbw_strength_show").click()
    expect(panel.find("lbw_strength_picture", "img")).to_be_visible()
    take(panel, "strength", "lbw_strength")


def take_bake(browser: Browser, server: Server) -> None:
    """What two tags would be as a file of one rank."""
    panel = panel_on(browser, server, "light", 1400).open("lbw_bake")
    panel.write("a red cat <lora:demo2:0.8:lbw=OUTD> <lora:demo2:0.5>")
    for name, value in (("name", "cat-style"), ("rank", "6")):
        panel.find(f"lbw_bake_{name}", "input").fill(value)
    panel.button("lbw_bake_form", "Look").click()
    expect(panel.find("lbw_bake_form", "img")).to_be_visible(timeout=PAGE_LIMIT_MS)
    take(panel, "bake", "lbw_bake")


def take_live(browser: Browser, server: Server) -> None:
    """The section in the middle of an image, where one of two LoRAs was played; narrow ones, too."""
    for name, theme, width in (("live", "light", 1400), ("live_dark", "dark", 1400), ("live_narrow", "dark", 420)):
        panel = panel_on(browser, server, theme, width).open("lbw_live")
        fill_small(panel.page, "a red cat <lora:demo2:1:lbw=OUTD> <lora:demo:0@0,1@0.8>")
        steps = panel.page.locator("#txt2img_steps input[type=number]")
        steps.fill("50")
        steps.blur()
        panel.find("lbw_live").evaluate("section => section.scrollIntoView({block: 'center'})")
        panel.page.locator("#txt2img_generate").evaluate("button => button.click()")
        number = panel.find("lbw_live_loras").get_by_label("Strength of demo2 as a number")
        shown = panel.find("lbw_live_loras")
        for ten, value in enumerate(("0.4", "1.3", "0.75"), start=1):
            expect(shown).to_contain_text(re.compile(rf"step {ten}\d of"), timeout=PAGE_LIMIT_MS)
            number.fill(value)
            number.press("Enter")
            expect(shown).to_contain_text(f"now {value}", timeout=PAGE_LIMIT_MS)
        panel.find("lbw_live").screenshot(path=FOLDER / f"{name}.png")
        panel.page.locator("#txt2img_interrupt").evaluate("button => button.click()")
        expect(panel.page.locator("#txt2img_interrupt")).to_be_hidden(timeout=PAGE_LIMIT_MS)
        panel.page.context.close()


def take_menu(browser: Browser, server: Server) -> None:
    """The menu of presets, with what they do to the loaded model."""
    panel = panel_on(browser, server, "light", 1400)
    expect(panel.open_menu("lbw_insert_preset").locator(".lbw-strip").nth(5)).to_be_visible()
    panel.page.wait_for_timeout(400)
    field = panel.find("lbw_insert_preset")
    top, menu = field.bounding_box(), field.get_by_role("listbox").bounding_box()
    assert top and menu
    left, above, below = menu["x"] - 8, top["y"] - 8, menu["y"] + menu["height"] + 8
    clip: FloatRect = {"x": left, "y": above, "width": menu["width"] + 16, "height": below - above}
    panel.page.screenshot(path=FOLDER / "preset_menu.png", clip=clip)
    panel.page.context.close()


def make_plot(panel: Panel, images: int, **fields: str) -> None:
    """Fill in the plot's fields, and wait for its images."""
    panel.fill(**fields)
    panel.page.locator("#txt2img_generate").click()
    expect(panel.gallery).to_have_count(images, timeout=PLOT_LIMIT_MS)


def take_plots(browser: Browser, server: Server) -> None:
    """The section, an XYZ plot's grid, and the analyzer's sheet and chart."""
    panel = panel_on(browser, server, "light", 1400).open("lbw_plots")
    panel.write("a yellow dog in the snow <lora:demo_locon:1:lbw=XYZ>")
    panel.page.locator("#txt2img_seed input").fill("1")
    panel.choose_mode("XYZ plot")
    make_plot(panel, 1 + 9, lbw_xmen="0,0.5,1", lbw_ymen="IN00-IN11,M00 OUT00-OUT05,OUT06-OUT11")
    keep(panel, 0, "xyz_plot")
    panel.page.locator("#lbw_plots").screenshot(path=FOLDER / "plots.png")
    panel.choose_mode("Effective Block Analyzer")
    make_plot(panel, 2 + 6, lbw_exmen="0,1", lbw_eymen="BASE,IN08,M00,OUT04,OUT10", diff_thr="10")
    keep(panel, 0, "analyzer")
    keep(panel, 1, "analyzer_chart")
    panel.page.context.close()


def keep(panel: Panel, index: int, name: str) -> None:
    """Keep an image of the last generation."""
    source = panel.gallery.nth(index).locator("img").evaluate("image => image.src")
    image = Image.open(BytesIO(panel.page.request.get(source).body()))
    image.convert("RGB").quantize(256).save(FOLDER / f"{name}.png")  # a third of the size


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as data,
        kept_files({PRESETS_FILE: DEFAULT_PRESETS, RULE_SETS_FILE: DEFAULT_RULE_SETS}),
        running_server(Path(data), models=("--trained",)) as server,
        sync_playwright() as playwright,
    ):
        browser = chromium.launch(playwright)
        panel = panel_on(browser, server, "light", 1400)
        fill_small(panel.page, PROMPT)
        generate(panel.page)
        panel.open("lbw_weights_setting").pick("lbw_insert_preset", "OUTD")
        panel.presets.fill(f"{DEFAULT_PRESETS}MINE:1,0,0.5\n")
        expect(panel.notes).to_contain_text("MINE: 3 values")
        take(panel, "panel")
        for name, theme, width in (("make_weights", "light", 1400), ("dark", "dark", 1400), ("narrow", "light", 420)):
            panel = panel_on(browser, server, theme, width).open("lbw_make_weights")
            panel.made.fill(VECTOR)
            expect(panel.slider("BASE")).to_have_value("1")
            if name == "dark":
                panel.open("lbw_elemental").find("lbw_element_hits_button").click()
                expect(panel.find("lbw_element_hits")).to_contain_text("ATTNDEEPON")
            take(panel, name)
        panel = panel_on(browser, server, "light", 1400).open("lbw_make_weights")
        panel.make_for("58 (Flux)")
        panel.made.fill(FLUX)
        expect(panel.slider("D18")).to_have_value("1")
        take(panel, "make_weights_flux", "lbw_make_weights")
        take_menu(browser, server)
        take_pictures(browser, server)
        take_bake(browser, server)
        take_live(browser, server)
        take_plots(browser, server)
        browser.close()


if __name__ == "__main__":
    main()
