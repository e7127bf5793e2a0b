"""Translations of the page: JSON files, {text on the page: its translation}, of the host and of the extensions."""

from __future__ import annotations

import json

from modules import errors, scripts

localizations: dict[str, list[str]] = {}


def list_localizations(dirname: str | None = None) -> None:
    """Look for files anew. A language is a file's name; files of one language complete each other.

    `dirname` is of the host's interface: it has translations of its own there, and this one has none.
    """
    localizations.clear()
    for file in scripts.list_scripts("localizations", ".json"):
        localizations.setdefault(file.filename.removesuffix(".json"), []).append(file.path)


def localization_js(current_localization_name: str) -> str:
    """A script that hands the translations of a language to the page."""
    translations: dict[str, str] = {}
    for path in localizations.get(current_localization_name, []):
        try:
            with open(path, encoding="utf8") as file:
                translations.update(json.load(file))
        except (OSError, ValueError):
            errors.report(f"translations in {path} cannot be read", exc_info=True)
    return f"window.localization = {json.dumps(translations)}"
