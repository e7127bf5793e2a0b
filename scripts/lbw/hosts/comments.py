"""What a generation tells its user with the result.

A script that copies a request has all copies tell it in one place: so what others have told before is left out of the
result of a generation, and of the console what has been said there.
"""

from __future__ import annotations

from typing import Any

from lbw.hosts.settings import NAME

_EARLIER = "lora_block_weight_earlier_comments"
_TOLD = "lora_block_weight_comments"
"""Attributes of the host's processing object: what others have told before it, and what it tells, {comment: None}."""


def _comment(message: str) -> str:
    return f"{NAME}: {message}"


def _ours(p: Any) -> dict[str, None]:
    return {comment: None for comment in p.comments or () if comment.startswith(_comment(""))}


def begin(p: Any) -> None:
    """A generation is about to begin, which has told nothing yet."""
    setattr(p, _EARLIER, _ours(p))
    setattr(p, _TOLD, {})


def tell(p: Any, message: str) -> None:
    comment = _comment(message)
    vars(p).setdefault(_TOLD, {})[comment] = None
    p.comment(comment)


def told_before(p: Any) -> frozenset[str]:
    """The messages of other copies of the request, which came before this generation."""
    return frozenset(comment.removeprefix(_comment("")) for comment in vars(p).get(_EARLIER, {}))


def finish(p: Any, processed: Any) -> None:
    """Leave out of the result of a generation what others have told before it."""
    own = vars(p).get(_TOLD, {})
    for comment in vars(p).get(_EARLIER, {}):
        if comment not in own:
            processed.comments = processed.comments.replace(f"{comment}\n", "", 1)
