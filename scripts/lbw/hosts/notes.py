"""What the infotext of an image says, which differs from batch to batch."""

from __future__ import annotations

from typing import Any


class Note(str):
    """A text in the infotext that differs from batch to batch: the host calls it with the image that it writes."""

    batches: dict[int, str]

    def __new__(cls, batches: dict[int, str], batch: int) -> Note:
        note = super().__new__(cls, batches.get(batch, ""))
        note.batches = batches
        return note

    def __call__(self, p: Any, index: int, all_seeds: Any, use_main_prompt: bool, **_: Any) -> str | None:
        """The text of the batch that the image is from; while a batch is made, the host counts inside it."""
        batch = p.iteration if all_seeds is p.seeds else index // p.batch_size
        return self.batches.get(0 if use_main_prompt else batch)
