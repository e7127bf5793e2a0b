"""How the panel looks on both gradios, in both themes, wide and narrow; and the menu of presets."""

from __future__ import annotations

import json
import time

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from lbw.request.model_routes import PAGE_PATH, family_data
from lbw.tags.families import KNOWN, SD1, Family
from tests.browser.accessibility import serious_faults
from tests.browser.actions import open_page
from tests.browser.gradios import on_one_gradio
from tests.browser.panel import Panel
from tests.server import Server

SECTIONS = (
    "lbw_curve", "lbw_schedule", "lbw_live", "lbw_weights_setting", "lbw_make_weights", "lbw_elemental", "lbw_plots",
    "lbw_strength", "lbw_bake",
)
FLUX = next(family for family in KNOWN if family.title == "Flux")
PRESETS = f"""\
VECTOR:1,0,0.5,0,0,0,0,0,1,1,1,1,0,0,0,0,-1
NAMED:NONE,IN00-IN11=0.25,M00=R
BOTH:{",".join(["0"] * 17)}
BOTH:{",".join(["1"] * 58)}
FLUX:{",".join(["1"] * 58)}
"""

pytestmark = pytest.mark.usefixtures("preset_files", "version")


@pytest.fixture(params=[("light", 1400), ("dark", 420)], ids=lambda each: f"{each}")
def shown(request: pytest.FixtureRequest, blank: Page, server: Server) -> Panel:
    """The panel with all that it has, in one theme and width. A theme is colours, a width is where things are."""
    theme, width = request.param
    blank.set_viewport_size({"width": width, "height": 1600})
    open_page(blank, server, f"?__theme={theme}")
    return Panel(blank).open(*SECTIONS)


# Of what can be used in a row, and of the names of its fields: what does not share a line with what is beside it.
CROOKED = """panel => {
    const ROWS = ".lbw-insert, .lbw-tools, .lbw-group, .lbw-fields, .lbw-bake-fields";
    const PARTS = "select, textarea, button, .lbw-menu-field, input:not([type=radio], .lbw-menu-field)";
    const NAMES = ".lbw-field > span, [data-testid=block-info]";
    const isSeen = each => each.checkVisibility({visibilityProperty: true}) && each.getBoundingClientRect().width > 0;
    const say = each => each.outerHTML.slice(0, 120);
    const found = [];
    function compare(parts, edge) {
        for (const one of parts) for (const other of parts) {
            const [a, b] = [one, other].map(each => each.getBoundingClientRect());
            const isBeside = a.right <= b.left + 1 && a.top < b.bottom && b.top < a.bottom;
            const apart = edge(a) - edge(b);
            if (isBeside && Math.abs(apart) > 2) found.push(`${apart} ${say(one)} ${say(other)}`);
        }
    }
    const rows = [...panel.querySelectorAll(ROWS)].filter(isSeen);
    for (const row of rows) {
        compare([...row.querySelectorAll(PARTS)].filter(isSeen), box => (box.top + box.bottom) / 2);
        if (row.matches(".lbw-insert, .lbw-axes, .lbw-bake-fields")) {
            compare([...row.querySelectorAll(NAMES)].filter(isSeen), box => box.top);
        }
    }
    return [rows.length, found];
}"""
# What is cut off or stands out at the right.
OUTSIDE = """panel => {
    const right = panel.getBoundingClientRect().right;
    const parts = [...panel.querySelectorAll("select, textarea, button, input, .block, .lbw-menu-field")];
    const isOutside = each => each.getBoundingClientRect().right > right + 1;
    return parts.filter(isOutside).map(each => each.outerHTML.slice(0, 120));
}"""


