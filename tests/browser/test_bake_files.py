"""Baking for good: from a tag in the prompt to a file that makes the same image, on the page of a whole WebUI."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageChops
from playwright.sync_api import Browser, Locator, Page, expect
from safetensors import safe_open

from tests.browser.actions import PAGE_LIMIT_MS, fill_small, html, open_page
from tests.browser.panel import Panel
from tests.server import Server

pytestmark = pytest.mark.usefixtures("preset_files")

TAGS = "<lora:demo:0.8:lbw=OUTD> <lora:demo2:0.5>"


@pytest.fixture
def folder(server: Server) -> Iterator[Path]:
    """The LoRA folder, which has no new files afterwards."""
    folder = server.data / "models" / "Lora"
    before = set(folder.iterdir())
    yield folder
    for path in set(folder.iterdir()) - before:
        path.unlink()


@pytest.fixture
def panel(page: Page, folder: Path) -> Panel:
    return Panel(page).open("lbw_bake")


def section(panel: Panel, inside: str = "") -> Locator:
    return panel.find("lbw_bake_form", f".lbw-bake {inside}".strip())


def ask(panel: Panel, name: str, button: str) -> None:
    panel.find("lbw_bake_name", "input").fill(name)
    panel.pick("lbw_bake_precision", "fp32")
    panel.button("lbw_bake_form", button).click()


def image(panel: Panel, prompt: str) -> Image.Image:
    fill_small(panel.page, prompt)
    panel.page.locator("#txt2img_generate").click()
    expect(html(panel.page, "html_info_txt2img")).to_contain_text(prompt, timeout=PAGE_LIMIT_MS)
    expect(panel.page.locator("#txt2img_interrupt")).to_be_hidden(timeout=PAGE_LIMIT_MS)
    panel.page.wait_for_timeout(500)  # until the gallery shows it
    source = panel.page.locator("#txt2img_gallery img").first.evaluate("image => image.src")
    return Image.open(io.BytesIO(panel.page.request.get(source).body())).convert("RGB")


def difference(one: Image.Image, other: Image.Image) -> int:
    """The largest, of any colour of any pixel."""
    return max(high for _low, high in ImageChops.difference(one, other).getextrema())  # type: ignore[misc]


def test_what_is_looked_at_is_kept_and_makes_the_same_image(panel: Panel, folder: Path):
    without = image(panel, "a red cat")
    with_tags = image(panel, f"a red cat {TAGS}")
    assert difference(with_tags, without) > 10
    ask(panel, "", "Look")
    picture = section(panel, "img")
    expect(picture).to_be_visible(timeout=PAGE_LIMIT_MS)
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 300
    expect(section(panel)).to_contain_text("with joined ranks")
    assert [path.name for path in folder.glob("*new*")] == []
    ask(panel, "new one", "Bake into the LoRA folder")
    expect(section(panel)).to_contain_text("Kept as new one: <lora:new one:1>", timeout=PAGE_LIMIT_MS)
    with safe_open(folder / "new one.safetensors", "pt") as file:
        assert len(file.keys()) > 10
    panel.button("lbw_bake_form", "Put it in the place of its tags").click()
    expect(panel.prompt).to_have_value("a red cat <lora:new one:1>")
    assert difference(with_tags, image(panel, "a red cat <lora:new one:1>")) <= 1
    ask(panel, "New One", "Bake into the LoRA folder")
    expect(section(panel)).to_contain_text("a LoRA of this name is there already", timeout=PAGE_LIMIT_MS)


def test_a_download_is_the_file_and_leaves_none(panel: Panel, folder: Path):
    before = sorted(folder.iterdir())
    panel.write(TAGS)
    with panel.page.expect_download() as download:
        ask(panel, "f\u00fcr dich", "Download")
    assert download.value.suggested_filename == "f\u00fcr dich.safetensors"
    with panel.page.expect_download() as again:
        panel.page.get_by_role("link", name="Download it again").click()
    with safe_open(download.value.path(), "pt") as file:
        assert len(file.keys()) > 10
    assert download.value.path().read_bytes() == again.value.path().read_bytes()
    assert sorted(folder.iterdir()) == before


def test_two_pages_bake_one_after_the_other_and_each_cancels_its_own(
    panel: Panel, browser: Browser, server: Server, folder: Path
):
    context = browser.new_context(viewport={"width": 1500, "height": 1300})
    other = Panel(context.new_page())
    open_page(other.page, server)
    other.open("lbw_bake")
    other.write("<lora:demo2:1>")
    fill_small(panel.page, TAGS)
    steps = panel.page.locator("#txt2img_steps input[type=number]")
    steps.fill("150")
    steps.blur()
    panel.page.locator("#txt2img_generate").click()  # layers are not read while an image is made
    expect(panel.page.locator("#txt2img_interrupt")).to_be_visible()
    ask(panel, "mine", "Bake into the LoRA folder")
    expect(section(panel)).to_contain_text("Baking.")
    ask(other, "theirs", "Bake into the LoRA folder")
    expect(section(other)).to_contain_text("Waiting until other bakings are done.")
    other.button("lbw_bake_form", "Cancel").click()
    expect(section(other)).to_contain_text("Cancelled; nothing was written.")
    panel.page.locator("#txt2img_interrupt").click()
    expect(section(panel)).to_contain_text("Kept as mine", timeout=PAGE_LIMIT_MS)
    assert not (folder / "theirs.safetensors").exists() and (folder / "mine.safetensors").exists()
    context.close()
