"""The extension's section on the host's settings page, and its labels in the host's other languages."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import gradio as gr

from lbw.engine.base_weights import Policy
from modules import localization, shared

logger = logging.getLogger("lbw")

_TRANSLATIONS = Path(__file__).resolve().parents[1] / "ui"

NAME = "LoRA Block Weight"
"""What begins each line that is shown with a result: the panel finds its own by it."""

WARNINGS = "LBW warnings"
"""The key of a generation's warnings in ``info["extra_generation_params"]``; images do not carry them."""

FOREIGN_NAMES = "lbw_foreign_names"
"""The key of the setting whether files in other programs' names are read."""

PROMPT_EDITING = "lbw_prompt_editing"
"""The key of the setting whether LoRA tags in prompt editing are on when words in their places are."""

EDITED = "LBW prompt editing"
"""What an infotext calls that setting, where it counts."""

_SECTION = ("lbw", NAME)

SETTINGS: dict[str, shared.OptionInfo] = {
    "lbw_plain_loras": shared.OptionInfo(
        True, "Also switch LoRAs without block weights and steps the fast way", section=_SECTION
    ),
    FOREIGN_NAMES: shared.OptionInfo(
        True, "Read LoRA files whose names the WebUI does not know", section=_SECTION
    ).info(
        "those of diffusers, PEFT, LyCORIS, OneTrainer and others, for the layers of the loaded model; off: parts with "
        "such names are left out, as by the WebUI alone"
    ),
    PROMPT_EDITING: shared.OptionInfo(
        True, "LoRA tags follow prompt editing and alternation, as words do", section=_SECTION, infotext=EDITED
    ).info("[tag:tag:0.5], [tag|tag]; off: they are on all the time, as in a WebUI alone"),
    "lbw_base_weights": shared.OptionInfo(
        Policy.AUTO.value,
        "Where to keep the unchanged weights of layers that a LoRA changes",
        gr.Radio,
        {"choices": [policy.value for policy in Policy]},
        section=_SECTION,
    ).info(
        "auto: lean, or gpu where plenty of memory is left; lean: recovered from the changed ones, 0.9 to 1.8 GB for "
        "SDXL; gpu: copies, 4 to 5 GB; ram: nothing on the GPU between switches, ten times as slow"
    ),
    "old_active_check_lbw": shared.OptionInfo(
        False, 'Show "Active" as a checkbox inside the panel, not in its title', section=_SECTION
    ).needs_reload_ui(),
}
"""The extension's section on the host's settings page."""


def add_settings() -> None:
    """The host builds its settings page, which it does not do where it serves the API alone."""
    for key, option in SETTINGS.items():
        shared.opts.add_option(key, option)


_LANGUAGES = {
    "ja_JP": r"ja(?![a-z])|japanese",
    "zh_TW": r"zh[-_ ]?(hant|tw|hk|mo)(?![a-z])",
    "zh_CN": r"zh(?![a-z])|chinese",
}
"""Our files, and what the names that others have for the language begin with; the first that fits counts."""


def add_translations() -> None:
    """Tell the host of the panel's labels in other languages: it looks for such files in a folder of their own only.

    A language has several names, as people who translate the host call it. Theirs come behind ours and win.
    """
    known = localization.localizations
    for name in [*_LANGUAGES, *known]:
        file = next((file for file, names in _LANGUAGES.items() if re.match(names, name, re.IGNORECASE)), None)
        files = known.setdefault(name, []) if file else None
        path = str(_TRANSLATIONS / f"{file}.json")
        if isinstance(files, list) and path not in files:  # before 1.7 there was one file for a language
            files.insert(0, path)


def setting(key: str) -> Any:
    """The value of one of ``SETTINGS``."""
    return getattr(shared.opts, key, SETTINGS[key].default)


def memory_policy() -> Policy:
    """Where the user wants the pristine weights; auto where the setting says what no version of ours knows."""
    value = setting("lbw_base_weights")
    try:
        return Policy(value)
    except ValueError:
        choices = ", ".join(policy.value for policy in Policy)
        logger.warning("LoRA Block Weight: setting lbw_base_weights is %r, expected %s; auto is used", value, choices)
        return Policy.AUTO
