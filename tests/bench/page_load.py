"""What the panel adds to the load of the page: the same WebUI with and without the extension, in Chromium.

Usage: python -m tests.bench.page_load [--rounds N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from tests.browser import chromium
from tests.server import Server, running_server

PROJECT = Path(__file__).resolve().parents[2]
SETTLED_MS = 1500
MEASURES = {
    "ready_ms": "until the page has run its scripts and painted",
    "cpu_ms": "CPU time of the main thread until it has settled",
    "elements": "elements on the page",
}

# The host's own callbacks run when the prompt is there; the second frame after that has been painted.
_NOTE_READY = """
    new MutationObserver((_, observer) => {
        if (!document.querySelector('#txt2img_prompt')) return;
        observer.disconnect();
        requestAnimationFrame(() => requestAnimationFrame(() => { window.readyAt = performance.now(); }));
    }).observe(document, {childList: true, subtree: true});
"""


def load(browser: Browser, server: Server) -> dict[str, float]:
    """One load of the page by a browser that has seen nothing of it."""
    context = browser.new_context(viewport={"width": 1500, "height": 1300})
    page = context.new_page()
    session = context.new_cdp_session(page)
    # Thread time: what else runs on the machine does not count.
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.add_init_script(_NOTE_READY)
    page.goto(server.url)
    page.wait_for_function("window.readyAt")
    page.wait_for_timeout(SETTLED_MS)
    metrics = {item["name"]: item["value"] for item in session.send("Performance.getMetrics")["metrics"]}
    result = {
        "ready_ms": page.evaluate("window.readyAt"),
        "cpu_ms": metrics["TaskDuration"] * 1000,
        "elements": page.evaluate("document.querySelectorAll('*').length"),
    }
    context.close()
    return result


def measure(rounds: int) -> dict[str, dict[str, list[float]]]:
    """Loads with and without the panel in turn, so that both see the same moods of the machine."""
    found: dict[str, dict[str, list[float]]] = {name: {key: [] for key in MEASURES} for name in ("without", "with")}
    with ExitStack() as stack:
        servers = {}
        for name in found:
            data = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            disabled = [PROJECT.name] if name == "without" else []
            (data / "config.json").write_text(json.dumps({"disabled_extensions": disabled}))
            servers[name] = stack.enter_context(running_server(data, ready_path="/sdapi/v1/cmd-flags"))
        browser = chromium.launch(stack.enter_context(sync_playwright()))
        for number in range(rounds + 1):
            for name, server in servers.items():
                result = load(browser, server)
                if number:  # the first round warms the machine up
                    for key, value in result.items():
                        found[name][key].append(value)
        browser.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = measure(options.rounds)
    report = {}
    print(f"{'median of ' + str(options.rounds):48}{'without':>10}{'with':>10}{'added':>10}")
    for key, meaning in MEASURES.items():
        without, with_panel = (statistics.median(found[name][key]) for name in ("without", "with"))
        report[key] = {"without": without, "with": with_panel, "added": with_panel - without}
        print(f"{key + ': ' + meaning:48.48}{without:10.0f}{with_panel:10.0f}{with_panel - without:10.0f}")
    if options.json:
        options.json.write_text(json.dumps({"rounds": options.rounds, "medians": report, "all": found}, indent=1))


if __name__ == "__main__":
    main()