def test_what_stands_in_a_row_shares_a_line(shown: Panel):
    panel = shown.find("lbw_panel")
    expect(shown.find("lbw_curve", "circle").first).to_be_visible()
    shown.pick("lbw_insert_preset", "OUTD")
    for mode in ("XYZ plot", "Effective Block Analyzer"):
        shown.choose_mode(mode)
        rows, crooked = panel.evaluate(CROOKED)
        assert rows > 15
        assert crooked == []
        assert panel.evaluate(OUTSIDE) == []
    shown.make_for("58 (Flux)")
    shown.find("lbw_curve").get_by_label("What the curve is of").select_option("Block weights")
    assert panel.evaluate(CROOKED)[1] == []
    assert panel.evaluate(OUTSIDE) == []


@on_one_gradio
def test_sections_that_belong_together_stand_together(panel: Panel):
    ids = "#lbw_status, #lbw_default_preset, .lbw-group-title, " + ", ".join(f"#{name}" for name in SECTIONS)
    found = panel.find("lbw_panel").locator(ids).evaluate_all(
        "all => all.map(each => each.matches('.lbw-group-title') ? each.textContent : each.id)"
    )
    assert found == [
        "lbw_status", "lbw_default_preset", "lbw_curve", "lbw_schedule", "lbw_live",
        "Presets and rules", "lbw_weights_setting", "lbw_make_weights", "lbw_elemental",
        "Plots", "lbw_plots", "LoRA files", "lbw_strength", "lbw_bake",
    ]


def load(page: Page, family: Family | None) -> None:
    """Let a model of a family be loaded, or none."""
    answer = json.dumps({"family": family and family_data(family)})
    page.unroute(f"**{PAGE_PATH}")
    page.route(f"**{PAGE_PATH}", lambda route: route.fulfill(body=answer, content_type="application/json"))


# The colours of a strip's cells, from left to right.
CELLS = """strip => [...strip.querySelectorAll("path")].flatMap(path => {
    const {fill} = getComputedStyle(path);
    return [...path.getAttribute("d").matchAll(/M([\\d.]+) /g)].map(([, x]) => [Number(x), fill]);
}).sort(([one], [other]) => one - other).map(([, fill]) => fill)"""
COLOUR = """(panel, value) => {
    const probe = panel.appendChild(document.createElement("i"));
    probe.style.color = lbwStrip.colourOf(value);
    const {color} = getComputedStyle(probe);
    probe.remove();
    return color;
}"""


def expected_cells(panel: Panel, values: list[str]) -> list[str]:
    colours = {value: panel.find("lbw_panel").evaluate(COLOUR, value) for value in {*values}}
    assert len({*colours.values()}) == len(colours)
    return [colours[value] for value in values]


def expect_cells(panel: Panel, strip: Locator, values: list[str]) -> None:
    """Wait for the cells of a strip: a menu is drawn anew when the server has answered."""
    expected = expected_cells(panel, values)
    deadline = time.monotonic() + 5
    while strip.evaluate(CELLS) != expected and time.monotonic() < deadline:
        panel.page.wait_for_timeout(50)
    assert strip.evaluate(CELLS) == expected


def choice(menu: Locator, name: str) -> Locator:
    return menu.locator(f"[role=option][data-value='{name}']")


def blocks(family: Family, **values: str) -> list[str]:
    return [values.get(label, "0") for label in family.labels]


def use(panel: Panel, presets: str) -> None:
    """Type presets, which are choices then."""
    panel.open("lbw_weights_setting").presets.fill(presets)
    expect(panel.find("lbw_ratios", ".lbw-name")).to_have_text(presets[: presets.index(":")])


def test_a_menu_shows_what_presets_do_to_the_loaded_model(panel: Panel):
    load(panel.page, SD1)
    use(panel, PRESETS)
    menu = panel.open_menu("lbw_insert_preset")
    vector = blocks(SD1, BASE="1", IN02="0.5", OUT03="1", OUT04="1", OUT05="1", OUT06="1", OUT11="-1")
    named = blocks(SD1, **{f"IN{number:02}": "0.25" for number in range(12)}, M00="R")
    for name, values, words in (
        ("VECTOR", vector, "VECTOR: BASE OUT03-OUT06 1, IN02 0.5, OUT11 -1"),
        ("NAMED", named, "NAMED: IN00-IN11 0.25, M00 R"),
        ("BOTH", blocks(SD1), "BOTH: all 0"),
    ):
        assert len(values) == 26
        expect_cells(panel, choice(menu, name).locator("svg"), values)
        expect(choice(menu, name)).to_have_accessible_name(words)
    expect(choice(menu, "FLUX").locator("svg")).to_have_count(0)
    expect(choice(menu, "FLUX")).to_contain_text("not for this model")
    expect(choice(menu, "FLUX")).to_have_accessible_name("FLUX: not for this model")


