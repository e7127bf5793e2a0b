"""The panel in the host's other languages: nothing that it says is left in English."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from lbw.bake.new_file import require_name
from lbw.engine.binding import misfits_told
from lbw.files.origin import Origin
from lbw.generation.fits import Fit, explanation
from lbw.tags.families import SD1
from lbw.tags.library import Library
from lbw.tags.preset_lines import read_line
from lbw.tags.presets import DEFAULT_PRESETS
from lbw.tags.prompt import parse
from lbw.tags.slips import KEYS
from tests.browser import bakings
from tests.browser.jobs import Job, begin, end, put_in_place
from tests.browser.panel import Panel
from tests.preset_files import SCRIPTS

pytestmark = pytest.mark.usefixtures("preset_files")

TABLES = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in (SCRIPTS / "lbw" / "ui").glob("*.json")}

# Every text that a user can see or hear, apart from what is marked as no matter of language.
TEXTS = """root => {
    const found = new Set();
    const isForUser = element => !element.closest("[translate=no], script, style, textarea, .hidden, .hide");
    const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const {parentElement, textContent} = walker.currentNode;
        if (isForUser(parentElement)) found.add(textContent.trim());
    }
    for (const name of ["title", "placeholder", "aria-label"]) {
        const named = [...root.querySelectorAll(`[${name}]`)].filter(isForUser);
        named.forEach(element => found.add(element.getAttribute(name).trim()));
    }
    return [...found];
}"""
# A word, and not the name of a block or of a file, a number with its unit, or what stands in tags.
WORDS = re.compile(r"(?<![\w=:@<.'-])(?!lbw=|lbwe=)[A-Za-z]?[a-z]{2,}(?![\w=:@])")


def texts_of(panel: Panel) -> set[str]:
    """What the panel says, with all of its sections open and something in each."""
    panel.open("lbw_weights_setting", "lbw_make_weights", "lbw_elemental", "lbw_curve", "lbw_schedule", "lbw_strength")
    panel.open("lbw_plots", "lbw_live")
    found: set[str] = set()

    def gather() -> None:
        found.update(panel.find("lbw_active").evaluate(TEXTS))

    expect(panel.open_menu("lbw_insert_preset")).to_contain_text("not for this model")
    gather()
    panel.page.keyboard.press("Escape")
    panel.find("lbw_schedule_show").click()
    expect(panel.find("lbw_schedule_preview")).to_contain_text("There is no LoRA tag")
    panel.find("lbw_strength_show").click()
    expect(panel.find("lbw_strength_picture")).to_contain_text("Choose a LoRA first")
    panel.presets.fill("BAD:1,2\n")
    expect(panel.notes).to_contain_text("Line 1")
    gather()
    panel.write("<lora:demo:1:lbw=OUTD>")
    panel.button("lbw_own", "Save the tag's weights as its default").click()
    expect(panel.find("lbw_own")).to_contain_text("Saved.")
    panel.button("lbw_curve_editor", "Read from the tag").click()
    expect(panel.find("lbw_curve_editor")).to_contain_text("Read from demo.")
    curve = panel.find("lbw_curve_editor")
    for unit in ("Steps", "Noise levels"):
        curve.get_by_label("What the positions are").select_option(unit)
        gather()
    curve.get_by_label("What the curve is of").select_option("Block weights")
    curve.locator("circle").first.focus()
    gather()
    curve.get_by_label("What the positions are").select_option("Steps")
    for text in ("A@0,B@1.5,C@9", "", "A@1sigma,B@1", "A@,B@1", "A:B@0"):
        curve.locator(".lbw-curve-text").fill(text)
        curve.locator(".lbw-curve-text").blur()
        gather()
    panel.choose("lbw_strength_name", "demo")
    panel.find("lbw_strength_show").click()
    panel.find("lbw_strength_picture", "summary").click()
    panel.find("lbw_element_hits_button").click()
    expect(panel.find("lbw_element_hits")).to_contain_text("ATTNDEEPON")
    panel.make_for("58 (Flux)")
    panel.made.fill("NONE,D04-D09=1")
    panel.find("lbw_savetext").click()
    expect(panel.notes).to_contain_text("Saved.")
    gather()
    panel.write("<lora:demo:1:lbw=INS>")
    expect(panel.button("lbw_own", "Use its default")).to_be_visible()
    panel.made.fill("NONE,D99=1")
    panel.find("lbw_made_name", "input").fill("MINE")
    panel.find("lbw_add").click()
    expect(panel.find("lbw_made_notes")).to_contain_text("Not added")
    panel.choose_mode("Effective Block Analyzer")
    gather()
    panel.button("lbw_own", "Remove its default").click()
    expect(panel.find("lbw_own")).to_contain_text("Removed.")
    gather()
    gather_live(panel, gather)
    gather_bake(panel, gather)
    return {text for text in found if WORDS.search(text)}


def gather_live(panel: Panel, gather: Callable[[], None]) -> None:
    """What is said of a generation that is under way, and of what was played on it."""
    shown = panel.find("lbw_live_loras", ".lbw-live")
    job = Job("<lora:one:1>", "<lora:two:1>", "<lora:three:1>")
    job.state |= {"batches": 2}
    job.state["loras"][0] |= {"played": True, "played_tag": "<lora:one:0>", "next": 0.5}
    job.state["loras"][1] |= {"played": True, "in_prompt": False}
    job.is_active = False
    put_in_place(panel.page, job)
    shown.scroll_into_view_if_needed()
    begin(panel.page)
    expect(shown).to_contain_text("Waiting for")
    gather()
    job.is_active = True
    expect(shown).to_contain_text("First pass, step 1 of 20, batch 1 of 2")
    panel.button("lbw_live_loras", "Write into the tag").click()
    expect(shown).to_contain_text("Its tag is not in the prompt any more")
    gather()
    panel.button("lbw_live_loras", "Copy").click()
    expect(shown).to_contain_text("Copied.")
    job.state |= {"batches": 1, "pass_title": "hires"}
    expect(shown).to_contain_text("Hires pass, step 1 of 20")
    gather()
    panel.write("<lora:one:1>")
    # By the keyboard: what the panel says of the new prompt moves the button away below the mouse.
    panel.button("lbw_live_loras", "Write into the tag").press("Enter")
    expect(shown).to_contain_text("Written into the prompt.")
    job.state |= {"running": False}
    end(panel.page)
    expect(shown).to_contain_text("The generation is over.")
    gather()


def gather_bake(panel: Panel, gather: Callable[[], None]) -> None:
    """What is said of a baking, at each of its ends."""
    made = bakings.put_in_place(panel.page)
    made.place = {"may_keep": True, "reason": ""}
    shown = panel.open("lbw_bake").find("lbw_bake_form", ".lbw-bake")

    def bake(button: str, said: str, **values: Any) -> None:
        panel.button("lbw_bake_form", button).click()
        expect(shown).to_contain_text("Waiting until")
        gather()
        made.set(**values)
        expect(shown).to_contain_text(said)
        gather()

    panel.write("<lora:one:1>")
    bake("Look", "Baking.", state="running")
    made.set(**bakings.LOSSY)
    expect(shown).to_contain_text("This is what would be")
    gather()
    bake("Look", "Not baked", state="failed", message=BAKE[0])
    bake("Bake into the LoRA folder", "Kept as", **bakings.DONE | {"file": "new"})
    for said in ("The tag is in", "The prompt does not"):
        panel.button("lbw_bake_form", "Put it in the place of its tags").click()
        expect(shown).to_contain_text(said)
        gather()
    with panel.page.expect_download():
        bake("Download", "The file is ready", **bakings.DONE)
    bake("Look", "Cancelled", state="cancelled")


# What is said of bakings that are not possible, or not wholly.
BAKE = [
    "the prompt has no LoRA tag; expected <lora:NAME:STRENGTH>. Nothing was written",
    "nothing is left to bake; <lora:a>: 8 parts are not read by this WebUI, first a_b; left out, as in images",
    "<lora:a>: 1 part is for no layer of this SD1 model, first a_b; left out, as in images of this model",
    "2 parts are for layers whose weights cannot be read here (quantised), first a_b, and could be baked with them "
    "only; left out",
    "<lora:a>: a file has no schedule; baked is what counts at step 3 of 20, counted from 0: strength 0.5 in the "
    "U-Net, 1 in text encoders",
    "<lora:a>: all of it is at strength 0 there, so nothing of it is baked",
    "2 tensors have values that are too small for float16, and lose more than by rounding, first a.b; fp32 and bf16 "
    "hold them",
    "a LoRA file has been replaced meanwhile; begin again. Nothing was written",
    "the WebUI itself has LoRAs in the model's weights now, as of an image that was made with this extension off; "
    "make an image with it on, and bake again",
    "the WebUI itself has LoRAs in the model's weights now, as of an image that was made with this extension off; "
    "strengths are relative to these weights",
    "<lora:a>: a file has nothing of its own for the hires pass; baked is the first pass",
    "<lora:a>: its random block weights are baked as seed 5 has them",
    "no model is loaded, and block weights are those of its layers; load a checkpoint",
    "another model has been loaded meanwhile; nothing was written",
    "layer a_b: its weights are patched and have no backup; reload the checkpoint. Nothing was written",
    "a.b: a value is beyond torch.float16; choose bf16 or fp32. Nothing was written",
    "a: expected a .safetensors file that can be read (OSError)",
    "a LoRA file cannot be read any longer (EIO). Nothing was written",
    "a LoRA of this name is there already; choose another name. Nothing was written",
    "the LoRA folder has no room for the file (ENOSPC). Nothing was written",
    "the folder for temporary files does not take the file (EIO). Nothing was written",
    "an error of the server (KeyError), which its console shows. Nothing was written",
    "8 bakings are waiting already; try again later",
    "nothing is kept: this WebUI has no LoRA folder that is known; download the file instead",
    "nothing is kept: this WebUI runs with --hide-ui-dir-config; download the file instead",
    "nothing is kept: this WebUI is open to others (--listen, --share) and lets nobody change what is installed; "
    "download the file instead",
    "the WebUI could not look for it (OSError); use its refresh button",
    "new.png was there already, and is left as it is",
    "new.json could not be written (EIO)",
]


def names_refused() -> list[str]:
    """What is said of names that no new LoRA can have."""
    found = []
    for name in ("", "a\ud800", "a\nb", "a/b", ".a", "a.", "con", "a" * 300):
        with pytest.raises(ValueError) as refusal:
            require_name(name)
        found.append(str(refusal.value))
    return found


# Tags with what people get wrong most.
SLIPS = [
    "a:1:lbw=INS:OUTD", "a:1:lbw=OUTD,stop=5", "a:1:stop:5", "a:0,5", "a:1:strt=5", "a:1:QQQQQ=5", "a:1:dyn=x",
    "a:1:x=Q", "a:1:2:3:4", "a:1:INS:OUTD", "a:1:te=2", "a:1:in=x", "a:1:start=0.5:stop=1", "a:1:start=2:step=4-6",
    "a:1:unet=1e9",
]


def messages() -> list[str]:
    """What is said of them, of presets that cannot be used, and after an image."""
    found: list[str] = []
    for tag in SLIPS:
        parse(tag.split(":"), found.append)
    library = Library.read(DEFAULT_PRESETS, "", "")
    for weights in ("NOSUCH", "IND2", "1,2", "1,Q,0", "OUT03-OUT=x", "D99=1"):
        try:
            library.vector(weights, SD1)
        except ValueError as error:
            found.append(f"<lora:a>: lbw={weights}: {error}; all blocks are 1")
    status = "demo: OUTD (all blocks), steps 0-3 of 4 | 2 switches, 1.0 ms | base weights as they are"
    return [*found, status]


def test_messages_are_translated_clause_by_clause(scripts: Page):
    said = messages()
    assert len(said) > 15
    for language, table in TABLES.items():
        translated = scripts.evaluate(
            "([texts, table]) => texts.map(text => lbwWords.translated(text, table))", [said, table]
        )
        left = [text for text in translated if {*WORDS.findall(text)} - {*KEYS, "ms"}]
        assert left == [], language


def test_nothing_that_the_panel_says_is_without_a_translation(panel: Panel):
    said = texts_of(panel)
    assert len(said) > 100
    missing = {
        language: sorted(panel.page.evaluate(
            "([texts, table]) => texts.filter(text => lbwWords.translated(text, table) === text)", [list(said), table]
        ))
        for language, table in TABLES.items()
    }
    assert missing == {language: [] for language in TABLES}


README = (SCRIPTS.parent / "README.md").read_text(encoding="utf-8").partition("\n## Tags\n")[2].partition("\n## ")[0]
MISTAKES = re.findall(r"^\| `<lora:a:.*>` \| (.*) \|$", README, re.MULTILINE)

ORIGINS = [
    None, Origin("Flux", "kohya's", 304, 72, "lora_unet_a"), Origin("SD1", "diffusers' old", 304, 72, "unet.a"),
    Origin(None, None, 5, 0, "what.is.it"), Origin(None, None, 0, 0, ""), Origin(None, None, 0, 0, "", has_words=True),
]  # fmt: skip
LINES = [
    "A:1,0 # mine", ":1,0,1", "A:", "A:1", "A:no,weights", "A=1,0,1,0,1", "A\t1,0,1,0,1", "1,0,1,0,1,0", "A:1,0,1",
    "A:1,0,,1", "A:NONE,QQ=x",
]


ASKING_SCRIPTS = [SCRIPTS.parent / "javascript" / f"lbw_{name}.js" for name in ("live", "bake", "server")]
# What the sections Live and Bake and the panel say in one line, and of a server that refuses.
LIVE = [
    *re.findall(
        r'^    const [A-Z_]+ = "([^"]* [^"]*)";$',
        "".join(path.read_text(encoding="utf-8") for path in ASKING_SCRIPTS), re.MULTILINE,
    ),
    "The server answered 409: nothing can be moved now: the host applies the LoRAs of this pass by itself",
    "The server answered 409: the task is over; nothing can be moved in it",
]


def later_messages() -> list[str]:
    """What is said of mistakes, of files that do not fit and of lines of preset files."""
    found = ["<lora:a>: " + said.replace("has \u2026 it", "has 8 steps; it") for said in MISTAKES]
    for origin in ORIGINS:
        for reason in ("", "a_b: the shape is 4x4, the layer's is 2"):
            found.append(f"<lora:a>: {explanation(Fit(0, 0, origin), SD1, reason)}")
        for fit in (Fit(unet, encoders, origin) for unet in (0, 12, 304) for encoders in (0, 5, 72)):
            said = fit.words if fit.is_nothing else f"OUTD (all blocks), steps 0-3 of 4, {fit.words}"
            found += [f"demo: {said} | 2 switches, 1.0 ms | base weights as they are"] * bool(fit.words)
    reason = "a_b: its alpha is 0, which makes nothing of it"
    found += [f"<lora:a>: {misfits_told([reason] * count)}" for count in (1, 3)]
    faults = [line.fault for line in map(read_line, LINES) if line is not None and line.fault is not None]
    assert len(faults) == len(LINES)
    for tag in ("a:1:lbw=OUTD stop=5", "a:1:lbw=OUTD;stop=5", "a:1:lbw=OUTD|stop=5"):
        parse(tag.split(":"), found.append)
    return [
        *found,
        *(f"<lora:a>: lbw=A: line 3 of the presets: {fault}; all blocks are 1" for fault in faults),
        "<lora:a>: start=50: the hires pass has 1 step; it is never on in the U-Net",
        "<lora:a>: lbw=1,0: 17 values have none for IN00 IN03 of this SDXL model, where the LoRA has parts, which are "
        "0; expected 12 or 20 values, or blocks by name",
        "the host has unloaded all LoRAs to load the refiner, which works without them",
        *LIVE,
        *(f"Not baked: {said}" for said in [*BAKE, *names_refused()]),
        "Not saved: demo.json is not JSON, so that it is left alone.",
        "Not saved: demo.json holds no JSON object, so that it is left alone.",
        "The file was read as GBK; it is saved as UTF-8, and kept beside as it was.",
        "Loaded. The file was read as GBK; it is saved as UTF-8, and kept beside as it was.",
    ]


def test_no_two_words_of_a_message_in_a_row_are_left_in_english(scripts: Page):
    said = later_messages()
    assert len(MISTAKES) > 30 and len(LIVE) > 10 and len(said) > 100
    for language, table in TABLES.items():
        translated = scripts.evaluate(
            "([texts, table]) => texts.map(text => lbwWords.translated(text, table))", [said, table]
        )
        left = [text for text in translated if re.search(r"(?<![\w=])[A-Za-z]?[a-z]+'?s? [a-z]{2,}(?![\w=])", text)]
        assert left == [], language


def test_a_number_in_a_message_is_nothing_but_a_number(scripts: Page):
    table = {
        "{said}, {N} of {M} U-Net parts fit": "({said}) {N}/{M} U-Net",
        "{weights}, steps {steps} of {count}": "({weights}) {steps}/{count}",
    }
    translated = scripts.evaluate(
        "([text, table]) => lbwWords.translated(text, table)",
        ["OUTD (all blocks), steps 0-3 of 4, 12 of 304 U-Net parts fit", table],
    )
    assert translated == "((OUTD (all blocks)) 0-3/4) 12/304 U-Net"


def test_titles_and_placeholders_inside_of_what_is_added_are_translated(page: Page):
    said = page.evaluate("""async () => {
        window.localization = {"For every tag": "X", step: "Y"};
        const root = document.createElement("div");
        lbwWords.follow(root);
        root.innerHTML = '<p><input title="For every tag" placeholder="step"></p>';
        await new Promise(resolve => setTimeout(resolve));
        return [root.querySelector("input").title, root.querySelector("input").placeholder];
    }""")
    assert said == ["X", "Y"]


def test_a_name_is_not_taken_for_a_word_of_the_panel(page: Page):
    said = page.evaluate("""() => {
        window.localization = {Linear: "X"};
        const root = document.createElement("div");
        root.innerHTML = '<p class="lbw-said"><i>Linear</i><i translate="no">Linear</i></p>';
        lbwWords.follow(root);
        return root.textContent;
    }""")
    assert said == "XLinear"
