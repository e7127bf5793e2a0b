"""The browser of the tests and benchmarks."""

from __future__ import annotations

import os
import shutil

from playwright.sync_api import Browser, Playwright

# Kept from looking for updates and accounts, Chromium opens no connection but to the page.
_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]


def executable() -> str | None:
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


def launch(playwright: Playwright) -> Browser:
    return playwright.chromium.launch(executable_path=executable(), args=_FLAGS)
