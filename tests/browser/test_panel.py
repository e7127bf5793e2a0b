"""The panel: what each control does to the prompt and to the files."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from lbw.tags.curves import Shape, parse_curve
from lbw.tags.families import KNOWN
from lbw.tags.limits import MOST_KEYFRAMES
from lbw.tags.positions import Unit, nominal_sigmas, step_at
from lbw.tags.presets import DEFAULT_PRESETS
from tests.browser import bakings
from tests.browser.accessibility import serious_faults
from tests.browser.actions import open_page, open_tab
from tests.browser.gradios import on_one_gradio, on_the_whole_webui
from tests.browser.panel import Panel
from tests.browser.test_scripts import value_at
from tests.preset_files import PRESETS_FILE, RULE_SETS_FILE
from tests.server import Server

ONES = ",".join(["1"] * 17)
TWO_TAGS = "a cat <lora:a:1> and <lora:b:0.5:lbw=INS>"


pytestmark = pytest.mark.usefixtures("preset_files", "version")


def test_a_preset_goes_into_the_tag_at_the_cursor(panel: Panel):
    panel.write(TWO_TAGS, caret=10)
    panel.pick("lbw_insert_preset", "OUTD")
    panel.find("lbw_put_lbw").click()
    expect(panel.prompt).to_have_value("a cat <lora:a:1:lbw=OUTD> and <lora:b:0.5:lbw=INS>")
    panel.pick("lbw_insert_preset", "MIDD")
    panel.find("lbw_put_lbw").click()
    expect(panel.prompt).to_have_value("a cat <lora:a:1:lbw=MIDD> and <lora:b:0.5:lbw=INS>")


@on_one_gradio
def test_a_preset_goes_into_all_tags_if_the_cursor_is_in_none(panel: Panel):
    panel.write(TWO_TAGS, caret=0)
    panel.pick("lbw_insert_preset", "OUTD")
    panel.find("lbw_put_lbw").click()
    expect(panel.prompt).to_have_value("a cat <lora:a:1:lbw=OUTD> and <lora:b:0.5:lbw=OUTD>")
    expect(panel.find("lbw_status")).to_contain_text("a, b: lbw=OUTD")


def test_the_browsers_undo_takes_an_insertion_back(panel: Panel):
    panel.write(TWO_TAGS, caret=0)
    panel.pick("lbw_insert_preset", "OUTD")
    panel.find("lbw_put_lbw").click()
    expect(panel.prompt).not_to_have_value(TWO_TAGS)
    panel.prompt.focus()
    panel.page.keyboard.press("Control+z")
    expect(panel.prompt).to_have_value(TWO_TAGS)


def test_a_loras_own_default_is_made_of_its_tag_and_put_into_it(panel: Panel, server: Server):
    file = server.data / "models" / "Lora" / "demo.json"
    has_files = file.parent.exists()
    if has_files:
        file.write_text('{"notes": "\u732b", "preferred weight": 0.7}', encoding="utf-8")
    own = panel.find("lbw_own")
    panel.write("a cat <lora:demo:0.8:lbw=OUTD:stop=5>")
    panel.button("lbw_own", "Save the tag's weights as its default").click()
    expect(own).to_contain_text("Its default: lbw=OUTD:stop=5")
    written = panel.prompt.input_value()
    own.locator(".lbw-own").click(position={"x": 1, "y": 1})  # beside the buttons
    expect(panel.prompt).to_have_value(written)
    if has_files:
        expected = {"notes": "\u732b", "preferred weight": 0.7, "additional weight": "OUTD:stop=5"}
        assert json.loads(file.read_text(encoding="utf-8")) == expected
    expect(panel.button("lbw_own", "Use its default")).to_have_count(0)
    panel.write("a cat <lora:demo:0.8: LBW=INS> <lora:nope:1:lbw=INS>", caret=20)
    panel.page.keyboard.press("Shift")
    panel.button("lbw_own", "Use its default").click()
    expect(panel.prompt).to_have_value("a cat <lora:demo:0.8:lbw=OUTD:stop=5> <lora:nope:1:lbw=INS>")
    panel.button("lbw_own", "Remove its default").click()
    expect(own).to_contain_text("Removed.")
    if has_files:
        assert json.loads(file.read_text(encoding="utf-8")) == {"notes": "\u732b", "preferred weight": 0.7}
        file.unlink()
    for caret in (0, len(panel.prompt.input_value())):  # no tag, and a LoRA that the host does not know
        panel.prompt.evaluate("(area, at) => area.setSelectionRange(at, at)", caret)
        panel.prompt.press("Shift")
        expect(own).to_be_hidden()


@on_one_gradio
def test_a_choice_says_which_blocks_it_turns_on(panel: Panel):
    options = panel.open_menu("lbw_insert_preset").get_by_role("option")
    expect(options.filter(has_text="OUTD")).to_have_accessible_name("OUTD: BASE OUT03-OUT06 1")
    expect(options.filter(has_text=re.compile("^INS$"))).to_have_accessible_name("INS: BASE IN01-IN02 IN04 1")


@on_one_gradio
def test_rules_and_steps_go_into_the_tag(panel: Panel):
    panel.write("<lora:a:1>", caret=3)
    panel.pick("lbw_insert_rules", "XYZ")
    panel.find("lbw_put_lbwe").click()
    expect(panel.prompt).to_have_value("<lora:a:1:lbwe=XYZ>")
    panel.find("lbw_insert_start", ":is(textarea, input)").fill("2")
    panel.find("lbw_insert_stop", ":is(textarea, input)").fill("50%")
    panel.find("lbw_put_steps").click()
    expect(panel.prompt).to_have_value("<lora:a:1:lbwe=XYZ:start=2:stop=50%>")


@on_one_gradio
def test_what_would_break_a_tag_is_refused(panel: Panel):
    panel.write("<lora:a:1>", caret=3)
    panel.find("lbw_insert_start", ":is(textarea, input)").fill("2>3")
    panel.find("lbw_put_steps").click()
    expect(panel.find("lbw_status")).to_contain_text("start=2>3")
    expect(panel.prompt).to_have_value("<lora:a:1>")


@on_one_gradio
def test_without_a_lora_tag_the_panel_says_so(panel: Panel):
    panel.write("a cat")
    panel.pick("lbw_insert_preset", "OUTD")
    panel.find("lbw_put_lbw").click()
    expect(panel.find("lbw_status")).to_contain_text("no LoRA tag")
    expect(panel.prompt).to_have_value("a cat")


@on_one_gradio
def test_the_keyboard_alone_puts_a_preset_into_a_tag(panel: Panel):
    panel.write(TWO_TAGS, caret=10)
    panel.menu("lbw_insert_preset").focus()
    panel.page.keyboard.type("OUTALL")
    panel.page.keyboard.press("Tab")
    expect(panel.find("lbw_put_lbw")).to_be_focused()
    panel.page.keyboard.press("Enter")
    expect(panel.prompt).to_have_value("a cat <lora:a:1:lbw=OUTALL> and <lora:b:0.5:lbw=INS>")
    expect(panel.find("lbw_put_lbw")).to_be_focused()


@on_one_gradio
def test_a_name_in_the_list_goes_into_the_tag(panel: Panel):
    panel.open("lbw_weights_setting").write("<lora:a:1>")
    panel.button("lbw_ratios", "MIDD").click()
    expect(panel.prompt).to_have_value("<lora:a:1:lbw=MIDD>")


def test_bad_lines_are_marked_while_typing(panel: Panel):
    panel.open("lbw_weights_setting")
    panel.presets.fill(f"GOOD:{ONES}\nBAD:1,2,3\n# a comment\nWORSE:{ONES[:-1]}abc\nA=B:{ONES}\n<b>X</b>:{ONES}")
    expect(panel.notes).to_contain_text("Line 2 BAD: 3 values; expected 12, 17, 20, 26, 61")
    expect(panel.notes).to_contain_text("Line 4 WORSE: value 17 of 17")
    expect(panel.notes).to_contain_text("Line 5 A=B: '=' cannot stand in a tag")
    expect(panel.notes).to_contain_text("Line 6 <b>X</b>: '>' cannot stand in a tag")
    assert panel.find("lbw_ratios").locator(".lbw-name").all_inner_texts() == ["GOOD", "BAD", "WORSE"]
    panel.notes.get_by_role("button", name="Line 4").click()
    selected = panel.presets.evaluate("area => area.value.slice(area.selectionStart, area.selectionEnd)")
    assert selected.startswith("WORSE:")


def test_what_is_typed_becomes_a_choice_at_once(panel: Panel):
    panel.open("lbw_weights_setting")
    panel.presets.fill(f"MINE:{ONES}\n")
    expect(panel.button("lbw_ratios", "MINE")).to_be_visible()
    panel.write("<lora:a:1>")
    panel.pick("lbw_insert_preset", "MINE")
    panel.find("lbw_put_lbw").click()
    expect(panel.prompt).to_have_value("<lora:a:1:lbw=MINE>")
    panel.choose("lbw_default_preset", "MINE")
    expect(panel.find("lbw_default_preset", "input")).to_have_value("MINE")


@pytest.mark.parametrize(
    ("path", "section", "area", "prefix", "content"),
    [
        (PRESETS_FILE, "lbw_weights_setting", "lbw_ratiospreset", "lbw", "lbw_ratios"),
        (RULE_SETS_FILE, "lbw_elemental", "element", "lbw_element", "lbw_element_names"),
    ],
)
def test_saving_keeps_comments_and_reload_forgets_edits(
    panel: Panel, path: Path, section: str, area: str, prefix: str, content: str
):
    panel.open(section)
    box = panel.find(area, "textarea")
    text = f"# mine, \u732b\n\n{box.input_value()}\nnot an entry\n"
    box.fill(text)
    panel.find(f"{prefix}_savetext").click()
    expect(panel.find(content)).to_contain_text("Saved.")
    assert path.read_text(encoding="utf-8") == text
    box.fill("lost")
    panel.find(f"{prefix}_reload").click()
    expect(box).to_have_value(text)
    assert list(path.parent.glob(f".{path.name}*")) == []


@on_one_gradio
def test_a_file_that_changed_on_disk_is_not_written_over_unasked(panel: Panel):
    panel.open("lbw_weights_setting")
    panel.presets.fill(f"MINE:{ONES}\n")
    PRESETS_FILE.write_text(f"THEIRS:{ONES}\n")
    panel.find("lbw_savetext").click()
    expect(panel.notes).to_contain_text("Not saved")
    expect(panel.notes).to_contain_text("THEIRS, MINE")
    assert PRESETS_FILE.read_text() == f"THEIRS:{ONES}\n"
    expect(panel.find("lbw_savetext")).to_have_text("Save over the changed file")
    panel.find("lbw_savetext").click()
    expect(panel.notes).to_contain_text("Saved.")
    assert PRESETS_FILE.read_text() == f"MINE:{ONES}\n"
    expect(panel.find("lbw_savetext")).to_have_text("Save Presets")


def test_a_page_is_loaded_with_what_is_in_the_file_now(page: Page, server: Server):
    PRESETS_FILE.write_text(f"LATER:{ONES}\n")
    RULE_SETS_FILE.write_text("LATER:M00:attn:0\n")
    open_page(page, server)
    expect(Panel(page).presets).to_have_value(f"LATER:{ONES}\n")
    expect(Panel(page, "img2img").presets).to_have_value(f"LATER:{ONES}\n")
    panel = Panel(page).open("lbw_elemental")
    expect(panel.rules).to_have_value("LATER:M00:attn:0\n")
    assert page.evaluate(HELD)["elements"] == "LATER:M00:attn:0\n"
    page.reload()


@on_one_gradio
def test_sliders_make_a_vector(panel: Panel):
    panel.open("lbw_make_weights").make_for("17 (SD1/SD2)", "by number")
    panel.button("lbw_sliders", "Set all 1").click()
    expect(panel.made).to_have_value(ONES)
    panel.button("lbw_sliders", "Set all 0").click()
    set_range(panel, "IN04-OUT05", "0.5")
    expect(panel.made).to_have_value("0,0,0,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0,0,0,0,0,0")
    panel.slider("BASE").focus()
    panel.page.keyboard.press("ArrowRight")
    expect(panel.made).to_have_value("0.05,0,0,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0,0,0,0,0,0")
    panel.slider("OUT11 value").fill("X+0.2")
    panel.slider("OUT11 value").blur()
    expect(panel.made).to_have_value("0.05,0,0,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0.5,0,0,0,0,0,X+0.2")
    expect(panel.slider("OUT11")).to_be_disabled()
    panel.slider("M00 value").fill("half")
    panel.slider("M00 value").blur()
    expect(panel.made_said).to_contain_text("'half' is not a value; expected a number, R, U, X, X+n or X-n")
    expect(panel.slider("M00 value")).to_have_value("0.5")


def set_range(panel: Panel, blocks: str, value: str = "1") -> None:
    panel.slider("Range of blocks").fill(blocks)
    panel.slider("Value").fill(value)
    panel.button("lbw_sliders", "Set range").click()


@on_one_gradio
def test_each_layout_has_a_slider_for_each_value(panel: Panel):
    panel.open("lbw_make_weights")
    for model in (
        "12 (SDXL)", "17 (SD1/SD2)", "20 (SDXL)", "26 (SD1/SD2)", "25 (SD3)", "58 (Flux)", "61 (Flux)",
        "61 (Qwen-Image)",
    ):  # fmt: skip
        length = int(model.split()[0])
        panel.make_for(model, "by number")
        for value in ("0", "1"):
            panel.button("lbw_sliders", f"Set all {value}").click()
            expect(panel.made).to_have_value(",".join([value] * length))
        assert panel.find("lbw_sliders").locator("input[type=range]").count() == length, model


@on_one_gradio
def test_layouts_are_offered_for_models_of_every_family(panel: Panel):
    panel.open("lbw_make_weights")
    groups = panel.slider("Weights type").locator("optgroup")
    groups.first.wait_for(state="attached")
    titles = groups.evaluate_all("groups => groups.map(group => group.label)")
    assert titles[:5] == ["SD1/SD2", "SDXL", "SD3", "SD3.5 large", "Flux"]
    assert sorted(titles) == sorted(family.title for family in KNOWN)
    assert groups.nth(0).locator("option").all_inner_texts() == ["17 (SD1/SD2)", "26 (SD1/SD2)"]
    assert groups.nth(4).locator("option").all_inner_texts() == ["58 (Flux)", "61 (Flux)"]
    expect(panel.slider("Weights type").locator("option:checked")).to_have_text("17 (SD1/SD2)")


@on_one_gradio
def test_the_shorter_form_is_written_unless_one_is_asked_for(panel: Panel):
    panel.open("lbw_make_weights")
    panel.button("lbw_sliders", "Set all 0").click()
    expect(panel.made).to_have_value("0")
    set_range(panel, "BASE OUT03-OUT06")
    expect(panel.made).to_have_value("NONE,BASE OUT03-OUT06=1")
    set_range(panel, "IN01 IN04 IN07 M00 OUT08", "0.5")
    expect(panel.made).to_have_value("1,0.5,0,0.5,0,0.5,0,0.5,1,1,1,1,0,0.5,0,0,0")
    panel.make_for("17 (SD1/SD2)", "by name")
    expect(panel.made).to_have_value("NONE,BASE OUT03-OUT06=1,IN01 IN04 IN07 M00 OUT08=0.5")
    panel.button("lbw_sliders", "Set all 1").click()
    expect(panel.made).to_have_value("ALL,IN00 IN03 IN06 IN09-IN11 OUT00-OUT02=0")
    panel.make_for("26 (SD1/SD2)", "by name")
    panel.button("lbw_sliders", "Set all 1").click()
    expect(panel.made).to_have_value("1")
    panel.make_for("58 (Flux)", "by name")
    panel.button("lbw_sliders", "Set all 0").click()
    expect(panel.made).to_have_value("NONE,IN OUT=1")


@on_one_gradio
def test_a_range_may_be_all_that_stands_left_of_an_equals_sign(panel: Panel):
    panel.open("lbw_make_weights").make_for("26 (SD1/SD2)", "by name")
    panel.button("lbw_sliders", "Set all 1").click()
    for blocks, value, expected in (
        ("not base m", "0.5", "0.5,BASE M00=1"),
        ("OUT", "0", "0.5,BASE M00=1,OUT00-OUT11=0"),
        ("OUT3-IN10 FIRST", "1", "ALL,OUT04-OUT11=0"),
    ):
        set_range(panel, blocks, value)
        expect(panel.made).to_have_value(expected)


@on_one_gradio
def test_a_range_outside_of_the_layout_is_refused(panel: Panel):
    panel.open("lbw_make_weights").make_for("61 (Flux)")
    set_range(panel, "IN04-OUT05")
    expect(panel.made_said).to_contain_text("'IN04' is not a block of this Flux model; expected CLIP, T5, IN, D00-D18")
    panel.make_for("17 (SD1/SD2)")
    for blocks in ("IN00 IN03", ""):
        set_range(panel, blocks)
        expect(panel.made_said).to_contain_text("expected blocks of this layout, such as IN04-OUT05")
    expect(panel.made).to_have_value("0")


@on_one_gradio
def test_a_pasted_vector_moves_the_sliders(panel: Panel):
    panel.open("lbw_make_weights")
    panel.made.fill(",".join(["0.25"] * 26))
    expect(panel.slider("IN03")).to_have_value("0.25")
    panel.made.fill(" ".join(["0.5"] * 16) + "\n1")
    expect(panel.slider("OUT11")).to_have_value("1")
    expect(panel.slider("IN03")).to_have_count(0)
    panel.made.fill(",".join(["0.75"] * 39))
    expect(panel.slider("OUT18")).to_have_value("0.75")


@on_one_gradio
def test_pasted_blocks_move_the_sliders(panel: Panel):
    panel.open("lbw_make_weights")
    panel.made.fill("outd,M=0.5")
    expect(panel.made_said).to_have_text("'outd' is neither a value nor a preset's name")
    panel.made.fill("OUTD,M=0.5,not in-out=X")
    for label, value in (("BASE value", "X"), ("M00 value", "0.5"), ("OUT03 value", "1"), ("OUT07 value", "0")):
        expect(panel.slider(label)).to_have_value(value)
    expect(panel.slider("IN00")).to_have_count(0)
    panel.made.fill("NONE,in0=1")
    expect(panel.slider("IN00")).to_have_value("1")
    panel.made.fill("0.3")
    expect(panel.slider("OUT00")).to_have_value("0.3")
    expect(panel.made_said).to_have_text("")
    panel.make_for("58 (Flux)")
    panel.made.fill("NONE,BASE IN OUT=1,D3=0.5")
    expect(panel.slider("D03")).to_have_value("0.5")
    expect(panel.slider("BASE")).to_have_value("1")
    panel.made.fill("NONE,T5=1")
    expect(panel.slider("CLIP")).to_have_value("0")
    expect(panel.slider("T5")).to_have_value("1")


# (what is written as block weights, what is said of it)
UNREADABLE = [
    ("1,2,3", "3 values; expected 17, 26 on this SD1/SD2 model"),
    (ONES.replace("1", "on", 1), "value 1 of 17: 'on' is not a value; expected a number, R, U, X, X+n or X-n"),
    ("NONE,OUT12=1", "'OUT12' is not a block of this SD1/SD2 model; expected BASE, IN00-IN11, M00, OUT00-OUT11"),
    ("NONE,D00-D18=1", "'D00' is not a block of this SD1/SD2 model"),
    ("NONE,D00-D18=1", "; Flux models have it"),
    ("NONE,IN04-=1", "'IN04-' is not a block"),
    ("NONE,OUT=full", "OUT: 'full' is not a value"),
    ("NONE,OUT,M=1", "'OUT' is not blocks=value"),
    ("NOPE,OUT=1", "'NOPE' is neither a value nor a preset's name"),
    ("ALL,LLM=0", "LLM: left out, which this SD1/SD2 model does not have"),
]


@on_one_gradio
def test_what_cannot_be_read_is_said(panel: Panel):
    panel.open("lbw_make_weights")
    for text, message in UNREADABLE:
        panel.made.fill(text)
        expect(panel.made_said).to_contain_text(message)
        expect(panel.slider("Weights type").locator("option:checked")).to_contain_text("SD1/SD2")


@on_one_gradio
def test_a_model_of_57_blocks_has_its_sliders_in_groups(panel: Panel):
    panel.open("lbw_make_weights").make_for("57 (Flux.2)", "by name")
    summaries = panel.find("lbw_sliders").locator(".lbw-band summary")
    assert summaries.all_inner_texts() == ["D00-D07: 0", "S00-S47: 0"]
    expect(panel.slider("D00")).to_be_visible()
    expect(panel.slider("S00")).to_be_hidden()
    panel.slider("Value of S00-S47").fill("0.5")
    panel.button("lbw_sliders", "Set all of S00-S47").click()
    expect(panel.made).to_have_value("0.5,BASE D00-D07=0,IN OUT=1")
    assert summaries.all_inner_texts() == ["D00-D07: 0", "S00-S47: 0.5"]
    picture = panel.find("lbw_sliders", "svg.lbw-picture")
    assert picture.locator(".lbw-heading").all_text_contents() == ["D 00-07", "S 00-47"]
    places = [picture.locator("g").filter(has_text=label).bounding_box() for label in ("S03", "S13", "S14")]
    assert places[0]["x"] == places[1]["x"] < places[2]["x"]
    assert places[0]["y"] < places[1]["y"] == places[2]["y"]
    picture.locator("g").filter(has_text="S13").click()
    expect(panel.slider("S13")).to_be_focused()
    panel.page.keyboard.press("ArrowRight")
    expect(panel.made).to_have_value("0.5,BASE D00-D07=0,IN OUT=1,S13=0.55")
    assert summaries.all_inner_texts() == ["D00-D07: 0", "S00-S47: mixed"]
    summaries.nth(1).focus()
    panel.page.keyboard.press("Enter")
    expect(panel.slider("S13")).to_be_hidden()


@on_one_gradio
def test_what_vectors_have_no_value_for_is_written_by_name(panel: Panel):
    panel.open("lbw_make_weights").make_for("61 (Qwen-Image)", "by number")
    panel.find("lbw_sliders").locator("summary").filter(has_text="By name only: IN OUT").click()
    panel.slider("IN").fill("0.5")
    panel.slider("IN").blur()
    expect(panel.made).to_have_value("NONE,IN=0.5,OUT=1")
    expect(panel.made_said).to_have_text("IN: by name only")
    panel.make_for("20 (SDXL)", "by number")
    panel.made.fill("NONE,OUT=1,clip_g=0.5")
    expect(panel.slider("CLIP_G")).to_have_value("0.5")
    panel.slider("CLIP_L").fill("X")
    panel.slider("CLIP_L").blur()
    expect(panel.made).to_have_value("NONE,OUT00-OUT08=1,CLIP_L=X,CLIP_G=0.5")
    set_range(panel, "BASE")
    expect(panel.made).to_have_value("1,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1,1")
    expect(panel.made_said).to_have_text("")


@on_one_gradio
def test_a_preset_is_copied_and_drawn(panel: Panel):
    panel.open("lbw_make_weights")
    copy_preset(panel, "OUTD")
    expect(panel.made).to_have_value("NONE,BASE OUT03-OUT06=1")
    picture = panel.find("lbw_sliders", "svg.lbw-picture")
    expect(picture).to_have_attribute("aria-label", "Blocks by weight: BASE OUT03-OUT06 1")
    colours = {}
    for label in ("OUT03", "OUT04", "OUT07", "OUT11"):
        rectangle = picture.locator("g").filter(has_text=label).first.locator("rect")
        colours[label] = rectangle.evaluate("element => getComputedStyle(element).fill")
    assert colours["OUT03"] == colours["OUT04"] != colours["OUT07"] == colours["OUT11"]


def copy_preset(panel: Panel, name: str) -> None:
    menu = panel.slider("Copy from preset").first
    menu.click()
    menu.locator("xpath=..").get_by_role("option").filter(has=panel.page.get_by_text(name, exact=True)).click()


@on_one_gradio
def test_of_a_preset_the_line_for_the_chosen_model_is_copied(panel: Panel):
    panel.open("lbw_make_weights")
    copied = {
        "25 (SD3)": "NONE,BASE IN06-IN11=1",
        "20 (SDXL)": "NONE,BASE IN06-IN08=1",
        "58 (Flux)": "NONE,CLIP T5 IN D09-D18 OUT=1",
    }
    for model, expected in copied.items():
        panel.make_for(model)
        copy_preset(panel, "Copy from preset")
        copy_preset(panel, "IND")
        expect(panel.made).to_have_value(expected)
        chosen = panel.slider("Weights type").locator("option:checked")
        expect(chosen).to_have_text(model)
    panel.make_for("61 (Qwen-Image)")
    copy_preset(panel, "INALL")
    expect(panel.made).to_have_value("NONE,BASE B00-B19=1")
    copy_preset(panel, "IND")
    expect(chosen).to_have_text("17 (SD1/SD2)")


@on_one_gradio
def test_both_forms_come_back_from_the_presets_as_they_were(panel: Panel):
    panel.open("lbw_weights_setting", "lbw_make_weights")
    made = []
    for name, form in (("NUMBERS", "by number"), ("NAMES", "by name")):
        panel.make_for("17 (SD1/SD2)", form)
        panel.button("lbw_sliders", "Set all 0").click()
        set_range(panel, "NOT OUT", "0.5")
        made.append(panel.made.input_value())
        panel.find("lbw_made_name", ":is(textarea, input)").fill(name)
        panel.find("lbw_add").click()
        expect(panel.button("lbw_ratios", name)).to_be_visible()
    assert made[1] == "NONE,BASE IN01-IN02 IN04-IN05 IN07-IN08 M00=0.5"
    expect(panel.presets).to_have_value(f"{DEFAULT_PRESETS}NUMBERS:{made[0]}\nNAMES:{made[1]}\n")
    for name in ("NUMBERS", "NAMES"):
        panel.button("lbw_sliders", "Set all 1").click()
        copy_preset(panel, name)
        expect(panel.made).to_have_value(made[1])
        expect(panel.slider("M00")).to_have_value("0.5")
        expect(panel.slider("Weights type").locator("option:checked")).to_have_text("17 (SD1/SD2)")


def test_a_made_vector_is_added_and_saved(panel: Panel):
    panel.open("lbw_weights_setting", "lbw_make_weights")
    panel.made.fill(ONES)
    panel.find("lbw_made_name", ":is(textarea, input)").fill("MADE")
    panel.find("lbw_add").click()
    expect(panel.presets).to_have_value(f"{DEFAULT_PRESETS}MADE:{ONES}\n")
    assert PRESETS_FILE.read_text() == DEFAULT_PRESETS
    panel.made.fill(ONES.replace("1", "0"))
    panel.find("lbw_add_save").click()
    expect(panel.presets).to_have_value(f"{DEFAULT_PRESETS}MADE:{ONES.replace('1', '0')}\n")
    expect(panel.notes).to_contain_text("Saved.")
    assert PRESETS_FILE.read_text() == f"{DEFAULT_PRESETS}MADE:{ONES.replace('1', '0')}\n"
    expect(panel.button("lbw_ratios", "MADE")).to_be_visible()


@on_one_gradio
def test_one_value_for_all_blocks_is_added_as_a_preset_has_it(panel: Panel):
    panel.open("lbw_weights_setting", "lbw_make_weights")
    panel.button("lbw_sliders", "Set all 0").click()
    expect(panel.made).to_have_value("0")
    panel.find("lbw_made_name", ":is(textarea, input)").fill("OFF")
    panel.find("lbw_add").click()
    expect(panel.presets).to_have_value(f"{DEFAULT_PRESETS}OFF:0,BASE=0\n")


@on_one_gradio
def test_what_cannot_be_a_preset_is_not_added(panel: Panel):
    panel.open("lbw_make_weights")
    for name, vector, message in (
        ("", ONES, "no name"), ("A:B", ONES, "cannot stand in a tag"), ("A", "1,2", "2 values; expected 12, 17"),
    ):  # fmt: skip
        panel.made.fill(vector)
        panel.find("lbw_made_name", ":is(textarea, input)").fill(name)
        panel.find("lbw_add_save").click()
        expect(panel.find("lbw_made_notes")).to_contain_text(message)
        assert PRESETS_FILE.read_text() == DEFAULT_PRESETS


@on_the_whole_webui
def test_the_panel_shows_what_rules_hit(panel: Panel):
    panel.open("lbw_elemental")
    panel.rules.fill("DEEP:IN05-OUT05:attn:0,M00::0.5\n\nNOTHING:IN01:nosuch:1\n\n<i>BAD</i>:IN99::1")
    panel.find("lbw_element_hits_button").click()
    hits = panel.find("lbw_element_hits")
    expect(hits.locator("summary").nth(0)).to_contain_text("ratio 0:")
    expect(hits.locator("summary").nth(1)).to_contain_text("in M00")
    expect(hits.locator("summary").nth(2)).to_contain_text("ratio 1: no layer")
    expect(hits).to_contain_text("<i>BAD</i> rule 'IN99::1': 'IN99' is not a block")
    hits.locator("summary").nth(1).click()
    expect(hits.locator("li:visible").first).to_contain_text("middle_block")


def curve_text(panel: Panel) -> Locator:
    return panel.find("lbw_curve").get_by_label("Curve", exact=True)


def units_of(panel: Panel) -> Locator:
    return panel.find("lbw_curve").get_by_label("What the positions are")


def target_of(panel: Panel) -> Locator:
    return panel.find("lbw_curve").get_by_label("What the curve is of")


def curve_said(panel: Panel) -> Locator:
    return panel.find("lbw_curve", ".lbw-said")


def point_field(panel: Panel, name: str) -> Locator:
    return panel.find("lbw_curve").get_by_label(name, exact=True)


def type_into(field: Locator, text: str) -> None:
    field.fill(text)
    field.blur()


def places_on(panel: Panel) -> Callable[[float, float], tuple[float, float]]:
    """Where a part of the axis and a weight from 0 to 1 are on the page."""
    drawing = panel.find("lbw_curve", "svg")
    drawing.scroll_into_view_if_needed()
    box = drawing.bounding_box()
    assert box is not None
    return lambda part, weight: (
        box["x"] + (36 + part * 370) / 420 * box["width"], box["y"] + (152 - weight * 138) / 176 * box["height"]
    )


def part_of_axis(level: float) -> float:
    """Where a noise level is on its axis."""
    return 0.94 * math.log(14.6146 / level) / math.log(14.6146 / 0.0292)


def points_of(panel: Panel) -> Locator:
    return panel.find("lbw_curve").locator("circle[role=button]")


def test_a_curve_is_drawn_with_the_mouse_and_written_into_the_tag(panel: Panel):
    panel.write("<lora:a:1:lbw=OUTD> <lora:b:1>", caret=3)
    panel.open("lbw_curve")
    expect(curve_text(panel)).to_have_value("0@0,1@1")
    panel.button("lbw_curve", "Pulse").click()
    expect(curve_text(panel)).to_have_value("0@0,1@0.5,0@1")
    place = places_on(panel)
    mouse = panel.page.mouse
    mouse.move(*place(0.5, 1))
    mouse.down()
    mouse.move(*place(0.3, 0.6), steps=3)
    mouse.up()
    expect(curve_text(panel)).to_have_value("0@0,0.6@0.3,0@1")
    mouse.click(*place(0.8, 0.5))
    expect(curve_text(panel)).to_have_value("0@0,0.6@0.3,0.5@0.8,0@1")
    mouse.dblclick(*place(0.3, 0.6))
    expect(curve_text(panel)).to_have_value("0@0,0.5@0.8,0@1")
    panel.find("lbw_curve").get_by_label("Between the points").select_option("cosine")
    panel.button("lbw_curve", "Write into the tag").click()
    expect(panel.prompt).to_have_value("<lora:a:0@0,0.5@0.8,0@1:lbw=OUTD:curve=cosine> <lora:b:1>")
    expect(panel.find("lbw_curve", ".lbw-said")).to_contain_text("a: strength=0@0,0.5@0.8,0@1, curve=cosine")


@on_one_gradio
def test_a_curve_is_made_with_the_keyboard_alone(panel: Panel):
    panel.write("<lora:a:1>")
    panel.open("lbw_curve")
    keyboard = panel.page.keyboard
    panel.button("lbw_curve", "Add a point").focus()
    keyboard.press("Enter")
    added = points_of(panel).nth(1)
    expect(added).to_be_focused()
    expect(added).to_have_accessible_name("Point 2 of 3: weight 0.5 at 0.5")
    for key in ("ArrowUp", "ArrowUp", "ArrowLeft"):
        keyboard.press(key)
    expect(curve_text(panel)).to_have_value("0@0,0.6@0.49,1@1")
    expect(added).to_be_focused()
    keyboard.press("Tab")
    expect(points_of(panel).nth(2)).to_be_focused()
    for _ in range(60):
        keyboard.press("ArrowLeft")
    expect(points_of(panel).nth(1)).to_be_focused()
    expect(curve_text(panel)).to_have_value("0@0,1@0.4,0.6@0.49")
    keyboard.press("Delete")
    expect(curve_text(panel)).to_have_value("0@0,0.6@0.49")
    expect(points_of(panel).nth(1)).to_be_focused()
    keyboard.press("Delete")
    keyboard.press("Delete")
    expect(curve_text(panel)).to_have_value("0@0")
    expect(panel.find("lbw_curve", ".lbw-said")).to_contain_text("at least one point")


@on_one_gradio
def test_points_snap_to_steps_and_are_written_as_such(panel: Panel):
    panel.open("lbw_curve")
    panel.button("lbw_curve", "Pulse").click()
    section = panel.find("lbw_curve")
    units_of(panel).select_option("Steps")
    section.get_by_label("Steps", exact=True).fill("11")
    section.get_by_label("Steps", exact=True).blur()
    points_of(panel).nth(1).focus()
    panel.page.keyboard.press("ArrowRight")
    expect(curve_text(panel)).to_have_value("0@0,1@6,0@10")
    section.get_by_label("Position", exact=True).fill("3")
    section.get_by_label("Weight", exact=True).fill("1.5")
    section.get_by_label("Weight", exact=True).blur()
    expect(curve_text(panel)).to_have_value("0@0,1.5@3,0@10")


@on_one_gradio
def test_the_curve_of_a_tag_is_read_and_what_cannot_be_drawn_is_said(panel: Panel):
    panel.write("a cat <lora:a:1:unet=0.2@0,0.8@25%,0@1:curve=step>")
    panel.open("lbw_curve")
    expect(curve_text(panel)).to_have_value("0.2@0,0.8@0.25,0@1")
    expect(panel.find("lbw_curve").get_by_label("Between the points")).to_have_value("step")
    panel.write("<lora:b:0@0,x@1>")
    panel.button("lbw_curve", "Read from the tag").click()
    expect(panel.find("lbw_curve", ".lbw-said")).to_contain_text("0@0,x@1: cannot be drawn")
    panel.write("<lora:b:0@0,1@half>")
    panel.button("lbw_curve", "Read from the tag").click()
    expect(panel.find("lbw_curve", ".lbw-said")).to_contain_text("0@0,1@half: 'half' is not a position; expected")
    expect(curve_text(panel)).to_have_value("0.2@0,0.8@0.25,0@1")
    panel.write("a cat")
    for button in ("Read from the tag", "Write into the tag"):
        panel.button("lbw_curve", button).click()
        expect(panel.find("lbw_curve", ".lbw-said")).to_contain_text("no LoRA tag")


@on_one_gradio
def test_noise_levels_are_drawn_with_the_mouse_and_written_into_the_tag(panel: Panel):
    panel.write("<lora:a:1:lbw=OUTD>", caret=3)
    panel.open("lbw_curve")
    units_of(panel).select_option("Noise levels")
    expect(curve_text(panel)).to_have_value("0@14.6sigma,1@0.0292sigma")
    expect(panel.find("lbw_curve").get_by_label("Steps", exact=True)).to_be_hidden()
    assert panel.find("lbw_curve", ".lbw-grid").locator("text").all_text_contents()[:9] == [
        "14.6", "5", "2", "1", "0.5", "0.2", "0.1", "0.03", "0",
    ]
    place, mouse = places_on(panel), panel.page.mouse
    mouse.click(*place(part_of_axis(2.5), 0.5))
    expect(points_of(panel)).to_have_count(3)
    mouse.move(*place(part_of_axis(2.5), 0.5))
    mouse.down()
    mouse.move(*place(part_of_axis(1), 0.8), steps=3)
    mouse.up()
    written = curve_text(panel).input_value()
    level = float(re.fullmatch(r"0@14\.6sigma,0\.8@([0-9.]+)sigma,1@0\.0292sigma", written)[1])
    assert level == pytest.approx(1, rel=0.02)
    mouse.click(*place(1, 0.2))
    expect(curve_text(panel)).to_have_value(f"{written},0.2@0sigma")
    panel.button("lbw_curve", "Write into the tag").click()
    expect(panel.prompt).to_have_value(f"<lora:a:{written},0.2@0sigma:lbw=OUTD>")


@on_one_gradio
def test_noise_levels_are_moved_and_typed_with_the_keyboard(panel: Panel):
    panel.write("<lora:a:0@14sigma,1@2.5sigma,0@0.5sigma:curve=cosine>", caret=3)
    panel.open("lbw_curve")
    expect(units_of(panel)).to_have_value("sigma")
    expect(curve_text(panel)).to_have_value("0@14sigma,1@2.5sigma,0@0.5sigma")
    expect(points_of(panel).nth(1)).to_have_accessible_name("Point 2 of 3: weight 1 at 2.5sigma")
    points_of(panel).nth(1).focus()
    panel.page.keyboard.press("ArrowRight")
    lower = float(curve_text(panel).input_value().split("@")[2].partition("sigma")[0])
    assert part_of_axis(lower) == pytest.approx(part_of_axis(2.5) + 0.01, abs=0.0005)
    panel.page.keyboard.press("ArrowLeft")
    expect(point_field(panel, "Position")).to_have_value("2.5sigma")
    for _ in range(40):
        panel.page.keyboard.press("ArrowLeft")
    expect(points_of(panel).nth(0)).to_be_focused()
    expect(curve_text(panel)).to_have_value("1@14.6sigma,0@14sigma,0@0.5sigma")
    panel.page.keyboard.press("Enter")
    expect(point_field(panel, "Weight")).to_be_focused()
    for typed, written in (("20", "1@20sigma,0@14sigma,0@0.5sigma"), ("0.7sigma", "0@14sigma,1@0.7sigma,0@0.5sigma")):
        type_into(point_field(panel, "Position"), typed)
        expect(curve_text(panel)).to_have_value(written)


@on_one_gradio
def test_units_that_are_mixed_are_told_and_not_written(panel: Panel):
    panel.write("<lora:a:1>", caret=3)
    panel.open("lbw_curve")
    type_into(curve_text(panel), "0@14sigma,1@0.5")
    mixed = "noise levels and steps in one curve; expected only noise levels, or none"
    expect(curve_said(panel)).to_have_text(f"0@14sigma,1@0.5: {mixed}")
    panel.button("lbw_curve", "Write into the tag").click()
    expect(curve_said(panel)).to_have_text(f"0@14sigma,1@0.5: {mixed}")
    expect(panel.prompt).to_have_value("<lora:a:1>")
    type_into(curve_text(panel), "0@0,1@1")
    points_of(panel).nth(1).focus()
    for unit, typed in (("share", "2.5sigma"), ("step", "2.5sigma"), ("sigma", "50%")):
        units_of(panel).select_option(unit)
        before = point_field(panel, "Position").input_value()
        type_into(point_field(panel, "Position"), typed)
        expect(curve_said(panel)).to_have_text(f"{typed}: {mixed}")
        expect(point_field(panel, "Position")).to_have_value(before)
    type_into(point_field(panel, "Position"), "soon")
    expect(curve_said(panel)).to_contain_text("soon: 'soon' is not a position; expected")
    type_into(point_field(panel, "Weight"), "much")
    expect(curve_said(panel)).to_have_text("much: expected a number")


@on_one_gradio
def test_points_stay_in_their_place_of_the_pass_when_the_unit_changes(panel: Panel):
    panel.open("lbw_curve")
    panel.button("lbw_curve", "Fade in").click()
    expect(curve_text(panel)).to_have_value("0@0,1@0.3")
    units_of(panel).select_option("Noise levels")
    written = curve_text(panel).input_value()
    assert written.startswith("0@14.6sigma,1@")
    level = float(written.split("@")[2].removesuffix("sigma"))
    assert step_at(level, nominal_sigmas(20)) == pytest.approx(0.3 * 19, abs=0.1)
    expect(curve_said(panel)).to_contain_text("a usual schedule")
    units_of(panel).select_option("Shares of the pass")
    expect(curve_text(panel)).to_have_value("0@0,1@0.3")
    units_of(panel).select_option("Noise levels")
    units_of(panel).select_option("Steps")
    expect(curve_text(panel)).to_have_value("0@0,1@6")
    units_of(panel).select_option("Shares of the pass")
    expect(curve_text(panel)).to_have_value("0@0,1@0.32")


@on_one_gradio
def test_steps_between_whole_ones_are_rounded_and_told(panel: Panel):
    panel.write("<lora:a:0@0,1@2.5,0@10>", caret=3)
    panel.open("lbw_curve")
    expect(curve_said(panel)).to_have_text("Read from a. Positions between two steps are rounded.")
    expect(curve_text(panel)).to_have_value("0@0,1@3,0@10")


@on_one_gradio
def test_a_block_curve_is_drawn_and_written_into_the_tag(panel: Panel):
    panel.write("<lora:a:0.8:lbw=OUTD> <lora:b:1>", caret=3)
    panel.open("lbw_curve")
    target_of(panel).select_option("Block weights")
    expect(curve_text(panel)).to_have_value("NONE@0,ALL@1")
    place, mouse = places_on(panel), panel.page.mouse
    mouse.click(*place(0.5, 0.2))
    expect(curve_text(panel)).to_have_value("NONE@0,NONE@0.5,ALL@1")
    weights = point_field(panel, "Block weights")
    options = weights.evaluate("input => [...input.list.options].map(option => option.value)")
    assert options == []
    panel.page.keyboard.press("Enter")
    expect(weights).to_be_focused()
    options = weights.evaluate("input => [...input.list.options].map(option => option.value)")
    assert {"NONE", "OUTD", "MIDD"} < {*options}
    type_into(weights, "NONE,OUT03=1")
    expect(curve_text(panel)).to_have_value("NONE@0,NONE,OUT03=1@0.5,ALL@1")
    handle = points_of(panel).nth(1)
    expect(handle).to_have_accessible_name("Point 2 of 3: block weights NONE,OUT03=1 at 0.5")
    box = handle.bounding_box()
    mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    mouse.down()
    mouse.move(*place(0.3, 1), steps=3)
    mouse.up()
    expect(curve_text(panel)).to_have_value("NONE@0,NONE,OUT03=1@0.3,ALL@1")
    for key in ("ArrowRight", "ArrowUp"):
        handle.press(key)
    expect(curve_text(panel)).to_have_value("NONE@0,NONE,OUT03=1@0.31,ALL@1")
    panel.button("lbw_curve", "Write into the tag").click()
    expect(panel.prompt).to_have_value("<lora:a:0.8:lbw=NONE@0,NONE,OUT03=1@0.31,ALL@1> <lora:b:1>")
    panel.button("lbw_curve", "Add a point").click()
    expect(curve_text(panel)).to_have_value("NONE@0,NONE,OUT03=1@0.31,NONE,OUT03=1@0.66,ALL@1")
    points_of(panel).nth(1).press("Delete")
    expect(curve_text(panel)).to_have_value("NONE@0,NONE,OUT03=1@0.66,ALL@1")
    points_of(panel).nth(2).dblclick()
    expect(curve_text(panel)).to_have_value("NONE@0,NONE,OUT03=1@0.66")


@on_one_gradio
def test_a_block_curve_is_read_from_the_tag_and_for_the_hires_pass(panel: Panel):
    panel.write("<lora:a:1:lbw=1,0,0.5@14sigma,OUTD@2sigma:hrlbw=INS@0;ALL@8:curve=step>", caret=3)
    panel.open("lbw_curve")
    expect(curve_text(panel)).to_have_value("0@0,1@1")
    target_of(panel).select_option("Block weights")
    expect(curve_text(panel)).to_have_value("1,0,0.5@14sigma,OUTD@2sigma")
    expect(units_of(panel)).to_have_value("sigma")
    expect(panel.find("lbw_curve").get_by_label("Between the points")).to_have_value("step")
    target_of(panel).select_option("Block weights in the hires pass")
    panel.button("lbw_curve", "Read from the tag").click()
    expect(curve_text(panel)).to_have_value("INS@0,ALL@8")
    points_of(panel).nth(1).focus()
    type_into(point_field(panel, "Block weights"), "MIDD")
    panel.button("lbw_curve", "Write into the tag").click()
    expect(panel.prompt).to_have_value(
        "<lora:a:1:lbw=1,0,0.5@14sigma,OUTD@2sigma:hrlbw=INS@0,MIDD@8:curve=step>"
    )
    target_of(panel).select_option("Strength")
    expect(curve_text(panel)).to_have_value("0@0,1@1")
    expect(units_of(panel)).to_have_value("share")
    panel.write("<lora:b:1>")
    target_of(panel).select_option("Block weights")
    panel.button("lbw_curve", "Read from the tag").click()
    expect(curve_said(panel)).to_have_text("b: the tag has no block weights.")
    panel.write("<lora:b:1:lbw=INS>")
    panel.button("lbw_curve", "Read from the tag").click()
    expect(curve_text(panel)).to_have_value("INS@0,INS@19")


@on_one_gradio
def test_what_cannot_be_block_weights_is_told(panel: Panel):
    panel.open("lbw_curve")
    target_of(panel).select_option("Block weights")
    points_of(panel).nth(1).focus()
    for bad in ("A@B", "A:B", "A<B"):
        type_into(point_field(panel, "Block weights"), bad)
        expect(curve_said(panel)).to_contain_text(f"{bad}: block weights have a name or values, and no @")
        expect(curve_text(panel)).to_have_value("NONE@0,ALL@1")


@on_one_gradio
def test_a_curve_has_as_many_points_as_the_server_reads(panel: Panel):
    panel.open("lbw_curve")
    target_of(panel).select_option("Block weights")
    type_into(curve_text(panel), ",".join(f"ALL@{index / 200}" for index in range(MOST_KEYFRAMES)))
    expect(points_of(panel)).to_have_count(MOST_KEYFRAMES)
    panel.button("lbw_curve", "Add a point").click()
    expect(curve_said(panel)).to_have_text(f"A curve has at most {MOST_KEYFRAMES} points.")
    expect(points_of(panel)).to_have_count(MOST_KEYFRAMES)
    type_into(curve_text(panel), ",".join(["1@0"] * (MOST_KEYFRAMES + 1)))
    expect(curve_said(panel)).to_contain_text(f"{MOST_KEYFRAMES + 1} keyframes; expected at most {MOST_KEYFRAMES}")


@on_one_gradio
def test_the_track_shows_how_far_block_weights_have_gone_over_into_the_next_ones(panel: Panel):
    panel.open("lbw_curve")
    target_of(panel).select_option("Block weights")
    drawing = panel.find("lbw_curve", "svg")
    areas = drawing.locator("polygon")
    for text, shape in itertools.product(("NONE@0,OUTD@0.5,INS@1", "NONE@14sigma,OUTD@2sigma,INS@0.1sigma"), Shape):
        panel.find("lbw_curve").get_by_label("Between the points").select_option(shape.value)
        type_into(curve_text(panel), text)
        expect(areas).to_have_count(2)
        curve = parse_curve(text.replace("NONE", "0").replace("OUTD", "1").replace("INS", "2"), shape)
        unit = curve.positions[0].unit
        for index, area in enumerate(areas.all()):
            drawn = [[float(each) for each in pair.split(",")] for pair in area.get_attribute("points").split()]
            assert drawn[0][1] == 152 and [y for _, y in drawn[-2:]] == [54, 152]
            inside = [(x, y) for x, y in drawn if drawn[0][0] < x < drawn[-1][0]]
            levels = panel.page.evaluate(
                "([unit, places]) => places.map(place => lbwCurves.axisOf(unit, 20).atOf(place))",
                [unit.value, [(x - 36) / 370 for x, _ in inside]],
            )
            meant = [value_at(curve, level) - index for level in levels]
            assert [(152 - y) / 98 for _, y in inside] == pytest.approx(meant, abs=1e-6)
            assert len(inside) == (0 if shape is Shape.STEP or (shape is Shape.LINEAR and unit is Unit.SHARE) else 48)
    assert sorted(drawing.locator("text[translate=no]").all_text_contents()) == ["INS", "NONE", "OUTD"]
    assert len({area.evaluate("area => getComputedStyle(area).fill") for area in areas.all()}) == 2


@on_the_whole_webui
def test_the_schedule_is_shown_before_an_image_is_made(panel: Panel):
    panel.open("lbw_schedule")
    panel.find("lbw_schedule_show").click()
    expect(panel.find("lbw_schedule_preview")).to_contain_text("There is no LoRA tag in the prompt.")
    panel.write("<lora:a:0@0,1@1:lbw=INS> <lora:b:1:lbw=NOPE>")
    panel.find("lbw_schedule_show").click()
    picture = panel.find("lbw_schedule_preview", "img")
    expect(picture).to_have_attribute("alt", re.compile(r"First pass, a: 0 0\.053 .* 1; First pass, b: 1 1 "))
    assert picture.evaluate("image => image.decode().then(() => image.naturalHeight)") > 400
    expect(panel.find("lbw_schedule_preview")).to_contain_text("lbw=NOPE: no preset of this name")


@on_the_whole_webui
def test_a_files_strength_is_shown_with_its_numbers(panel: Panel):
    panel.open("lbw_strength")
    panel.choose("lbw_strength_name", "demo")
    panel.find("lbw_strength_show").click()
    picture = panel.find("lbw_strength_picture", "img")
    expect(picture).to_have_attribute("alt", re.compile("Strength of demo .*the strongest blocks: [A-Z0-9]+ [0-9.]+ %"))
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 300
    panel.find("lbw_strength_picture", "summary").click()
    assert "attn1" in panel.find("lbw_strength_picture", "thead").inner_text()
    assert panel.find("lbw_strength_picture", "tbody tr:last-child").inner_text().startswith("all blocks")


@on_one_gradio
def test_a_file_without_a_name_has_no_strength(panel: Panel):
    panel.open("lbw_strength").find("lbw_strength_show").click()
    expect(panel.find("lbw_strength_picture")).to_contain_text("Choose a LoRA first.")


def test_the_two_tabs_have_panels_of_their_own(panel: Panel):
    panel.open("lbw_weights_setting").presets.fill(f"FIRST:{ONES}\n")
    panel.write("<lora:a:1>")
    open_tab(panel.page, "img2img")
    other = Panel(panel.page, "img2img").open("lbw_weights_setting", "lbw_make_weights")
    expect(other.presets).to_have_value(DEFAULT_PRESETS)
    other.write("<lora:b:1>")
    other.pick("lbw_insert_preset", "OUTD")
    other.find("lbw_put_lbw").click()
    expect(other.prompt).to_have_value("<lora:b:1:lbw=OUTD>")
    other.button("lbw_sliders", "Set all 1").click()
    expect(other.made).to_have_value(ONES)
    open_tab(panel.page, "txt2img")
    expect(panel.prompt).to_have_value("<lora:a:1>")
    expect(panel.open("lbw_make_weights").made).to_have_value("")


def test_what_is_saved_in_one_tab_is_loaded_in_the_other_unless_it_has_edits(panel: Panel):
    panel.open("lbw_weights_setting", "lbw_elemental").presets.fill(f"SAVED:{ONES}\n")
    panel.find("lbw_savetext").click()
    expect(panel.notes).to_contain_text("Saved.")
    other = Panel(panel.page, "img2img")
    expect(other.presets).to_have_value(f"SAVED:{ONES}\n")
    open_tab(panel.page, "img2img")
    other.open("lbw_elemental").rules.fill("MINE:::1\n")
    open_tab(panel.page, "txt2img")
    panel.rules.fill("THEIRS:::1\n")
    panel.find("lbw_element_savetext").click()
    expect(panel.find("lbw_element_names")).to_contain_text("Saved.")
    panel.page.wait_for_timeout(500)
    expect(other.rules).to_have_value("MINE:::1\n")


@on_one_gradio
def test_another_session_does_not_see_edits_that_are_not_saved(panel: Panel, browser: Browser, server: Server):
    panel.open("lbw_weights_setting").presets.fill(f"SECRET:{ONES}\n")
    expect(panel.button("lbw_ratios", "SECRET")).to_be_visible()
    context = browser.new_context()
    other = Panel(context.new_page())
    open_page(other.page, server)
    other.open("lbw_weights_setting")
    expect(other.presets).to_have_value(DEFAULT_PRESETS)
    expect(other.find("lbw_ratios")).not_to_contain_text("SECRET")
    panel.presets.fill(f"SECRET:{ONES}\n# saved\n")
    panel.find("lbw_savetext").click()
    expect(panel.notes).to_contain_text("Saved.")
    other.presets.fill(f"OTHER:{ONES}\n")
    other.find("lbw_savetext").click()
    expect(other.notes).to_contain_text("Not saved")
    context.close()


def test_closing_the_panel_does_not_switch_it_off(panel: Panel):
    box = panel.page.locator(panel.id("lbw_active-checkbox") + " input")
    visible = panel.page.locator(panel.id("lbw_active-visible-checkbox"))
    title = panel.find("lbw_active", "> .label-wrap")
    title.click()
    expect(panel.find("lbw_panel")).to_be_hidden()
    expect(box).to_be_checked()
    expect(visible).to_be_checked()
    visible.click()
    expect(box).not_to_be_checked()
    title.click()
    expect(panel.find("lbw_panel")).to_be_visible()
    expect(box).not_to_be_checked()


# Of each two that stand beside each other, those whose middles (or lower edges, where the row says so) are apart.
CROOKED = """row => {
    const edge = box => getComputedStyle(row).alignItems === "center" ? (box.top + box.bottom) / 2 : box.bottom;
    const boxes = [...row.children].map(child => [child, child.getBoundingClientRect()]);
    return boxes.slice(1).flatMap(([child, box], index) => {
        const [other, before] = boxes[index];
        const isBeside = box.top < before.bottom && before.top < box.bottom;
        return isBeside && Math.abs(edge(box) - edge(before)) > 1 ? [`${other.outerHTML} ${child.outerHTML}`] : [];
    });
}"""


@pytest.mark.usefixtures("version")
def test_what_stands_in_a_row_is_aligned(panel: Panel):
    panel.open("lbw_make_weights", "lbw_curve")
    expect(points_of(panel).first).to_be_visible()
    for model in ("17 (SD1/SD2)", "20 (SDXL)", "61 (Qwen-Image)"):
        panel.make_for(model)
        expect(panel.slider("BASE")).to_be_visible()
        rows = panel.find("lbw_panel").locator(".lbw-make .lbw-tools, .lbw-make .lbw-group, .lbw-insert-group")
        assert [pair for row in rows.all() for pair in row.evaluate(CROOKED)] == []
    target_of(panel).select_option("Block weights")
    units_of(panel).select_option("Steps")
    rows = panel.find("lbw_curve").locator(".lbw-tools, .lbw-group")
    assert [pair for row in rows.all() for pair in row.evaluate(CROOKED)] == []


def test_the_insert_row_is_easy_to_read(panel: Panel):
    panel.pick("lbw_insert_preset", "OUTD")
    chosen = panel.menu("lbw_insert_preset")
    expect(chosen).to_have_attribute("title", "BASE OUT03-OUT06 1")
    name = chosen.locator("span")
    expect(name).to_have_text("OUTD")
    assert name.evaluate("name => name.scrollWidth <= name.clientWidth")
    start = panel.find("lbw_insert_start", "input")
    assert start.evaluate("input => getComputedStyle(input, '::placeholder').color !== getComputedStyle(input).color")


@pytest.mark.usefixtures("version")
def test_points_hide_no_label_of_the_drawing(panel: Panel):
    panel.open("lbw_curve").find("lbw_curve_editor", ".lbw-curve-text").fill("0@0,1@0.01,0@0.5,1@1,0@1")
    panel.page.keyboard.press("Enter")
    expect(points_of(panel)).to_have_count(5)
    hidden = """drawing => {
        const boxOf = each => each.getBoundingClientRect();
        const meet = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
        const labels = [...drawing.querySelectorAll("text")];
        const others = label => [...drawing.querySelectorAll("circle"), ...labels.filter(other => other !== label)];
        const isHidden = label => others(label).some(other => meet(boxOf(label), boxOf(other)));
        return labels.filter(isHidden).map(label => label.textContent);
    }"""
    assert panel.find("lbw_curve", "svg").evaluate(hidden) == []
    for highest in ("14", "15", "21", "600", "1000000"):
        type_into(curve_text(panel), f"0@{highest}sigma,1@2sigma,0@0.03sigma,0@0sigma")
        expect(points_of(panel)).to_have_count(4)
        assert panel.find("lbw_curve", "svg").evaluate(hidden) == [], highest
    target_of(panel).select_option("Block weights")
    type_into(curve_text(panel), ",".join(f"WWWWWWWWWWWWWW{index}@{index / 20}" for index in range(20)))
    expect(points_of(panel)).to_have_count(20)
    points_of(panel).nth(19).focus()
    assert panel.find("lbw_curve", "svg").evaluate(hidden) == []
    expect(panel.find("lbw_curve", "svg").locator("text.lbw-selected")).to_have_text("WWWWWWWWWWWWWW19")


# What the panels of both tabs are on the page, the hidden checkboxes of their titles with them.
ELEMENTS = """() => {
    const frames = [...document.querySelectorAll("[id$=lbw_active], [id$=lbw_active-checkbox]")];
    return new Set(frames.flatMap(frame => [frame, ...frame.querySelectorAll("*")])).size;
}"""


def test_what_nobody_has_opened_is_hardly_on_the_page(page: Page):
    expect(page.locator("#img2img_lbw_panel")).to_be_attached()
    assert 20 < page.evaluate(ELEMENTS) <= 150
    panel = Panel(page).open()
    sections = panel.find("lbw_panel").locator(".lbw-section")
    assert sections.evaluate_all("sections => sections.map(section => section.children.length)") == [1] * 9
    assert panel.find("lbw_panel").evaluate("panel => panel.querySelectorAll('*').length") <= 150


@on_one_gradio
def test_a_section_is_opened_and_closed_with_the_keyboard(panel: Panel):
    for name in ("Curve", "Elemental", "XYZ plot"):
        title = panel.page.locator(panel.id("lbw_panel")).get_by_role("button", name=name, exact=True)
        expect(title).to_have_attribute("aria-expanded", "false")
        title.focus()
        panel.page.keyboard.press("Enter")
        expect(title).to_have_attribute("aria-expanded", "true")
        expect(title.locator("xpath=following-sibling::div")).to_be_visible()
        panel.page.keyboard.press("Space")
        expect(title).to_have_attribute("aria-expanded", "false")
        expect(title.locator("xpath=following-sibling::div")).to_be_hidden()


# The arguments that gradio holds and draws no field for, as it has them now.
HELD = """() => new Promise(resolve => {
    const {exchange} = lbwValues;
    lbwValues.exchange = (tabname, names, values) => {
        lbwValues.exchange = exchange;
        resolve(Object.fromEntries(names.map((name, index) => [name, values[index]])));
        return exchange(tabname, names, values);
    };
    requestAnimationFrame(() => requestAnimationFrame(() => gradioApp().querySelector("#lbw_values").click()));
})"""


def test_gradio_holds_what_the_fields_of_the_sections_say(panel: Panel):
    before = panel.page.evaluate(HELD)
    assert before["x_type"] == "values" and before["mode"] == "Disable" and before["seed_count"] == 1
    panel.open("lbw_plots", "lbw_elemental", "lbw_schedule")
    expect(panel.find("lbw_xtype", "select")).to_have_value("values")
    expect(panel.rules).to_have_value(before["elements"])
    panel.rules.fill("A:IN05:attn:1")
    panel.find("lbw_schedule_picture", "input").check()
    panel.find("lbw_debug", "input").check()
    # Two in one frame.
    panel.page.evaluate("""() => {
        for (const [id, value] of [["lbw_xmen", "1,2"], ["lbw_ymen", "IN05"]]) {
            const field = gradioApp().querySelector(`#${id} input`);
            field.value = value;
            updateInput(field);
        }
    }""")
    panel.choose_mode("Effective Block Analyzer")
    panel.find("lbw_plots").get_by_label("white", exact=True).check()
    panel.find("lbw_plots").get_by_label("number of seed").fill("3")
    panel.find("lbw_changexy", "input").check()
    assert panel.page.evaluate(HELD) == {
        **before, "elements": "A:IN05:attn:1", "schedule_picture": True, "debug": True, "x_values": "1,2",
        "y_values": "IN05", "mode": "Effective Block Analyzer", "difference_colour": "white", "seed_count": 3,
        "swap_xy": True,
    }  # fmt: skip


@pytest.mark.parametrize("version", ["gradio 4.40"])
def test_the_server_gets_what_gradio_holds(panel: Panel):
    panel.open("lbw_plots")
    panel.choose("lbw_ztype", "stop")
    panel.choose_mode("Effective Block Analyzer")
    panel.fill(lbw_exmen="0,1")
    panel.page.get_by_role("button", name="Generate").first.click()
    expect(panel.page.locator("#txt2img_received").first).to_contain_text(
        "True, 2, 'values', '0,0.25,0.5,0.75,1', 'Block ID', 'IN05-OUT05', 'stop', '', '0,1',"
    )


def test_there_is_no_serious_accessibility_fault(page: Page):
    bakings.put_in_place(page)
    panel = Panel(page).open()
    panel.open("lbw_plots", "lbw_live", "lbw_bake", "lbw_weights_setting", "lbw_make_weights", "lbw_elemental")
    panel.open("lbw_strength", "lbw_curve", "lbw_schedule")
    points_of(panel).first.focus()
    panel.make_for("57 (Flux.2)")
    panel.button("lbw_sliders", "Set all 1").click()
    panel.choose("lbw_strength_name", "demo")
    panel.find("lbw_strength_show").click()
    panel.find("lbw_strength_picture", "summary").click()
    panel.presets.fill("BAD:1,2\n")
    expect(panel.notes).to_contain_text("Line 1")
    assert serious_faults(page, panel.id("lbw_panel")) == set()
    panel.choose_mode("Effective Block Analyzer")
    target_of(panel).select_option("Block weights")
    points_of(panel).first.focus()
    assert serious_faults(page, panel.id("lbw_plots"), panel.id("lbw_curve")) == set()


@on_one_gradio
def test_lines_that_look_like_entries_are_flagged_with_what_is_wrong(panel: Panel):
    panel.open("lbw_weights_setting", "lbw_elemental")
    panel.presets.fill(f"A\t{ONES}\nB:{ONES} # mine\nC\uff1a{ONES}\nD={ONES}\nE:{ONES}\nE:{ONES}\nF:{ONES},\nG:\n")
    for note in (
        "Line 1 A: a tab where the colon belongs",
        "Line 2 B: a # behind it makes the line a comment",
        "Line 4 D: '=' where the colon belongs",
        "Line 5 E: line 6 is for the same models, and counts instead",
        "Line 7 F: value 18 of 18: '' is not a value; a comma stands behind the last one",
        "Line 8 G: nothing behind the colon",
    ):
        expect(panel.notes).to_contain_text(note)
    assert panel.find("lbw_ratios").locator(".lbw-name").all_inner_texts() == ["C", "E"]
    panel.rules.fill("A:IN05:attn:1\nB=IN05:attn:0")
    expect(panel.find("lbw_element_names")).to_contain_text("Line 1 A: rule 'B=IN05:attn:0'")


@on_one_gradio
def test_a_file_of_an_older_editor_is_shown_as_what_it_says_and_kept(panel: Panel):
    beside = PRESETS_FILE.with_name(f"{PRESETS_FILE.name}.before-utf8")
    content = f"\u5199\u771f:{ONES}\r\n".encode("cp932")
    panel.open("lbw_weights_setting")
    PRESETS_FILE.write_bytes(content)
    try:
        panel.find("lbw_reload").click()
        expect(panel.notes).to_contain_text("The file was read as Shift-JIS; it is saved as UTF-8")
        expect(panel.presets).to_have_value(f"\u5199\u771f:{ONES}\n")
        panel.find("lbw_savetext").click()
        expect(panel.notes).to_contain_text("Saved.")
        assert PRESETS_FILE.read_bytes() == f"\u5199\u771f:{ONES}\r\n".encode()
        assert beside.read_bytes() == content
    finally:
        beside.unlink(missing_ok=True)
