"""The host's page in a real browser."""

from __future__ import annotations

import os
import re

import pytest
import requests
from playwright.sync_api import Page, expect

from tests.browser.actions import PAGE_LIMIT_MS, fill_small, generate, html, open_page, open_tab
from tests.server import Server


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
    expect(table).to_contain_text("lora", ignore_case=True)
    assert table.locator("input[type=checkbox]:checked").count() >= 2


@pytest.mark.skipif(bool(os.environ.get("WEBUI_PYTHON")), reason="a real WebUI quits for that without its shell script")
def test_an_extension_is_switched_off_and_on(page: Page, server: Server):
    for is_on in (False, True):
        open_tab(page, "Extensions")
        page.locator("#extensions input:not([name=enable_Lora])").set_checked(is_on)
        with page.expect_navigation(timeout=60_000):
            page.locator("#extensions_apply").click()
        server.wait_until_ready(None if is_on else "/sdapi/v1/scripts")
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
