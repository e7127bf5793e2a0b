"""A preset file in a text box: reload, save, a check while typing, and the list of what is in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from lbw.presets import Parse, Problem, read_or_create, unusable_in_tag
from lbw.saving import ChangedOnDiskError, save, version_of
from lbw.ui.tab import Tab
from modules.ui_components import FormRow


@dataclass
class TextFile:
    """The section of one preset file.

    Args:
        key: the tag argument that names its entries.
        prefix: what the ids of its buttons begin with.
        parse: text -> entries and problems.
        describe: an entry's text -> what stands beside its name.
    """

    tab: Tab
    key: str
    prefix: str
    path: Path
    default: str
    parse: Parse
    describe: Callable[[str], str]
    area: Any = None
    by_name: list[Any] = field(default_factory=list)
    """Dropdowns whose choices are the names."""
    described: list[Any] = field(default_factory=list)
    """Dropdowns whose choices are the names with what stands beside them."""

    def read(self) -> str:
        return read_or_create(self.path, self.default)

    def build(self, area: Callable[..., Any], names_id: str) -> Any:
        """Make the section.

        Args:
            area: makes the text box; it is given the value as a function, which gradio calls for each page.
        """
        with FormRow(variant="compact"):
            reload = gr.Button("Reload Presets", size="sm", elem_id=self._id("reload"))
            write = gr.Button("Save Presets", size="sm", variant="primary", elem_id=self._id("savetext"))
            self.overwrite = gr.Button(
                "Save over the changed file", size="sm", variant="stop", elem_id=self._id("overwrite"), visible=False
            )
        self.area = area(value=self.read)
        self.notes = gr.HTML(elem_id=self._id("notes"), value=notes_html("", []))
        self.names = gr.HTML(elem_id=self.tab.id(names_id), value="")
        self.loaded = gr.State(None)
        check = gr.Button("Check", elem_id=self._id("check"), visible=False)
        everything = [self.area, self.loaded, self.overwrite, *self.shown]
        reload.click(self.on_reload, [], everything, queue=False, show_progress=False)
        check.click(self.on_check, [self.area, self.loaded], [self.loaded, *self.shown], queue=False,
                    show_progress=False)
        write.click(self.on_save, [self.area, self.loaded], everything, queue=False, show_progress=False)
        self.overwrite.click(self.on_overwrite, [self.area], everything, queue=False, show_progress=False)
        return self.area

    def _id(self, name: str) -> str:
        return self.tab.id(f"{self.prefix}_{name}")

    @property
    def shown(self) -> list[Any]:
        """The components that follow the text."""
        return [self.notes, self.names, *self.by_name, *self.described]

    def updates(self, text: str, message: str = "", state: str = "") -> list[Any]:
        """The values of :attr:`shown` for a text; ``state`` tells the browser that the text is the file's."""
        entries, problems = self.parse(text)
        usable = {name: entry for name, entry in entries.items() if not unusable_in_tag(name)}
        plain = gr.update(choices=["", *usable])
        described = gr.update(choices=["", *(f"{name}: {self.describe(entry)}" for name, entry in usable.items())])
        return [
            notes_html(message, problems, state),
            names_html(self.key, {name: (entry, self.describe(entry)) for name, entry in usable.items()}),
            *[plain] * len(self.by_name),
            *[described] * len(self.described),
        ]

    def on_reload(self) -> list[Any]:
        text = self.read()
        return [text, version_of(text), gr.update(visible=False), *self.updates(text, "Loaded.", "loaded")]

    def on_check(self, text: str, loaded: str | None) -> list[Any]:
        # The first check comes before the first edit: what the page was loaded with is what stands in the box.
        return [loaded or version_of(text), *self.updates(text)]

    def on_save(self, text: str, loaded: str | None) -> list[Any]:
        return self._save(text, loaded or version_of(text))

    def on_overwrite(self, text: str) -> list[Any]:
        return self._save(text, None)

    def _save(self, text: str, loaded: str | None) -> list[Any]:
        try:
            version = save(self.path, self.default, text, loaded, self.parse)
        except ChangedOnDiskError as error:
            names = ", ".join(error.names) or "comments only"
            message = f"Not saved: the file changed on disk since it was loaded ({names}). Reload it, or save over it."
            return [gr.update(), loaded, gr.update(visible=True), *self.updates(text, message)]
        except (OSError, ValueError) as error:
            return [gr.update(), loaded, gr.update(), *self.updates(text, f"Not saved: {error}.")]
        return [gr.update(), version, gr.update(visible=False), *self.updates(text, "Saved.", "saved")]


def notes_html(message: str, problems: list[Problem], state: str = "") -> str:
    """A message, and the lines that cannot be used; a line's number leads to it."""
    items = "".join(
        f'<li><button type="button" data-line="{problem.line}">Line {problem.line}</button> '
        f"{escape(problem.reason)}</li>"
        for problem in problems
    )
    return f'<div class="lbw-notes" role="status" data-state="{state}"><p>{escape(message)}</p><ul>{items}</ul></div>'


def names_html(key: str, entries: dict[str, tuple[str, str]]) -> str:
    """The usable names as buttons that put them into the prompt."""
    return "".join(
        f'<button type="button" class="lbw-name" data-key="{key}" data-name="{escape(name)}" '
        f'data-entry="{escape(entry)}" title="{escape(beside)}">{escape(name)}</button>'
        for name, (entry, beside) in entries.items()
    )
