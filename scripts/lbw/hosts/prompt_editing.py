"""LoRA tags in the host's prompt editing: in which evaluations of the model a prompt has each of them.

The host takes tags out of a prompt before it reads what the brackets mean. So a word takes the place of each tag here,
the host's own parser is asked which texts the prompt goes through, and a tag is there wherever its word is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lbw.tags.presence import Presence, Reckoning
from modules import extra_networks, prompt_parser, sd_samplers, shared

_PRIVATE_USE = range(0xE000, 0xF900)
"""Characters that mean nothing to anybody, so that a prompt hardly has one."""


@dataclass(frozen=True)
class Place:
    """Where a tag stands in a prompt.

    ``text`` is the prompt with a word in the place of each tag, ``word`` is that of this tag, and ``words`` are all of
    them.
    """

    text: str
    word: str
    words: tuple[str, ...]

    def without(self, others: Iterable[str]) -> Place:
        """The place in the prompt that lacks other tags."""
        text = self.text
        for word in others:
            text = text.replace(word, "")
        return Place(text, self.word, (self.word,))


def places(text: str) -> list[tuple[str, str, Place | None]]:
    """(kind, the tag as it is written, its place) of all tags in a prompt; no place where it is in no bracket.

    Args:
        text: the prompt as the host reads tags in it.
    """
    found = [*extra_networks.re_extra_net.finditer(text)]
    opening, closing = (chr(code) for code in [code for code in _PRIVATE_USE if chr(code) not in text][:2])
    words = tuple(f"{opening}{number}{closing}" for number in range(len(found)))
    parts, end = [], 0
    for match, word in zip(found, words, strict=True):
        parts += [text[end : match.start()], word]
        end = match.end()
    marked = "".join([*parts, text[end:]])
    return [
        (match[1], match[0], Place(marked, word, words) if "[" in text[: match.start()] else None)
        for match, word in zip(found, words, strict=True)
    ]


def presences(found: Sequence[Place | None], reckoning: Reckoning) -> list[Presence | None]:
    """In which evaluations of a pass a prompt has its tags; None for a tag that is there at all times.

    Args:
        found: the places of tags of one prompt.
    """
    in_brackets = next((place for place in found if place is not None), None)
    if in_brackets is None:
        return [None] * len(found)
    together = _presences(in_brackets, reckoning)
    if together is not None:
        return [None if place is None else together[place.word] for place in found]
    return [None if place is None else _alone(place, reckoning) for place in found]


def _alone(place: Place, reckoning: Reckoning) -> Presence | None:
    """Of one tag, where a word for some other one would make another prompt of it: brackets that mean something to the
    host, because it does not see the tag, have to mean the same here."""
    found = _presences(place.without(word for word in place.words if word != place.word), reckoning)
    return None if found is None else found[place.word]


def _presences(place: Place, reckoning: Reckoning) -> Mapping[str, Presence | None] | None:
    """Those of all words of a prompt; None if the words make another prompt of it."""
    marked = _schedules(place.text, reckoning)
    words = set(place.words)
    found: dict[str, Presence | None] = dict.fromkeys(place.words)
    stripped = _schedules(_without(place.text, words), reckoning)
    if [[(end, _without(text, words)) for end, text in part] for part in marked] != stripped:
        return None
    for part in marked:
        ends = tuple(end for end, _text in part)
        for word in words:
            is_there = tuple(word in text for _end, text in part)
            if any(is_there) and not all(is_there):
                found[word] = Presence(ends, is_there, reckoning.per_step)
    return found


def _without(text: str, words: Iterable[str]) -> str:
    for word in words:
        text = text.replace(word, "")
    return text


def _schedules(text: str, reckoning: Reckoning) -> list[list[tuple[int, str]]]:
    """(last evaluation, text) of all texts that each part of a prompt goes through; AND stands between the parts."""
    _, parts, _ = prompt_parser.get_multicond_prompt_list([text])
    schedules = prompt_parser.get_learned_conditioning_prompt_schedules(
        parts, reckoning.first, reckoning.hires, bool(getattr(shared.opts, "use_old_scheduling", False))
    )
    return [[(int(end), str(entry)) for end, entry in schedule] for schedule in schedules]


def reckoning(p: Any, is_hires: bool) -> Reckoning:
    """What the host reckons with in a pass of a processing object."""
    first = _evaluations(p.sampler_name, p.steps)
    if not is_hires:
        return Reckoning(first, None, first // p.steps)
    steps = p.hr_second_pass_steps or p.steps
    hires = _evaluations(p.hr_sampler_name or p.sampler_name, steps)
    return Reckoning(first, hires, hires // steps)


def _evaluations(sampler: str, steps: int) -> int:
    config = sd_samplers.find_sampler_config(sampler)
    return int(config.total_steps(steps)) if config else steps
