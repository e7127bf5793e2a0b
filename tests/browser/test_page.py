"""The stand-in's page in a real browser."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator

import pytest
import requests
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, expect, sync_playwright

from tests.server import Server

# Kept from looking for updates and accounts, Chromium opens no connection but to the page.
CHROMIUM_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]
PAGE_LIMIT_MS = 30_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """The page, ready to use. It must not have complained when the test is over."""
    context = browser.new_context(viewport={"width": 1500, "height": 1300})
    page = context.new_page()
    page.set_default_timeout(PAGE_LIMIT_MS)
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        url = message.location.get("url", "")
        # While the server restarts, the page keeps asking whether it is back, and the browser notes each refusal.
        if message.type == "error" and not url.endswith("/internal/ping"):
            complaints.append(f"{message.text} ({url})")

    page.on("console", note)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    open_page(page, server)
    yield page
    context.close()
    assert complaints == []


def open_page(page: Page, server: Server, query: str = "") -> None:
    page.goto(f"{server.url}/{query}")
    expect(page.locator("#txt2img_prompt textarea")).to_be_visible(timeout=PAGE_LIMIT_MS)
    page.wait_for_function("Object.keys(opts).length > 0")


def open_tab(page: Page, title: str, within: str = "tabs") -> None:
    page.locator(f"#{within} > .tab-nav > button").get_by_text(title, exact=True).click()


def html(page: Page, elem_id: str) -> Locator:
    """An HTML component: gradio gives its id to the frame and to what is in it."""
    return page.locator(f"#{elem_id}.block")


def fill_small(page: Page, prompt: str) -> None:
    """Ask for an image that takes no time."""
    page.locator("#txt2img_prompt textarea").fill(prompt)
    for name, value in (("width", "64"), ("height", "64"), ("steps", "4")):
        number = page.locator(f"#txt2img_{name} input[type=number]")
        number.fill(value)
        number.blur()
    page.locator("#txt2img_seed input").fill("1")
    page.locator("#txt2img_seed input").blur()


def generate(page: Page) -> None:
    page.locator("#txt2img_generate").click()
    expect(html(page, "html_info_txt2img")).to_contain_text("Steps: 4", timeout=PAGE_LIMIT_MS)


def test_a_prompt_makes_an_image(page: Page):
    fill_small(page, "a red cat <lora:demo:1>")
    generate(page)
    image = page.locator("#txt2img_gallery img").first
    expect(image).to_be_visible()
    assert image.evaluate("image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])") == [64, 64]
    expect(html(page, "html_info_txt2img")).to_contain_text("a red cat <lora:demo:1>")
    expect(html(page, "html_log_txt2img")).to_contain_text("Time taken")
    expect(page.locator("#txt2img_interrupt")).to_be_hidden()


def test_interrupt_ends_a_generation(page: Page):
    fill_small(page, "a red cat")
    steps = page.locator("#txt2img_steps input[type=number]")
    steps.fill("150")
    steps.blur()
    page.locator("#txt2img_generate").click()
    page.locator("#txt2img_interrupt").click()
    expect(html(page, "html_info_txt2img")).to_contain_text("Steps: 150", timeout=PAGE_LIMIT_MS)
    expect(page.locator("#txt2img_interrupting")).to_be_hidden()


def test_an_image_is_sent_to_img2img(page: Page):
    fill_small(page, "a red cat")
    generate(page)
    expect(page.locator("#txt2img_gallery img").first).to_be_visible()
    page.locator("#txt2img_send_to_img2img").click()
    expect(page.locator("#img2img_image img")).to_be_visible()
    expect(page.locator("#img2img_prompt textarea")).to_have_value("a red cat")
    number = page.locator("#img2img_steps input[type=number]")
    number.fill("4")
    number.blur()
    page.locator("#img2img_generate").click()
    expect(html(page, "html_info_img2img")).to_contain_text("Denoising strength: 0.75", timeout=PAGE_LIMIT_MS)
    expect(page.locator("#img2img_gallery img").first).to_be_visible()


def test_the_paste_button_brings_back_the_last_image(page: Page):
    fill_small(page, "a cat to remember")
    generate(page)
    page.locator("#txt2img_prompt textarea").fill("")
    page.locator("#txt2img_tools #paste").click()
    expect(page.locator("#txt2img_prompt textarea")).to_have_value("a cat to remember")


def test_a_setting_is_applied(page: Page):
    open_tab(page, "Settings")
    page.locator("#settings_submit").click()  # the first time of all everything counts as changed, as on the real host
    expect(html(page, "settings_result")).to_contain_text("settings changed")
    open_tab(page, "Infotext", within="settings")
    page.locator("#setting_add_version_to_infotext input").uncheck()
    page.locator("#settings_submit").click()
    expect(html(page, "settings_result")).to_contain_text("1 settings changed: add_version_to_infotext.")
    page.locator("#setting_add_version_to_infotext input").check()
    page.locator("#settings_submit").click()
    expect(html(page, "settings_result")).to_contain_text("1 settings changed: add_version_to_infotext.")


def test_extensions_are_listed(page: Page):
    open_tab(page, "Extensions")
    table = page.locator("#extensions")
    expect(table).to_contain_text("Lora")
    assert table.locator("input[type=checkbox]:checked").count() >= 2


def test_an_extension_is_switched_off_and_on(page: Page, server: Server):
    for is_on in (False, True):
        open_tab(page, "Extensions")
        page.locator("#extensions input:not([name=enable_Lora])").set_checked(is_on)
        with page.expect_navigation(timeout=60_000):
            page.locator("#extensions_apply").click()
        server.wait_until_ready()
        expect(page.locator("#txt2img_prompt textarea")).to_be_visible()
        scripts = requests.get(f"{server.url}/sdapi/v1/scripts", timeout=10).json()
        assert ("lora block weight" in scripts["txt2img"]) == is_on


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_themes(page: Page, server: Server, theme: str):
    open_page(page, server, f"?__theme={theme}")
    is_dark = page.evaluate("document.body.classList.contains('dark')")
    assert is_dark == (theme == "dark")


def test_reload_ui_builds_the_page_anew(page: Page, server: Server):
    open_tab(page, "Settings")
    with page.expect_navigation(timeout=60_000):
        page.locator("#settings_restart_gradio").click()
    server.wait_until_ready()
    expect(page.locator("#txt2img_prompt textarea")).to_be_visible()
    assert server.log.read_text().count("Running on") >= 2
    fill_small(page, "a red cat <lora:demo:1>")
    generate(page)
    expect(page.locator("#txt2img_gallery img").first).to_be_visible()
    expect(html(page, "html_info_txt2img")).to_contain_text(re.compile("Seed: 1"))
