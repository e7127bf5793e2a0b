"""Replacing attributes of modules and classes so that each replacement has an owner and can be taken back."""
from __future__ import annotations

from collections import defaultdict
from typing import Any

originals: defaultdict[Any, dict[tuple[Any, str], Any]] = defaultdict(dict)


def patch(key: Any, obj: Any, field: str, replacement: Any) -> Any:
    """Set `obj.field` to `replacement` on behalf of the owner `key`.

    Returns:
        what `obj.field` was before.

    Raises:
        RuntimeError: this owner has replaced the same field already.
    """
    target = (obj, field)
    if target in originals[key]:
        raise RuntimeError(f"{key} has already patched {field} of {obj}")
    before = getattr(obj, field)
    originals[key][target] = before
    setattr(obj, field, replacement)
    return before


def undo(key: Any, obj: Any, field: str) -> None:
    """Put back what `patch` of the same owner replaced.

    Raises:
        RuntimeError: this owner has not replaced that field.
    """
    target = (obj, field)
    if target not in originals[key]:
        raise RuntimeError(f"{key} has not patched {field} of {obj}")
    setattr(obj, field, originals[key].pop(target))


def original(key: Any, obj: Any, field: str) -> Any:
    """What the owner `key` replaced, or None where it replaced nothing."""
    return originals[key].get((obj, field))
