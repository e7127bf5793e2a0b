"""What a user does on the page."""

from __future__ import annotations

import re

from playwright.sync_api import Locator, Page, expect

from tests.server import Server

PAGE_LIMIT_MS = 30_000


def open_page(page: Page, server: Server, query: str = "") -> None:
    page.goto(f"{server.url}/{query}")
    # Not by expect, which looks once a second after the first one.
    page.locator("#txt2img_prompt textarea").wait_for(timeout=PAGE_LIMIT_MS)
    page.wait_for_function("Object.keys(opts).length > 0")


def open_tab(page: Page, title: str, within: str = "tabs") -> None:
    """Some hosts begin all titles with a capital."""
    exactly = re.compile(rf"^\s*{re.escape(title)}\s*$", re.IGNORECASE)
    page.locator(f"#{within} > .tab-nav > button").filter(has_text=exactly).click()


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
