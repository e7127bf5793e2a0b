"""The section Bake: what it asks of the server, what it shows, and what it writes into the prompt."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.accessibility import serious_faults
from tests.browser.actions import open_page, open_tab
from tests.browser.bakings import DONE, LOSSY, Bakings, put_in_place
from tests.browser.gradios import on_one_gradio
from tests.browser.panel import Panel
from tests.server import Server

pytestmark = pytest.mark.usefixtures("preset_files", "version")

IN_FOLDER = "Bake into the LoRA folder"
REPLACE = "Put it in the place of its tags"


@pytest.fixture
def bakings(page: Page) -> Bakings:
    return put_in_place(page)


@pytest.fixture
def panel(page: Page, bakings: Bakings) -> Panel:
    return Panel(page).open("lbw_bake")


def section(panel: Panel) -> Locator:
    return panel.find("lbw_bake_form", ".lbw-bake")


def field(panel: Panel, label: str) -> Locator:
    return section(panel).get_by_label(label, exact=True)


def press(panel: Panel, name: str) -> None:
    panel.button("lbw_bake_form", name).click()


def bake(panel: Panel, name: str) -> None:
    """Press what begins a job, until the page has its answer: only then there is a job whose state can be told."""
    with panel.page.expect_response("**/internal/lbw/bake"):
        press(panel, name)


def test_what_is_asked_for_is_what_the_tab_is_set_to(panel: Panel, bakings: Bakings):
    panel.open("lbw_weights_setting", "lbw_elemental")
    panel.presets.fill("MINE:NONE,OUT03=1\n")
    expect(panel.button("lbw_ratios", "MINE")).to_be_visible()
    panel.rules.fill("RULES:IN05:attn:0\n")
    panel.choose("lbw_default_preset", "MINE")
    panel.write("a cat <lora:one:1:lbw=MINE>")
    bake(panel, "Look")
    expect(section(panel)).to_contain_text("Waiting until other bakings are done.")
    assert bakings.orders == [{
        "prompt": "a cat <lora:one:1:lbw=MINE>", "name": "", "rank": None, "dtype": "fp16", "step": 0, "steps": 20,
        "seed": 0, "presets": "MINE:NONE,OUT03=1\n", "elements": "RULES:IN05:attn:0\n", "default_preset": "MINE",
        "action": "look", "words": True,
    }]  # fmt: skip
    bakings.set(**DONE)
    field(panel, "Tags").fill("<lora:two:0.5>")
    field(panel, "Name").fill("new")
    field(panel, "Rank").fill("16")
    panel.pick("lbw_bake_precision", "bf16")
    field(panel, "Step").fill("19")
    field(panel, "Preview image and trigger words of the source").uncheck()
    bake(panel, IN_FOLDER)
    expect(section(panel)).to_contain_text("Waiting until")
    assert bakings.orders[1] == bakings.orders[0] | {
        "prompt": "<lora:two:0.5>", "name": "new", "rank": 16, "dtype": "bf16", "step": 19, "action": "keep",
        "words": False,
    }  # fmt: skip


@on_one_gradio
def test_a_number_that_cannot_be_is_not_sent(panel: Panel, bakings: Bakings):
    for label, wrong in (("Rank", "0"), ("Rank", "1025"), ("Rank", "1.5"), ("Step", "20"), ("Step", "")):
        before = field(panel, label).input_value()
        field(panel, label).fill(wrong)
        press(panel, "Look")
        expect(field(panel, label)).to_be_focused()  # where the browser tells what is expected
        field(panel, label).fill(before)
    assert bakings.orders == []


@on_one_gradio
def test_it_is_shown_how_far_it_is(panel: Panel, bakings: Bakings):
    bar = section(panel).get_by_role("progressbar", name="Baking")
    expect(bar).to_be_hidden()
    expect(panel.button("lbw_bake_form", "Cancel")).to_be_hidden()
    bake(panel, "Look")
    expect(bar).to_be_visible()
    bakings.set(state="running", done=31)
    said = section(panel).get_by_role("status").first
    expect(said).to_have_text("Baking.")
    expect(bar).to_have_js_property("value", 31)
    expect(bar).to_have_js_property("max", 310)
    said.evaluate("said => { said.textContent = 'in another language'; }")
    bakings.set(done=62)
    expect(bar).to_have_js_property("value", 62)
    expect(said).to_have_text("in another language")  # and not read out again
    for name in ("Look", IN_FOLDER, "Download"):
        expect(panel.button("lbw_bake_form", name)).to_be_disabled()
    bakings.set(**DONE)
    expect(bar).to_be_hidden()
    expect(panel.button("lbw_bake_form", "Cancel")).to_be_hidden()
    expect(panel.button("lbw_bake_form", "Look")).to_be_enabled()


@on_one_gradio
def test_a_look_shows_the_picture_and_what_is_lost(panel: Panel, bakings: Bakings):
    bake(panel, "Look")
    bakings.set(**LOSSY)
    expect(section(panel)).to_contain_text("This is what would be in the file.")
    expect(section(panel)).to_contain_text(
        "Layers: 180 as they are; 12 with joined ranks; 8 cut to the rank; 2 as whole differences; 3 left out; "
        "1.23 % lost; 22.7 MB"
    )
    assert section(panel).locator(".lbw-notes li").all_inner_texts() == LOSSY["warnings"]
    picture = section(panel).get_by_role("img", name="Strength of the new LoRA by block and element")
    expect(picture).to_have_js_property("naturalWidth", 1)
    assert bakings.themes == ["light"]
    section(panel).locator("summary").click()
    rows = section(panel).locator("tbody tr")
    assert rows.all_inner_texts() == ["IN01\t4\t2 %", "OUT05\t3\t0.012 %", "other\t1\t0 %"]
    bake(panel, "Look")  # what was shown is of the one before
    expect(picture).to_have_count(0)
    bakings.set(**DONE)
    expect(section(panel)).to_contain_text("Layers: 300 as they are; 22.7 MB")
    expect(section(panel).locator("details")).to_have_count(0)


def test_a_kept_file_takes_the_place_of_its_tags(panel: Panel, bakings: Bakings):
    before = "a cat <lora:one:1:lbw=OUTD>, red, <lora:two:0.5>, <lora:one:1:lbw=OUTD> here"
    panel.write(before, caret=3)
    bake(panel, IN_FOLDER)
    bakings.set(**DONE | {"file": "new"})
    expect(section(panel)).to_contain_text("Kept as new: <lora:new:1>")
    press(panel, REPLACE)
    expect(panel.prompt).to_have_value("a cat <lora:new:1>, red, here")
    expect(section(panel)).to_contain_text("The tag is in the prompt.")
    panel.prompt.focus()
    panel.page.keyboard.press("Control+z")
    expect(panel.prompt).to_have_value(before)


@on_one_gradio
def test_the_default_preset_does_not_weigh_what_was_baked_with_it_again(panel: Panel, bakings: Bakings):
    panel.choose("lbw_default_preset", "OUTD")
    panel.write("<lora:one:1>")
    bake(panel, IN_FOLDER)
    bakings.set(**DONE | {"file": "new"})
    press(panel, REPLACE)
    expect(panel.prompt).to_have_value("<lora:new:1:lbw=ALL>")


@on_one_gradio
def test_a_prompt_whose_tags_have_changed_stays_as_it_is(panel: Panel, bakings: Bakings):
    panel.write("<lora:one:1> <lora:two:1>")
    bake(panel, IN_FOLDER)
    bakings.set(**DONE | {"file": "new"})
    panel.write("<lora:one:1> <lora:two:0.9>")
    press(panel, REPLACE)
    expect(section(panel)).to_contain_text("The prompt does not have all of its tags any more")
    expect(panel.prompt).to_have_value("<lora:one:1> <lora:two:0.9>")


@on_one_gradio
def test_a_download_comes_by_itself_and_again(panel: Panel, bakings: Bakings):
    with panel.page.expect_download() as download:
        bake(panel, "Download")
        bakings.set(**DONE)
    expect(section(panel)).to_contain_text("The file is ready")
    with panel.page.expect_download() as again:
        section(panel).get_by_role("link", name="Download it again").click()
    for each in (download, again):
        assert each.value.url == panel.page.url.split("?")[0] + "internal/lbw/bake/file?job=token1"


@on_one_gradio
def test_a_server_that_keeps_no_files_offers_the_download_alone(page: Page, bakings: Bakings):
    bakings.place = {"may_keep": False, "reason": "this WebUI runs with --hide-ui-dir-config"}
    panel = Panel(page).open("lbw_bake")
    expect(section(panel)).to_contain_text("Files can only be downloaded: this WebUI runs with --hide-ui-dir-config")
    expect(panel.button("lbw_bake_form", IN_FOLDER)).to_be_hidden()
    expect(panel.button("lbw_bake_form", "Download")).to_be_enabled()


@on_one_gradio
def test_cancel_ends_the_job_of_this_page(panel: Panel, bakings: Bakings):
    bake(panel, IN_FOLDER)
    bakings.set(state="running")
    press(panel, "Cancel")
    expect(section(panel)).to_contain_text("Cancelled; nothing was written.")
    assert bakings.cancelled == ["token1"]
    expect(panel.button("lbw_bake_form", "Look")).to_be_enabled()


@on_one_gradio
def test_a_baking_that_failed_says_why(panel: Panel, bakings: Bakings):
    bake(panel, "Look")
    message = "the prompt has no LoRA tag; expected <lora:NAME:STRENGTH>. Nothing was written"
    bakings.set(state="failed", message=message)
    expect(section(panel).get_by_role("status").first).to_have_text(f"Not baked: {message}")
    expect(panel.button("lbw_bake_form", "Look")).to_be_enabled()


@on_one_gradio
def test_a_job_goes_on_while_nobody_looks(panel: Panel, bakings: Bakings):
    bake(panel, IN_FOLDER)
    panel.find("lbw_bake", "> .label-wrap").click()
    expect(section(panel)).to_be_hidden()
    bakings.set(**DONE | {"file": "new"})
    panel.open("lbw_bake")
    expect(section(panel)).to_contain_text("Kept as new")
    assert bakings.cancelled == []


@on_one_gradio
def test_each_tab_has_a_job_of_its_own(panel: Panel, bakings: Bakings):
    bake(panel, "Look")
    open_tab(panel.page, "img2img")
    other = Panel(panel.page, "img2img").open("lbw_bake")
    other.write("<lora:two:1>")
    bake(other, IN_FOLDER)
    expect(section(other)).to_contain_text("Waiting")
    bakings.set(**DONE | {"file": "new"})
    expect(section(other)).to_contain_text("Kept as new")
    assert [order["prompt"] for order in bakings.orders] == ["", "<lora:two:1>"]
    open_tab(panel.page, "txt2img")
    expect(section(panel)).to_contain_text("Waiting")


@pytest.fixture
def strange(blank: Page, server: Server) -> Panel:
    """A page that may complain: a browser notes each answer that is an error."""
    open_page(blank, server)
    return Panel(blank)


REFUSALS = [
    ((422, "name of the new LoRA: it is empty"), "Not baked: name of the new LoRA: it is empty"),
    ((429, "8 bakings are waiting"), "Not baked: 8 bakings are waiting"),
    ((422, [{"msg": "no number"}]), "The server answered 422: no number"),
    ((404, "Not Found"), "The server has nothing to bake with; restart it if the extension was updated."),
    ((404, "no such job"), "The server does not know this baking any more"),
    ((500, "broken"), "The server answered 500: broken"),
    ((401, "Not authenticated"), "The server answered 401: Not authenticated"),
]


@on_one_gradio
def test_a_refusal_is_told_in_one_line(strange: Panel):
    bakings = put_in_place(strange.page)
    strange.open("lbw_bake")
    for refusal, said in REFUSALS:
        bakings.refusal = refusal
        bake(strange, "Look")
        expect(section(strange)).to_contain_text(said)
        expect(strange.button("lbw_bake_form", "Look")).to_be_enabled()


def look_begun(panel: Panel) -> Bakings:
    bakings = put_in_place(panel.page)
    panel.open("lbw_bake")
    bake(panel, "Look")
    expect(section(panel)).to_contain_text("Waiting")
    return bakings


@on_one_gradio
def test_a_job_that_a_restart_took_is_told(strange: Panel):
    bakings = look_begun(strange)
    bakings.refusal = (404, "no baking of this token")
    expect(section(strange)).to_contain_text("The server does not know this baking any more")
    expect(strange.button("lbw_bake_form", "Look")).to_be_enabled()


@on_one_gradio
def test_a_server_that_is_gone_for_a_while_is_asked_again(strange: Panel):
    bakings = look_begun(strange)
    gone = re.compile(r"/internal/lbw/bake\?")
    strange.page.route(gone, lambda route: route.abort())
    expect(section(strange)).to_contain_text("The server does not answer; it will be asked again.")
    bakings.set(**DONE)
    strange.page.unroute(gone)
    expect(section(strange)).to_contain_text("This is what would be in the file.", timeout=15_000)


@on_one_gradio
def test_the_keyboard_alone_bakes(panel: Panel, bakings: Bakings):
    field(panel, "Tags").focus()
    for key in ("Tab", *"new", "Tab", *"8", "Tab", "Tab", "Tab", "Tab", "Enter"):
        panel.page.keyboard.press(key)
    expect(panel.button("lbw_bake_form", "Cancel")).to_be_visible()
    assert [(order["name"], order["rank"], order["action"]) for order in bakings.orders] == [("new", 8, "look")]
    panel.page.keyboard.press("Tab")
    expect(panel.button("lbw_bake_form", "Cancel")).to_be_focused()


def test_there_is_no_serious_accessibility_fault(panel: Panel, bakings: Bakings):
    page = panel.page
    found = set()

    def look_at(said: str) -> None:
        expect(section(panel)).to_contain_text(said)
        found.update(serious_faults(page, panel.id("lbw_bake")))

    bake(panel, "Look")
    bakings.set(state="running", done=100)
    look_at("Baking.")
    bakings.set(**LOSSY)
    expect(section(panel)).to_contain_text("22.7 MB")
    section(panel).locator("summary").click()
    look_at("This is what would be in the file.")
    bake(panel, IN_FOLDER)
    bakings.set(**DONE | {"file": "new"})
    look_at("Kept as new")
    with page.expect_download():
        bake(panel, "Download")
        bakings.set(**DONE)
    look_at("The file is ready")
    assert found == set()


@pytest.mark.parametrize("theme", ["light", "dark"])
@on_one_gradio
def test_the_picture_is_of_the_pages_theme(unloaded: Page, server: Server, theme: str):
    bakings = put_in_place(unloaded)
    open_page(unloaded, server, f"?__theme={theme}")
    panel = Panel(unloaded).open("lbw_bake")
    bake(panel, "Look")
    bakings.set(**DONE)
    expect(section(panel).get_by_role("img")).to_be_visible()
    assert bakings.themes == [theme]
