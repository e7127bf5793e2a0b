"""The panel as its user sees it: where things are, and what can be done with them."""

from __future__ import annotations

from dataclasses import dataclass

from playwright.sync_api import Locator, Page, expect


@dataclass
class Panel:
    """The panel of one tab."""

    page: Page
    tab: str = "txt2img"

    def id(self, name: str) -> str:
        return f"#{name}" if self.tab == "txt2img" else f"#{self.tab}_{name}"

    def find(self, name: str, inside: str = "") -> Locator:
        """An element; gradio gives the id of an HTML component to two, of which the outer one is meant."""
        return self.page.locator(f"{self.id(name)} {inside}".strip()).first

    @property
    def prompt(self) -> Locator:
        return self.page.locator(f"#{self.tab}_prompt textarea")

    @property
    def presets(self) -> Locator:
        return self.find("lbw_ratiospreset", "textarea")

    @property
    def rules(self) -> Locator:
        return self.find("element", "textarea")

    @property
    def made(self) -> Locator:
        return self.find("lbw_made", ":is(textarea, input)")

    @property
    def notes(self) -> Locator:
        return self.find("lbw_ratios", ".lbw-notes")

    def open(self, *sections: str) -> Panel:
        """Open the panel and some of its sections, look at each, and wait until it knows what is in the files."""
        for section in ("lbw_active", *sections):
            title = self.find(section, "> .label-wrap")
            if "open" not in (title.get_attribute("class") or ""):
                title.click()
            # Sections are built when they are seen.
            self.find(section).evaluate("section => section.scrollIntoView({block: 'start'})")
        # The lists of names are asked for when the panel is first seen.
        self.find("lbw_insert_rules").locator("option").nth(1).wait_for(state="attached")
        return self

    def write(self, text: str, caret: int | None = None) -> None:
        """Write a prompt, and put the cursor somewhere; at its end if nowhere."""
        self.prompt.fill(text)
        self.prompt.focus()
        position = len(text) if caret is None else caret
        self.prompt.evaluate("(area, at) => area.setSelectionRange(at, at)", position)

    def choose(self, dropdown: str, name: str) -> None:
        """Look for a choice by its beginning, and take it."""
        if self.find(dropdown, "select").count():
            self.find(dropdown, "select").select_option(name)
            return
        field = self.find(dropdown, "input")
        if field.get_attribute("list"):
            expect(self.page.locator(f"datalist option[value='{name}']").first).to_be_attached()
            field.fill(name)
            return
        field.click()
        field.fill(name)
        if field.and_(self.page.locator(".lbw-menu-field")).count():
            self.find(dropdown, f"[role=option][data-value='{name}']").click()
            return
        self.page.locator("ul[role=listbox] li:visible, ul.options li:visible").filter(has_text=name).first.click()

    def pick(self, field: str, name: str) -> None:
        """Take a choice of a field that the browser makes."""
        if self.menu(field).count():
            self.open_menu(field).locator(f"[data-value='{name}']").click()
            return
        select = self.find(field, "select")
        expect(select.locator(f"option[value='{name}']")).to_be_attached()
        select.select_option(name)

    def menu(self, field: str) -> Locator:
        """The field that opens a menu of presets."""
        return self.find(field).get_by_role("combobox").and_(self.page.locator(".lbw-menu-field"))

    def open_menu(self, field: str) -> Locator:
        """The menu of presets, with what they do to the loaded model."""
        with self.page.expect_response("**/internal/lbw/model"):
            self.menu(field).click()
        return self.find(field).get_by_role("listbox")

    def choose_mode(self, name: str) -> None:
        """What the next generation makes: one image, or a plot."""
        self.find("lbw_mode").get_by_label(name, exact=True).check()

    def fill(self, **fields: str) -> None:
        """Text boxes, by their ids."""
        for elem_id, text in fields.items():
            self.find(elem_id, ":is(textarea, input)").fill(text)

    @property
    def gallery(self) -> Locator:
        """The images of the last generation."""
        return self.page.locator(f"#{self.tab}_gallery .thumbnails button")

    def slider(self, label: str) -> Locator:
        return self.find("lbw_sliders").get_by_label(label, exact=True)

    @property
    def made_said(self) -> Locator:
        """What Make Weights says of a text that it has read, or has not."""
        return self.find("lbw_sliders", "p.lbw-said:not([id$=lbw_made_notes])")

    def make_for(self, model: str, form: str = "shorter of both") -> None:
        """Which model Make Weights is for, as "17 (SD1/SD2)", and how it writes."""
        self.slider("Weights type").select_option(label=model)
        self.slider("How the weights are written").select_option(label=form)

    def button(self, section: str, name: str) -> Locator:
        return self.find(section).get_by_role("button", name=name, exact=True)
