"""A hand on the strengths of one generation: moves come in from other threads, and wait for the next step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from threading import Lock

from lbw.plan.plan import Pass
from lbw.request.live import Fader, Key, keys_of
from lbw.tags.limits import shortened
from lbw.tags.played import played_tag
from lbw.tags.prompt import LoraRequest, Warn


class Hand:
    """What is moved, and what holds.

    ``has_moved`` says whether a move waits: whoever samples asks for nothing else while nobody plays. ``strengths`` are
    those that hold, {tag: its strength in the U-Net}; they are the sampling thread's alone.
    """

    def __init__(self) -> None:
        self.has_moved = False
        self.strengths: dict[Key, float] = {}
        self._waiting: dict[Key, float] = {}
        self._lock = Lock()

    def move(self, strengths: Mapping[Key, float]) -> None:
        """From the next step on these hold; of two moves of one tag the later."""
        with self._lock:
            self._waiting |= strengths
            self.has_moved = True

    def waiting(self) -> dict[Key, float]:
        """What is moved and does not hold yet."""
        with self._lock:
            return dict(self._waiting)

    def drop(self) -> None:
        """What waits cannot be put in force."""
        with self._lock:
            self._waiting = {}
            self.has_moved = False

    def take(self) -> dict[Key, float]:
        """A step begins, from which on all that was moved holds."""
        with self._lock:
            taken, self._waiting = self._waiting, {}
            self.has_moved = False
        self.strengths |= taken
        return taken


def written_keys(requests: Iterable[LoraRequest]) -> list[tuple[Key, LoraRequest]]:
    """Of those requests that are of tags: (the tag as it is written, and which of such tags it is; its request)."""
    of_tags = [request for request in requests if request.written]
    return [*zip(keys_of(request.written for request in of_tags), of_tags, strict=True)]


def played_tags(passes: Iterable[Pass], warn: Warn = lambda _message: None) -> dict[Key, str]:
    """{(a tag as it is written, which of such tags it is): the tag that repeats what was played}.

    A tag that stands in the prompts of both passes says what was in force in both.

    Args:
        passes: those of one batch; of several of a kind the last counts.
        warn: gets a message for each tag that cannot say it, which is left out.
    """
    found: dict[Key, dict[bool, tuple[Pass, LoraRequest]]] = {}
    for made in passes:
        for key, request in written_keys(made.plan.requests):
            found.setdefault(key, {})[made.is_hires] = made, request
    tags = {}
    for key, by_pass in found.items():
        courses = {
            is_hires: made.strengths_apart(request, made.steps) for is_hires, (made, request) in by_pass.items()
        }
        is_played = {is_hires: request.is_played for is_hires, (_made, request) in by_pass.items()}
        if not any(is_played.values()):
            continue
        try:
            tags[key] = played_tag(key[0], courses[False] if is_played.get(False) else None, courses.get(True))
        except ValueError as error:
            warn(f"{shortened(key[0])}: {error}; the infotext has the tag as it was written")
    return tags


def faders(
    requests: Sequence[LoraRequest],
    tags: Mapping[Key, str],
    waiting: Mapping[Key, float],
    *,
    step: int | None,
    steps: int,
    sigmas: tuple[float, ...] = (),
    evaluation: int = 0,
) -> tuple[Fader, ...]:
    """What is shown of the tags of a pass.

    Args:
        requests: in the order of the tags.
        tags: of :func:`played_tags`.
        waiting: what is moved and does not hold yet.
        step: the one that is under way; None before the first.
        steps: how many the pass has.
        sigmas: the noise level of each, as far as it is known.
        evaluation: the one of the model that is under way.
    """
    keys = keys_of(request.name for request in requests)
    written = {id(request): key for key, request in written_keys(requests)}
    now = step or 0
    count = max(steps, now + 1)
    found = []
    for key, request in zip(keys, requests, strict=True):
        if id(request) not in written:
            continue
        strengths = request.present(None).unet_strengths(count, sigmas)
        presence = request.schedule.presence
        found.append(Fader(
            key, request.written, strengths[now], waiting.get(key), request.is_played,
            () if step is None else request.unet_strengths(count, sigmas)[: step + 1],
            presence is None or presence.contains(evaluation),
            tags.get(written[id(request)]),
        ))  # fmt: skip
    return tuple(found)
