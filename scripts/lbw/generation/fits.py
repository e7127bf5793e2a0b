"""How much of a LoRA's file is in force in the model that is loaded, and what is said where that is not all."""

from __future__ import annotations

from dataclasses import dataclass

from lbw.files.origin import Origin, model_name
from lbw.tags.families import Family
from lbw.tags.limits import shortened


@dataclass(frozen=True)
class Fit:
    """Parts in force, of so many in the file. Where its head cannot be read, nothing but those in force is known."""

    unet: int
    encoders: int
    origin: Origin | None

    @property
    def is_nothing(self) -> bool:
        has_words = self.origin is not None and self.origin.has_words and not self.origin.parts
        return not self.unet and not self.encoders and not has_words

    @property
    def words(self) -> str:
        """For the status line; empty where all parts are in force, as far as that is known."""
        origin = self.origin
        if origin is None:
            return "no effect: no part fits" if self.is_nothing else ""
        if self.is_nothing:
            return f"no effect: 0 of {origin.parts} parts fit"
        if not origin.parts:
            return "no parts of a LoRA, but words for the prompt"
        sides = [(self.unet, origin.unet_parts, "U-Net"), (self.encoders, origin.encoder_parts, "text encoder")]
        short = [f"{count} of {whole} {side}" for count, whole, side in sides if count < whole]
        return f"{' and '.join(short)} parts fit" if short else ""


def explanation(fit: Fit, family: Family, reason: str) -> str:
    """Why a file has no effect, and what can be done.

    Args:
        reason: why the first of its parts could not be applied, whose names the model has; empty if there is none.
    """
    origin, loaded = fit.origin, model_name(family)
    if origin is None:
        return f"none of its parts {_lacks(loaded, reason)}; see which model it was made for"
    if not origin.parts:
        return "its file has no parts of a LoRA, so it has no effect; see what kind of file it is"
    told = f"0 of {origin.parts} parts {_lacks(loaded, reason)}"
    naming = f"{origin.naming or 'unknown'} names, such as {shortened(origin.example)}"
    if origin.model is None:
        return f"{told}; it has {naming}, which do not tell its model; see which one it was made for"
    if not origin.is_for(family):
        return f"{told}; it is made for {origin.model} ({naming}); load such a model for it"
    if reason:
        return told
    return f"{told}; it is made for {origin.model}, but has {naming}, which are not known here; convert it to kohya's"


def _lacks(loaded: str, reason: str) -> str:
    if reason:
        return f"can be used with this {loaded} model, first {reason}; it has no effect"
    return f"are for this {loaded} model, so that it has no effect"
