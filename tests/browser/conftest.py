from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Error, Page, expect, sync_playwright

from lbw.tags.presets import DEFAULT_PRESETS, DEFAULT_RULE_SETS
from tests.browser import chromium
from tests.browser.actions import PAGE_LIMIT_MS, open_page
from tests.browser.gradios import GRADIOS
from tests.browser.panel import Panel
from tests.preset_files import PRESETS_FILE, RULE_SETS_FILE, kept_files
from tests.server import GRADIO4_PYTHON, Server, running_gradio4_page

BLANK = "about:blank"
HAS_FAILED = pytest.StashKey[bool]()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if os.environ.get("WEBUI_PYTHON"):  # a real WebUI has more on its page, and more to do for it
        expect.set_options(timeout=PAGE_LIMIT_MS)
    if chromium.executable() is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = chromium.launch(playwright)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def gradio4(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The panel on a page of gradio 4."""
    if not GRADIO4_PYTHON.exists():
        pytest.skip("no .venv-gradio4; tests/setup.sh makes it")
    with running_gradio4_page(tmp_path_factory.mktemp("gradio4")) as server:
        yield server


# A test of what is the extension's own in the browser asks for one of them only, see ``gradios.py``.
@pytest.fixture(params=GRADIOS)
def version(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def server(request: pytest.FixtureRequest, server: Server) -> Server:
    """The stand-in; for tests that use ``version``, also a page of the gradio that Forge has."""
    is_other = "version" in request.fixturenames and request.getfixturevalue("version") == "gradio 4.40"
    return request.getfixturevalue("gradio4") if is_other else server


@pytest.fixture
def preset_files() -> Iterator[None]:
    """Both files have the defaults, and afterwards what they had before."""
    with kept_files({PRESETS_FILE: DEFAULT_PRESETS, RULE_SETS_FILE: DEFAULT_RULE_SETS}):
        yield


@pytest.fixture(scope="session")
def kept(browser: Browser) -> Iterator[list[Page]]:
    """The page that all tests load anew, one after the other; it is not here while one of them has it."""
    pages: list[Page] = []
    yield pages
    for page in pages:
        page.context.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[HAS_FAILED] = True
    return report


@pytest.fixture
def blank(request: pytest.FixtureRequest, browser: Browser, kept: list[Page]) -> Iterator[Page]:
    """An empty page. The browser remembers nothing of other tests but what it has fetched and compiled."""
    page = kept.pop() if kept else browser.new_context().new_page()
    page.set_default_timeout(PAGE_LIMIT_MS)
    page.set_viewport_size({"width": 1500, "height": 1300})
    page.bring_to_front()
    yield page
    if HAS_FAILED in request.node.stash:  # who knows what it has left: the next test gets another one
        page.context.close()
    else:
        clear(page)
        kept.append(page)


def clear(page: Page) -> None:
    for other in page.context.pages:
        if other != page:
            other.close()
    page.unroute_all(behavior="ignoreErrors")
    page.mouse.move(0, 0)
    if page.url != BLANK:  # which has no storage
        page.evaluate("() => { localStorage.clear(); sessionStorage.clear(); }")
    page.goto(BLANK)
    page.context.clear_cookies()


@pytest.fixture
def unloaded(request: pytest.FixtureRequest, blank: Page) -> Iterator[Page]:
    """An empty page, which must not have complained when the test is over."""
    complaints: list[str] = []
    # A real WebUI complains of things of its own; from an extension's file on, it is ours.
    ours = "sd-webui-lora-block-weight" if os.environ.get("WEBUI_PYTHON") else ""

    def note(message: ConsoleMessage) -> None:
        url = message.location.get("url", "")
        # While the server restarts, the page keeps asking whether it is back, and the browser notes each refusal, that
        # of a last question for the progress of an image, too.
        is_refusal = "ERR_CONNECTION_REFUSED" in message.text and url.endswith("/internal/progress")
        if message.type == "error" and ours in url and not url.endswith("/internal/ping") and not is_refusal:
            complaints.append(f"{message.text} ({url})")

    def note_error(error: Error) -> None:
        if ours in (error.stack or ""):
            complaints.append(str(error))

    blank.on("console", note)
    blank.on("pageerror", note_error)
    yield blank
    blank.remove_listener("console", note)
    blank.remove_listener("pageerror", note_error)
    if complaints:
        request.node.stash[HAS_FAILED] = True
    assert complaints == []


@pytest.fixture
def page(unloaded: Page, server: Server) -> Page:
    """The page, ready to use."""
    open_page(unloaded, server)
    return unloaded


@pytest.fixture(scope="session")
def scripts(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page for tests that do nothing on it but call functions of the extension that change nothing."""
    page = browser.new_context().new_page()
    open_page(page, request.getfixturevalue("server" if os.environ.get("WEBUI_PYTHON") else "gradio4"))
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    yield page
    page.context.close()
    assert os.environ.get("WEBUI_PYTHON") or complaints == []


@pytest.fixture
def panel(page: Page) -> Panel:
    return Panel(page).open()
