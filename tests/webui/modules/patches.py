"""Replacing attributes of modules and classes so that each replacement has an owner and can be taken back."""
from __future__ import annotations

from typing import Any

# What stood there before, by owner, object and attribute.
originals: dict[tuple[Any, Any, str], Any] = {}


def _refuse(key: Any, obj: Any, field: str, because: str) -> None:
    raise RuntimeError(f"{key} {because} {field} of {obj}")


def patch(key: Any, obj: Any, field: str, replacement: Any) -> Any:
    """Set `obj.field` to `replacement` on behalf of the owner `key`.

    Returns:
        what `obj.field` was before.

    Raises:
        RuntimeError: this owner has replaced the same field already.
    """
    place = (key, obj, field)
    if place in originals:
        _refuse(*place, because="has already patched")
    before = originals[place] = getattr(obj, field)
    setattr(obj, field, replacement)
    return before


def undo(key: Any, obj: Any, field: str) -> None:
    """Put back what `patch` of the same owner replaced.

    Raises:
        RuntimeError: this owner has not replaced that field.
    """
    place = (key, obj, field)
    if place not in originals:
        _refuse(*place, because="has not patched")
    setattr(obj, field, originals.pop(place))


def original(key: Any, obj: Any, field: str) -> Any:
    """What the owner `key` replaced, or None where it replaced nothing."""
    return originals.get((key, obj, field))