@on_one_gradio
def test_a_menu_follows_the_model_and_the_presets(panel: Panel):
    load(panel.page, SD1)
    use(panel, PRESETS)
    panel.pick("lbw_insert_preset", "FLUX")
    expect(panel.menu("lbw_insert_preset")).to_contain_text("not for this model")
    load(panel.page, FLUX)
    menu = panel.open_menu("lbw_insert_preset")
    expect(choice(menu, "VECTOR")).to_have_accessible_name("VECTOR: not for this model")
    for name in ("FLUX", "BOTH"):
        expect_cells(panel, choice(menu, name).locator("svg"), ["1"] * len(FLUX.labels))
    expect(panel.menu("lbw_insert_preset").locator("svg")).to_be_visible()
    panel.page.keyboard.press("Escape")
    use(panel, "OTHER:NONE,IN04=1\n")
    expect(panel.menu("lbw_insert_preset")).to_have_text("")


@on_one_gradio
def test_without_a_model_a_preset_is_drawn_as_of_the_models_that_it_is_for(panel: Panel):
    load(panel.page, None)
    use(panel, PRESETS)
    menu = panel.open_menu("lbw_insert_preset")
    for name, family in (("VECTOR", SD1), ("FLUX", FLUX)):
        assert len(choice(menu, name).locator("svg").evaluate(CELLS)) == len(family.labels), name


@on_one_gradio
def test_a_server_that_does_not_answer_leaves_the_menu_as_it_is(panel: Panel):
    held: list[Route] = []
    panel.page.route(f"**{PAGE_PATH}", lambda route: held.append(route))
    use(panel, PRESETS)
    panel.menu("lbw_insert_preset").click()
    menu = panel.find("lbw_insert_preset").get_by_role("listbox")
    expect(choice(menu, "FLUX").locator("svg")).to_be_visible()
    choice(menu, "NAMED").click()
    expect(panel.menu("lbw_insert_preset")).to_contain_text("NAMED")
    held[0].fulfill(status=204)


@on_one_gradio
def test_the_menu_is_used_with_the_keyboard(panel: Panel):
    load(panel.page, SD1)
    field, keyboard = panel.menu("lbw_insert_preset"), panel.page.keyboard
    menu = panel.find("lbw_insert_preset").get_by_role("listbox")

    def active() -> str:
        found: str = field.evaluate(
            "field => document.getElementById(field.getAttribute('aria-activedescendant')).dataset.value"
        )
        return found

    field.focus()
    keyboard.press("ArrowDown")
    expect(field).to_have_attribute("aria-expanded", "true")
    assert active() == ""
    keyboard.press("ArrowDown")
    assert active() == "NONE"
    keyboard.press("End")
    assert active() == "FLUXALL"
    keyboard.press("Home")
    keyboard.type("out")
    assert active() == "OUTALL"
    keyboard.type("d")
    assert active() == "OUTD"
    keyboard.press("Enter")
    expect(menu).to_have_count(0)
    expect(field).to_contain_text("OUTD")
    expect(field).to_be_focused()
    keyboard.press("Space")
    assert active() == "OUTD"
    expect(choice(menu, "OUTD")).to_have_attribute("aria-selected", "true")
    keyboard.press("ArrowUp")
    keyboard.press("Escape")
    expect(menu).to_have_count(0)
    expect(field).to_contain_text("OUTD")
    keyboard.press("ArrowUp")
    panel.prompt.click()
    expect(menu).to_have_count(0)
    expect(field).to_have_attribute("aria-expanded", "false")


