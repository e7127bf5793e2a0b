"""A preset file in a text box: reload, save, a check while typing, and the list of what is in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path

from lbw.tags.limits import LONGEST_TEXT
from lbw.tags.preset_lines import unusable_in_tag
from lbw.tags.presets import Parse, Problem, encoding_of, read, read_if_possible, read_or_create
from lbw.tags.saving import ChangedOnDiskError, save, version_of

ANY = ""
"""Stands for the version of the file where the user has been told that it changed."""

_MOST_PROBLEMS = 100


@dataclass(frozen=True)
class Shown:
    """What the page shows of a text.

    ``text`` is None where it stays, ``loaded`` is the version of the file that it was made from, and ``html`` what is
    said of it, with the names in it.
    """

    html: str
    loaded: str | None
    text: str | None = None


@dataclass(frozen=True)
class TextFile:
    """One preset file.

    Args:
        key: the tag argument that names its entries.
        parse: text -> entries and problems.
        describe: an entry's text -> what stands beside its name.
        earlier_default: what a file was made with once, which is replaced if nobody has changed it.
    """

    key: str
    path: Path
    default: str
    parse: Parse
    describe: Callable[[str], str]
    earlier_default: str | None = None

    def read(self) -> str:
        """The file's text; of one that can be neither read nor made, the default, and saving will say why."""
        try:
            return self._read_or_create()
        except OSError:
            return read_if_possible(self.path, self.default)

    def _read_or_create(self) -> str:
        """As :meth:`read`.

        Raises:
            OSError: it is there, and cannot be read.
        """
        try:
            return read_or_create(self.path, self.default, self.earlier_default)
        except OSError:  # which may be that it cannot be made
            return read(self.path, self.default)

    def reload(self) -> Shown:
        try:
            text = self._read_or_create()
        except OSError as error:
            return Shown(notes_html(f"Not loaded: {error.strerror or type(error).__name__}.", []), None)
        message = " ".join(filter(None, ("Loaded.", self._read_as())))
        return Shown(self._html(text, message, "loaded"), version_of(text), text)

    def check(self, text: str, loaded: str | None) -> Shown:
        """A text while it is edited. The first check comes before the first edit, without a version: what the page was
        loaded with is what stands in the box."""
        if loaded is None:
            return Shown(self._html(text, self._read_as()), version_of(text))
        return Shown(self._html(text), loaded)

    def save(self, text: str, loaded: str | None) -> Shown:
        """Save, or refuse to write over what somebody else wrote; saving once more does it all the same."""
        try:
            version = save(self.path, self.default, text, None if loaded == ANY else loaded, self.parse)
        except ChangedOnDiskError as error:
            names = ", ".join(error.names) or "comments only"
            message = f"Not saved: the file changed on disk since it was loaded ({names}). Reload it, or save over it."
            return Shown(self._html(text, message), ANY)
        except (OSError, ValueError) as error:
            return Shown(self._html(text, f"Not saved: {error}."), loaded)
        return Shown(self._html(text, "Saved.", "saved"), version)

    def _read_as(self) -> str:
        """What is said of a file that is not UTF-8."""
        try:
            encoding = encoding_of(self.path)
        except OSError:
            return ""
        return f"The file was read as {encoding}; it is saved as UTF-8, and kept beside as it was." if encoding else ""

    def _html(self, text: str, message: str = "", state: str = "") -> str:
        """What is said of a text; ``state`` tells the browser that the text is the file's."""
        entries, problems = self.parse(text[:LONGEST_TEXT])
        usable = {name: entry for name, entry in entries.items() if not unusable_in_tag(name)}
        shown = {name: (entry, self.describe(entry)) for name, entry in usable.items()}
        return notes_html(message, problems, state) + names_html(self.key, shown)


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
