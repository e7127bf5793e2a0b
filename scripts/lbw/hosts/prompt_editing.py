"""LoRA tags in the host's prompt editing: in which evaluations of the model a prompt has each of them.

The host takes tags out of a prompt before it reads what the brackets mean. So a word takes the place of each tag here,
the host's own parser is asked which texts the prompt goes through, and a tag is there wherever its word is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

from lbw.tags.presence import Presence, Reckoning
from modules import extra_networks, prompt_parser, sd_samplers, shared

_PRIVATE_USE = range(0xE000, 0xF900)
"""Characters that mean nothing to anybody, so that a prompt hardly has one."""


@dataclass(frozen=True)
class Place:
    """Where a tag stands in a prompt: ``text`` is the prompt with a word in the place of each tag, and ``word`` is that
    of this tag. All words begin and end alike."""

    text: str
    word: str

    def words(self) -> list[str]:
        return re.findall(_words(self.word), self.text)

    def alone(self) -> Place:
        """The place in the prompt that lacks other tags."""
        return Place(_without(self.text, self.word, kept=self.word), self.word)


def _words(word: str) -> str:
    """A pattern for all words, given one of them."""
    return f"{word[0]}[0-9]+{word[-1]}"


def _without(text: str, word: str, kept: str = "") -> str:
    """A text without the words that are like ``word``, but for one."""
    return re.sub(_words(word), lambda match: kept if match[0] == kept else "", text)


def places(text: str) -> list[tuple[str, str, Place | None]]:
    """(kind, the tag as it is written, its place) of all tags in a prompt; no place where it is in no bracket.

    Args:
        text: the prompt as the host reads tags in it.
    """
    # Without a closing bracket behind it, each opening one would be searched to the end of the text.
    found = [*extra_networks.re_extra_net.finditer(text, 0, text.rfind(">") + 1)]
    bracket = text.find("[")
    if not found or not -1 < bracket < found[-1].start():
        return [(match[1], match[0], None) for match in found]
    marks = [*islice((chr(code) for code in _PRIVATE_USE if chr(code) not in text), 2)]
    if len(marks) < 2:
        return [(match[1], match[0], None) for match in found]
    words = [f"{marks[0]}{number}{marks[1]}" for number in range(len(found))]
    parts, end = [], 0
    for match, word in zip(found, words, strict=True):
        parts += [text[end : match.start()], word]
        end = match.end()
    marked = "".join([*parts, text[end:]])
    return [
        (match[1], match[0], Place(marked, word) if bracket < match.start() else None)
        for match, word in zip(found, words, strict=True)
    ]


def presences(found: Sequence[Place | None], reckoning: Reckoning) -> list[Presence | None]:
    """In which evaluations of a pass a prompt has its tags; None for a tag that is there at all times.

    Args:
        found: the places of tags of one prompt.

    Raises:
        ValueError: there are too many brackets, or steps.
    """
    in_brackets = [place for place in found if place is not None]
    if not in_brackets:
        return [None] * len(found)
    evaluations = max(reckoning.first, reckoning.hires or 0)
    if evaluations > _MOST_EVALUATIONS:
        raise ValueError(f"{evaluations} evaluations of the model; expected at most {_MOST_EVALUATIONS}")
    parser = prompt_parser.get_learned_conditioning_prompt_schedules
    is_old = bool(getattr(shared.opts, "use_old_scheduling", False))
    together = _presences(in_brackets[0], reckoning, parser, is_old)
    if together is not None:
        return [None if place is None else together[place.word] for place in found]
    # A word that stands for some tag makes another prompt of it: brackets that mean something to the host, because it
    # does not see the tag, have to mean the same here.
    alone = [
        None if place is None else _presences(place.alone(), reckoning, parser, is_old, len(in_brackets))
        for place in found
    ]
    return [None if place is None or not each else each[place.word] for place, each in zip(found, alone, strict=True)]


@lru_cache(maxsize=8)
def _presences(
    place: Place, reckoning: Reckoning, parser: Callable[..., Any], is_old: bool, times: int = 1
) -> Mapping[str, Presence | None] | None:
    """Those of all words of a prompt; None if the words make another prompt of it. All batches of a generation ask
    alike.

    Args:
        parser: the host's, whose answers these are.
        is_old: whether it is asked for its old scheduling.
        times: how many such questions there will be.

    Raises:
        ValueError: there are more signs, or characters, than can be read in bounded time.
    """
    if times > 1 and len(place.text) * times > _MOST_CHARACTERS:
        raise ValueError(f"{len(place.text)} characters, and {times} tags; expected at most {_MOST_CHARACTERS} for all")
    found: dict[str, Presence | None] = dict.fromkeys(place.words())
    parts = _parts(place.text)
    if [_without(part, place.word) for part in parts] != _parts(_without(place.text, place.word)):
        return None
    asked = {part: _kept(part, place.word) for part in dict.fromkeys(parts) if re.search(_words(place.word), part)}
    asked = {part: kept for part, kept in asked.items() if re.search("[:|]", kept.partition("[")[2])}
    signs = sum(len(_SIGNS.findall(kept)) for kept in asked.values()) * times
    if signs > _MOST_SIGNS:
        raise ValueError(f"{signs} brackets, colons and bars; expected at most {_MOST_SIGNS}")
    for part, kept in asked.items():
        texts = [kept, _without(kept, place.word)]
        marked, expected = (
            [(int(end), str(entry)) for end, entry in schedule]
            for schedule in parser(texts, reckoning.first, reckoning.hires, is_old)
        )
        if [(end, _without(text, place.word)) for end, text in marked] != expected:
            return None
        ends = tuple(end for end, _text in marked)
        for word in re.findall(_words(place.word), part):
            is_there = tuple(word in text for _end, text in marked)
            if not all(is_there):
                found[word] = Presence(ends, is_there, reckoning.per_step)
    return found


def _parts(text: str) -> list[str]:
    """What stands between the ANDs of a prompt."""
    [indexes], parts, _ = prompt_parser.get_multicond_prompt_list([text])
    return [str(parts[index]) for index, _weight in indexes]


_SIGNS = re.compile(r"[()[\]:|]")

_MOST_SIGNS = 100
"""In all that the host's parser is asked for a prompt: it takes seconds for some hundreds."""

