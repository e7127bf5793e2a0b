"""Prompts whose LoRAs a hand has played: infotexts have the tags that repeat it in the place of the written ones.

The host writes infotexts of a batch from its lists of all prompts, once the batch has been made.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lbw.generation.hand import played_tags
from lbw.generation.session import Session
from lbw.request.live import Key
from lbw.tags.limits import shortened
from modules import extra_networks, paths, processing, shared

logger = logging.getLogger("lbw")

_BEFORE = "lora_block_weight_prompts"
"""The attribute of the host's processing object that holds its prompts as they were, {(list, batch): texts}."""

_HIRES = "Hires prompt"


def begin(p: Any) -> None:
    """A generation begins, whatever it was copied from."""
    setattr(p, _BEFORE, {})


def write(p: Any, session: Session) -> None:
    """A pass of a batch has been sampled: have infotexts of the batch say what was played in its passes so far."""
    tags = played_tags([*session.passes], session.warn)
    if not tags:
        return
    before: dict[tuple[str, int], Any] = vars(p).setdefault(_BEFORE, {})
    batch = slice(p.iteration * p.batch_size, (p.iteration + 1) * p.batch_size)
    used: set[Key] = set()
    for name in ("all_prompts", "all_hr_prompts"):
        texts = getattr(p, name, None)
        if not isinstance(texts, list):
            continue
        written = before.setdefault((name, p.iteration), texts[batch])
        setattr(p, name, [*texts[: batch.start], *(_with(text, tags, used) for text in written), *texts[batch.stop :]])
    if p.iteration == 0 and before.setdefault(("main_prompt", 0), p.main_prompt) == before["all_prompts", 0][0]:
        p.main_prompt = p.all_prompts[0]
    _write_hires_prompt(p, tags, before)
    for tag, _number in tags.keys() - used:
        session.warn(f"{shortened(tag)}: played by hand; it is not in the prompt that the infotext has, which does not "
                     "say what was played")


def _with(text: str, tags: Mapping[Key, str], used: set[Key]) -> str:
    """A prompt with other tags in it, {(a tag, which of those that are written so): the one in its place}; what of them
    was in it is added to ``used``."""
    counts: dict[str, int] = {}

    def other(match: Any) -> str:
        number = counts[match[0]] = counts.get(match[0], -1) + 1
        key = match[0], number
        used.update({key} & tags.keys())
        return tags.get(key, str(match[0]))

    return str(extra_networks.re_extra_net.sub(other, text))


def _write_hires_prompt(p: Any, tags: Mapping[Key, str], before: dict[tuple[str, int], Any]) -> None:
    """The hires prompt, which an infotext has where it is another than the prompt: some hosts ask for it for each
    image, and others have noted it before the first."""
    noted = p.extra_generation_params.get(_HIRES)
    if callable(noted):
        p.extra_generation_params[_HIRES] = hires_prompt
    elif isinstance(noted, str):
        written = before.setdefault((_HIRES, 0), noted)
        p.extra_generation_params[_HIRES] = _with(written, tags, set())


def hires_prompt(
    p: Any, index: int, prompt_text: str, all_seeds: Any, use_main_prompt: bool, **_: Any
) -> str | None:
    """The hires prompt of the image that the host writes an infotext for, if it is another than its prompt. While a
    batch is made, the host counts inside it."""
    first = p.iteration * p.batch_size if all_seeds is p.seeds and not use_main_prompt else 0
    text: str = p.all_hr_prompts[first + index]
    return text if text != prompt_text else None


def note_last(p: Any) -> None:
    """Bring up to date what the host has noted of its last generation before it made the first image."""
    if p.iteration == 0 and vars(p).get(_BEFORE) and not shared.cmd_opts.no_prompt_history:
        text = processing.Processed(p, []).infotext(p, 0)
        try:
            Path(paths.data_path, "params.txt").write_text(text, encoding="utf8")
        except OSError as error:
            logger.warning("LoRA Block Weight: the file of the last prompt cannot be written: %s", error)
