"""Playing on the strengths of LoRAs while an image is made, and making it again from what was played."""

from __future__ import annotations

import io
import re

import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.actions import PAGE_LIMIT_MS, fill_small, html, open_page
from tests.browser.panel import Panel
from tests.server import Server

pytestmark = pytest.mark.usefixtures("preset_files")

STEPS = 50


@pytest.fixture
def panel(page: Page) -> Panel:
    return ready(Panel(page), "a red cat <lora:demo:1>")


def ready(panel: Panel, prompt: str) -> Panel:
    """The section is open, and the page is set to an image that takes long enough to be played on."""
    panel.open("lbw_live")
    fill_small(panel.page, prompt)
    set_number(panel, "txt2img_steps", STEPS)
    return panel


def set_number(panel: Panel, elem_id: str, value: int) -> None:
    number = panel.page.locator(f"#{elem_id} input[type=number]")
    number.fill(str(value))
    number.blur()


def live(panel: Panel, inside: str = "") -> Locator:
    return panel.find("lbw_live_loras", f".lbw-live {inside}".strip())


def slider(panel: Panel) -> Locator:
    return live(panel, "input[type=range]")


def now(panel: Panel) -> Locator:
    return live(panel, ".lbw-live-now")


def submit(panel: Panel) -> None:
    """Begin a generation, and look at the section: it asks only while it is seen."""
    look_at_live(panel)
    panel.page.locator("#txt2img_generate").evaluate("button => button.click()")
    expect(panel.page.locator("#txt2img_interrupt")).to_be_visible()


def look_at_live(panel: Panel) -> None:
    panel.find("lbw_live").evaluate("section => section.scrollIntoView({block: 'center'})")


def images(panel: Panel) -> list[Image.Image]:
    """Those of the generation that is under way, once it is over."""
    expect(panel.page.locator("#txt2img_interrupt")).to_be_hidden(timeout=4 * PAGE_LIMIT_MS)
    expect(html(panel.page, "html_info_txt2img")).to_contain_text(f"Steps: {STEPS}", timeout=PAGE_LIMIT_MS)
    look_at_live(panel)  # what the host shows of the image may have moved it out of sight
    expect(live(panel)).to_contain_text("The generation is over.", timeout=PAGE_LIMIT_MS)
    panel.page.wait_for_timeout(500)  # until the gallery shows them
    sources = [shown.evaluate("image => image.src") for shown in panel.gallery.locator("img").all()]
    return [Image.open(io.BytesIO(panel.page.request.get(source).body())).convert("RGB") for source in sources]


def made(panel: Panel) -> list[Image.Image]:
    submit(panel)
    return images(panel)


def drag(panel: Panel, share: float) -> str:
    """Drag the first slider to a share of its width, while an image is made; what it is at then."""
    expect(slider(panel)).to_be_enabled(timeout=PAGE_LIMIT_MS)
    box = slider(panel).bounding_box()
    assert box is not None
    at = slider(panel).evaluate("slider => (slider.value - slider.min) / (slider.max - slider.min)")
    middle = box["y"] + box["height"] / 2
    panel.page.mouse.move(box["x"] + 8 + (box["width"] - 16) * at, middle)
    panel.page.mouse.down()
    panel.page.mouse.move(box["x"] + 8 + (box["width"] - 16) * share, middle, steps=5)
    panel.page.mouse.up()
    value = f"{float(slider(panel).input_value()):g}"
    expect(now(panel)).to_have_text(f"now {value}", timeout=PAGE_LIMIT_MS)
    return value


def test_an_image_that_was_played_is_made_again_from_its_tag(panel: Panel):
    panel.open("lbw_schedule").find("lbw_schedule_picture", "input").check()
    plain = made(panel)
    submit(panel)
    values = [drag(panel, 0.9), drag(panel, 0.3)]
    assert values[0] != values[1] and "1" not in values
    played = images(panel)
    assert len(played) == 2
    assert all(image != before for image, before in zip(played, plain, strict=True))
    expect(slider(panel)).to_be_disabled()
    panel.button("lbw_live_loras", "Write into the tag").click()
    written = panel.prompt.input_value()
    assert all(f"{value}@" in written for value in ("1", *values))
    expect(html(panel.page, "html_info_txt2img")).to_contain_text(written)
    assert made(panel) == played  # the picture of its schedule, too
    panel.find("lbw_schedule_show").click()
    course = re.compile(f"demo: 1 .*{values[0]} .*{values[1]}$")
    expect(panel.find("lbw_schedule_preview", "img")).to_have_attribute("alt", course)


def test_the_keyboard_plays_too_and_what_it_played_holds_in_the_hires_pass(panel: Panel):
    panel.page.locator("#txt2img_hr > .label-wrap").click()
    expect(panel.page.locator("#txt2img_hr-visible-checkbox")).to_be_checked()
    set_number(panel, "txt2img_hires_steps", 4)
    submit(panel)
    expect(slider(panel)).to_be_enabled(timeout=PAGE_LIMIT_MS)
    slider(panel).focus()
    for _ in range(6):
        panel.page.keyboard.press("ArrowLeft")
    expect(now(panel)).to_have_text("now 0.7", timeout=PAGE_LIMIT_MS)
    played = images(panel)
    expect(now(panel)).to_have_text("now 0.7")
    panel.button("lbw_live_loras", "Write into the tag").click()
    assert "0.7@" in panel.prompt.input_value()
    assert made(panel) == played


def test_two_users_play_on_their_own_images_alone(panel: Panel, browser: Browser, server: Server):
    context = browser.new_context(viewport={"width": 1500, "height": 1300})
    page = context.new_page()
    open_page(page, server)
    other = ready(Panel(page), "a blue dog <lora:demo2:1>")
    plain = made(other)
    submit(panel)
    submit(other)
    expect(live(other)).to_contain_text("Waiting for the first step.")
    drag(panel, 0.3)
    images(panel)
    assert images(other) == plain
    expect(other.button("lbw_live_loras", "Write into the tag")).to_have_count(0)
    expect(live(other, "b")).to_have_text("demo2")
    expect(now(other)).to_have_text("now 1")
    expect(live(panel, "b")).to_have_text("demo")
    context.close()