_MOST_CHARACTERS = 1_000_000
"""Of all questions where each tag is asked for alone."""

_MOST_EVALUATIONS = 1000
"""Of a pass: for each of them the host's parser makes a text where words alternate."""


@dataclass
class _Bracket:
    """One that is open: where, how many colons are in it, and whether nothing else is that could mean something."""

    start: int
    colons: int = 0
    is_plain: bool = True


def _kept(text: str, word: str) -> str:
    """A text without emphases in which there is no tag, and with one letter for all words between two signs. They
    change nothing for the tags, people have dozens of them, and the time that the host's parser takes rises with the
    square of their number, or faster.

    Args:
        word: one that stands for a tag.
    """
    left_out = _emphases(text, word[0])
    ends = [0, *(end for _start, end in left_out)]
    starts = [*(start for start, _end in left_out), len(text)]
    kept = "".join(text[end:start] for end, start in zip(ends, starts, strict=True))

    def short(match: re.Match[str]) -> str:
        # Only what could be a number, or the blanks around one, means something.
        return match[0] if _MAYBE_NUMBER.fullmatch(match[0]) else "x"

    mark, end = word[0], word[-1]
    return re.sub(rf"(?<!{mark})(?:[^\\()[\]:|{mark}{end}]|\\[^{mark}{end}])+", short, kept)


_MAYBE_NUMBER = re.compile(r"[\s0-9.eE+-]*")


def _emphases(text: str, mark: str) -> list[tuple[int, int]]:
    """(start, end) of the outermost emphases without a mark, ``(a)``, ``(a:1.2)`` or ``[a]``; none in a text whose
    brackets do not match."""
    found: list[tuple[int, int]] = []
    opened: list[_Bracket] = []
    for match in re.finditer(rf"\\.?|[()[\]:|{mark}]", text, re.DOTALL):
        sign, at = match[0], match.start()
        if sign in ("(", "["):
            opened.append(_Bracket(at))
        elif sign in (")", "]"):
            if not opened or text[opened[-1].start] + sign not in ("()", "[]"):
                return []
            closed = opened.pop()
            if closed.is_plain and closed.colons <= (sign == ")"):
                while found and found[-1][0] > closed.start:
                    found.pop()
                found.append((closed.start, at + 1))
            elif opened:
                opened[-1].is_plain = False
        elif opened and sign == ":":
            opened[-1].colons += 1
        elif opened:
            opened[-1].is_plain = False
    return [] if opened else found


def reckoning(p: Any, is_hires: bool) -> Reckoning:
    """What the host reckons with in a pass of a processing object."""
    first = evaluations(p.sampler_name, p.steps)
    if not is_hires:
        return Reckoning(first, None, first // p.steps)
    steps = p.hr_second_pass_steps or p.steps
    hires = evaluations(p.hr_sampler_name or p.sampler_name, steps)
    return Reckoning(first, hires, hires // steps)


def evaluations(sampler: str, steps: int) -> int:
    """How many evaluations of the model the host reckons with in so many steps of a sampler."""
    config = sd_samplers.find_sampler_config(sampler)
    return int(config.total_steps(steps)) if config else steps
