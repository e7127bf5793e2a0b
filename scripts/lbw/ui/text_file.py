"""A preset file in a text box: reload, save, a check while typing, and the list of what is in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from lbw.tags.limits import LONGEST_TEXT
from lbw.tags.preset_lines import unusable_in_tag
from lbw.tags.presets import Parse, Problem, encoding_of, read_or_create
from lbw.tags.saving import ChangedOnDiskError, save, version_of
from lbw.ui.tab import Tab

_SAVE = "Save Presets"
_SAVE_OVER = "Save over the changed file"
_MOST_PROBLEMS = 100
_ANY = ""
"""Stands for the version of the file where the user has been told that it changed."""


@dataclass
class TextFile:
    """The section of one preset file.

    Args:
        key: the tag argument that names its entries.
        prefix: what the ids of its buttons begin with.
        parse: text -> entries and problems.
        describe: an entry's text -> what stands beside its name.
        earlier_default: what a file was made with once, which is replaced if nobody has changed it.
    """

    tab: Tab
    key: str
    prefix: str
    path: Path
    default: str
    parse: Parse
    describe: Callable[[str], str]
    earlier_default: str | None = None
    area: Any = None
    by_name: list[Any] = field(default_factory=list)
    """Dropdowns whose choices are the names."""

    def read(self) -> str:
        return read_or_create(self.path, self.default, self.earlier_default)

    def build_buttons(self) -> None:
        """Make the buttons, inside of a row."""
        self.reload = gr.Button("Reload Presets", size="sm", elem_id=self._id("reload"))
        self.write = gr.Button(_SAVE, size="sm", variant="primary", elem_id=self._id("savetext"))

    def build_text(self, label: str, info: str, elem_id: str, content_id: str) -> None:
        """Make the text box and what is said of it. Whoever calls it sees to it that each page gets the file's text."""
        self.area = gr.TextArea(
            value=self.read(),
            label=label,
            info=info,
            lines=8,
            max_lines=20,
            interactive=True,
            elem_id=self.tab.id(elem_id),
            elem_classes=["lbw-text"],
        )
        self.content = gr.HTML(elem_id=self.tab.id(content_id))
        self.loaded = gr.State(None)
        check = gr.Button("Check", elem_id=self._id("check"), visible=False)
        everything = [self.area, *self.saved]
        self.reload.click(self.on_reload, [], everything, queue=False, show_progress=False)
        check.click(self.on_check, [self.area, self.loaded], [self.loaded, *self.shown], queue=False,
                    show_progress=False)
        self.write.click(self.on_save, [self.area, self.loaded], self.saved, queue=False, show_progress=False)

    def _id(self, name: str) -> str:
        return self.tab.id(f"{self.prefix}_{name}")

    @property
    def shown(self) -> list[Any]:
        """The components that follow the text."""
        return [self.content, *self.by_name]

    @property
    def saved(self) -> list[Any]:
        """The components that saving changes."""
        return [self.loaded, self.write, *self.shown]

    def updates(self, text: str, message: str = "", state: str = "") -> list[Any]:
        """The values of :attr:`shown` for a text; ``state`` tells the browser that the text is the file's."""
        entries, problems = self.parse(text[:LONGEST_TEXT])
        usable = {name: entry for name, entry in entries.items() if not unusable_in_tag(name)}
        shown = {name: (entry, self.describe(entry)) for name, entry in usable.items()}
        return [
            notes_html(message, problems, state) + names_html(self.key, shown),
            *[gr.update(choices=["", *usable])] * len(self.by_name),
        ]

    def on_reload(self) -> list[Any]:
        text = self.read()
        message = " ".join(filter(None, ("Loaded.", self.read_as())))
        return [text, version_of(text), gr.update(value=_SAVE), *self.updates(text, message, "loaded")]

    def read_as(self) -> str:
        """What is said of a file that is not UTF-8."""
        encoding = encoding_of(self.path)
        return f"The file was read as {encoding}; it is saved as UTF-8, and kept beside as it was." if encoding else ""

    def on_check(self, text: str, loaded: str | None) -> list[Any]:
        # The first check comes before the first edit: what the page was loaded with is what stands in the box. A later
        # one leaves the version alone, which a save at the same time may be changing.
        if loaded is None:
            return [version_of(text), *self.updates(text, self.read_as())]
        return [gr.update(), *self.updates(text)]

    def on_save(self, text: str, loaded: str | None) -> list[Any]:
        """Save, or refuse to write over what somebody else wrote; saving once more does it all the same."""
        try:
            version = save(self.path, self.default, text, None if loaded == _ANY else loaded, self.parse)
        except ChangedOnDiskError as error:
            names = ", ".join(error.names) or "comments only"
            message = f"Not saved: the file changed on disk since it was loaded ({names}). Reload it, or save over it."
            return [_ANY, gr.update(value=_SAVE_OVER), *self.updates(text, message)]
        except (OSError, ValueError) as error:
            return [loaded, gr.update(), *self.updates(text, f"Not saved: {error}.")]
        return [version, gr.update(value=_SAVE), *self.updates(text, "Saved.", "saved")]


def notes_html(message: str, problems: list[Problem], state: str = "") -> str:
    """A message, and the lines that cannot be used; a line's number leads to it."""
    items = "".join(
        f'<li><button type="button" data-line="{problem.line}">Line {problem.line}</button> '
        f"{escape(problem.reason)}</li>"
        for problem in problems[:_MOST_PROBLEMS]
    )
    if len(problems) > _MOST_PROBLEMS:
        items += f"<li>{len(problems) - _MOST_PROBLEMS} more lines</li>"
    return f'<div class="lbw-notes" role="status" data-state="{state}"><p>{escape(message)}</p><ul>{items}</ul></div>'


def names_html(key: str, entries: dict[str, tuple[str, str]]) -> str:
    """The usable names as buttons that put them into the prompt."""
    return "".join(
        f'<button type="button" class="lbw-name" translate="no" data-key="{key}" data-name="{escape(name)}" '
        f'data-entry="{escape(entry)}" title="{escape(beside)}">{escape(name)}</button>'
        for name, (entry, beside) in entries.items()
    )
