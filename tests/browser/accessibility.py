"""Faults of the page that keep people from using it, in both themes."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

# A theme is colours: what does not follow from them is looked for in one.
_OPTIONS = {
    "light": {"resultTypes": ["violations"]},
    "dark": {"resultTypes": ["violations"], "runOnly": ["cat.color"]},
}
# Rows that are like those above them.
_REPEATED = "tbody tr:nth-child(n+4):not(:last-child)"
_SET_THEME = "theme => document.body.classList.toggle('dark', theme === 'dark')"


def wait_for_transitions(page: Page) -> None:
    """Gradio fades what an event changes in and out; half faded, every colour is too pale."""
    page.wait_for_function("() => document.getAnimations().every(each => each.playState !== 'running')")


def serious_faults(page: Page, *selectors: str) -> set[tuple[str, str, str]]:
    """(theme, rule, beginning of the element) of each in parts of the page, which has to be light."""
    found = set()
    parts = {"include": [[selector] for selector in selectors], "exclude": [[_REPEATED]]}
    for theme, options in _OPTIONS.items():
        page.evaluate(_SET_THEME, theme)
        wait_for_transitions(page)
        violations = Axe().run(page, context=parts, options=options).response["violations"]
        serious = [rule for rule in violations if rule["impact"] in ("serious", "critical")]
        found |= {(theme, rule["id"], node["html"][:90]) for rule in serious for node in rule["nodes"]}
    page.evaluate(_SET_THEME, "light")
    return found
