"""What the infotexts of a generation's images say, which differs from batch to batch.

A script that copies a request, such as the host's X/Y/Z plot, has all copies write into the same dictionary of
parameters: so what stands there is asked of the processing object that an infotext is written for, and each of them
begins with none.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any
from weakref import ref

from modules import processing

_NOTES = "lora_block_weight_notes"
"""The attribute of the host's processing object that holds what its infotexts say, {key: {batch: text}}."""


class Note(str):
    """A text in the infotext that is one image's: the host calls it with the image that it writes.

    As a text it is that of the batch that is being made: hosts before 1.9 do not call it.
    """

    key: str

    def __new__(cls, key: str, text: str) -> Note:
        note = super().__new__(cls, text)
        note.key = key
        return note

    def __call__(self, p: Any, index: int, all_seeds: Any, use_main_prompt: bool, **_: Any) -> str | None:
        """The text of the batch that the image is from; while a batch is made, the host counts inside it."""
        batch = p.iteration if all_seeds is p.seeds else index // p.batch_size
        return _of(p).get(self.key, {}).get(0 if use_main_prompt else batch)

    def __deepcopy__(self, memo: Any) -> Note:
        return self

    def __reduce__(self) -> Any:
        return str, (str(self),)


def _of(p: Any) -> dict[str, dict[int, str]]:
    found: dict[str, dict[int, str]] = vars(p).get(_NOTES, {})
    return found


@cache
def _calls() -> bool:
    """Whether the host calls what it finds, as it does since 1.9."""
    return "callable(" in inspect.getsource(processing.create_infotext)


def begin(p: Any) -> None:
    """A generation begins, which has said nothing yet, whatever it was copied from."""
    setattr(p, _NOTES, {})
    write(p)


def take(p: Any, texts: Mapping[str, str]) -> None:
    """What the infotexts of the batch that is being made say from now on, {key: text}."""
    notes = _of(p)
    for batches in notes.values():
        batches.pop(p.iteration, None)
    for key, text in texts.items():
        notes.setdefault(key, {})[p.iteration] = text
    write(p)


def write(p: Any) -> None:
    """Have the host write the infotexts of this generation, and nothing that others have left."""
    _put(p, p.iteration)


def finish(p: Any, processed: Any) -> None:
    """A generation is over: its result is described by what its first image is."""
    global _last_result
    _put(p, 0)
    _last_result = ref(processed)


_last_result: ref[Any] | None = None


def _keep_last_result(parameters: dict[str, Any]) -> None:
    """The result of a copy that was made before shows what stands in the dictionary that all copies have."""
    result = None if _last_result is None else _last_result()
    if result is not None and result.extra_generation_params is parameters:
        result.extra_generation_params = dict(parameters)


def _put(p: Any, batch: int) -> None:
    parameters, notes = p.extra_generation_params, _of(p)
    texts = {key: batches.get(batch) for key, batches in notes.items() if batches}
    if _calls():
        texts = {key: text or next(iter(notes[key].values())) for key, text in texts.items()}
    others = [key for key, value in parameters.items() if isinstance(value, Note) and texts.get(key) is None]
    if others or texts:
        _keep_last_result(parameters)
    for key in others:
        del parameters[key]
    for key, text in texts.items():
        if text is not None:
            parameters[key] = Note(key, text)