@on_one_gradio
def test_the_default_presets_choices_have_strips_too(panel: Panel):
    load(panel.page, SD1)
    use(panel, PRESETS)
    field = panel.find("lbw_default_preset", "input")
    field.click()
    items = panel.find("lbw_default_preset").get_by_role("option")
    expect(items).to_have_count(5)
    for name, values in (("VECTOR", 26), ("NAMED", 26)):
        strip = choice(panel.find("lbw_default_preset"), name).locator("svg.lbw-strip")
        expect(strip).to_be_visible()
        assert len(strip.evaluate(CELLS)) == values
    expect(choice(panel.find("lbw_default_preset"), "FLUX")).to_have_attribute("aria-label", "FLUX: not for this model")
    field.fill("vec")
    expect(items).to_have_count(1)
    expect(items).to_have_attribute("aria-label", "VECTOR: BASE OUT03-OUT06 1, IN02 0.5, OUT11 -1")
    field.fill("NAM")
    expect(items).to_have_attribute("aria-label", "NAMED: IN00-IN11 0.25, M00 R")
    items.click()
    expect(items).to_have_count(0)
    expect(field).to_have_value("NAMED")


def test_the_default_preset_is_any_text_and_its_menu_is_used_by_keyboard(panel: Panel):
    load(panel.page, SD1)
    use(panel, PRESETS)
    field, keyboard = panel.find("lbw_default_preset", "input"), panel.page.keyboard
    items = panel.find("lbw_default_preset").get_by_role("option")
    panel.page.evaluate("addEventListener('keydown', ({key}) => { window.lastKey = key; })")
    field.focus()
    expect(items).to_have_count(0)
    for _ in range(3):
        keyboard.press("ArrowDown")
    expect(items).to_have_count(5)
    keyboard.press("ArrowDown")
    keyboard.press("ArrowUp")
    keyboard.press("Enter")
    expect(items).to_have_count(0)
    expect(field).to_have_value("NAMED")
    keyboard.press("ArrowDown")
    expect(choice(panel.find("lbw_default_preset"), "NAMED")).to_have_attribute("aria-selected", "true")
    keyboard.press("Escape")
    expect(items).to_have_count(0)
    expect(field).to_have_value("NAMED")
    assert panel.page.evaluate("lastKey") == "ArrowDown"  # the host's own Escape interrupts a generation
    for key in ("ArrowDown", "Enter"):
        keyboard.press(key)
    expect(items).to_have_count(0)
    expect(field).to_have_value("NAMED")
    field.fill("")
    keyboard.type("NONE,M00=1")
    expect(items).to_have_count(0)
    for key in ("Enter", "ArrowDown", "Enter"):
        keyboard.press(key)
    expect(items).to_have_count(0)
    expect(field).to_have_value("NONE,M00=1")
    field.fill("BO")
    expect(items).to_have_count(1)
    keyboard.press("Enter")
    expect(field).to_have_value("BO")
    keyboard.press("Tab")
    expect(items).to_have_count(0)


@on_one_gradio
def test_strips_are_made_when_a_menu_is_opened(panel: Panel):
    strips = panel.find("lbw_panel").locator(".lbw-strip")
    expect(strips).to_have_count(0)
    expect(panel.open_menu("lbw_insert_preset").locator(".lbw-strip").first).to_be_visible()
    panel.page.keyboard.press("Escape")
    expect(strips).to_have_count(0)


def test_the_open_menu_has_no_serious_accessibility_fault(panel: Panel):
    load(panel.page, SD1)
    use(panel, PRESETS)
    panel.pick("lbw_insert_preset", "VECTOR")
    menu = panel.open_menu("lbw_insert_preset")
    panel.page.keyboard.press("ArrowDown")
    expect(choice(menu, "FLUX")).to_contain_text("not for this model")
    assert serious_faults(panel.page, panel.id("lbw_status")) == set()
