"""The host's caches of encoded prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class ConditioningCaches:
    """The host's caches of encoded prompts, which are keyed on the tags' text and know nothing of presets."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, Any]] = {}

    @staticmethod
    def _of(p: Any) -> list[list[Any]]:
        names = ("cached_c", "cached_uc", "cached_hr_c", "cached_hr_uc")
        return [cache for name in names if (cache := getattr(p, name, None)) is not None]

    def _made_with(self, cache: list[Any]) -> Any:
        """The text encoder ratios of what is cached; what is not known was made by the host, with none."""
        content, ratios = self._known.get(id(cache), (None, ()))
        return ratios if content is cache[1] else ()

    def drop_others(self, p: Any, ratios: Any) -> None:
        """Drop what was encoded with other text encoder ratios than ``ratios``."""
        for cache in self._of(p):
            if cache[0] is not None and self._made_with(cache) != ratios:
                cache[:] = [None, None]

    def remember(self, p: Any, ratios: Any) -> None:
        """What has been encoded just now was encoded with ``ratios``."""
        caches = self._of(p)
        self._known = {
            id(cache): old if (old := self._known.get(id(cache))) and old[0] is cache[1] else (cache[1], ratios)
            for cache in caches
        }


class Encoder:
    """Stands in for one processing object's ``setup_conds``, through which the host encodes the prompts of a batch.

    A refiner that takes over in the middle of sampling has them encoded anew, with its own text encoder, before the
    next evaluation is announced.

    Args:
        p: the host's processing object.
        before: brings the weights of the model that is in use now to where they should be.
        after: notes what the prompts were encoded with.
    """

    def __init__(self, p: Any, before: Callable[[], None], after: Callable[[], None]) -> None:
        self._encode = p.setup_conds
        self._before, self._after = before, after

    def __call__(self) -> None:
        self._before()
        self._encode()
        self._after()
