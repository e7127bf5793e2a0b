"""A LoRA's own default: block weights that stand in the host's file of what its user says of a LoRA, beside the LoRA.

Companions of the original write them there, and append them, behind ``:lbw=``, to the tags that the LoRA's card makes.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from lbw.tags.ordinary_files import read_bytes
from lbw.tags.presets import write_atomically

KEY = "additional weight"
"""What the companions call it in the file."""

LONGEST = 10_000
"""Characters of a default: more than a vector of any model has."""

MOST_BYTES = 1 << 20
"""Of a file with what is noted of a LoRA, as it is read."""

_writing = threading.Lock()


def metadata_file(network_file: str) -> Path:
    """The host's file of what its user says of a network file."""
    return Path(f"{os.path.splitext(network_file)[0]}.json")


def read(path: Path) -> str:
    """The default in a file, as it stands behind ``lbw=``; empty where there is none, or it cannot be read."""
    try:
        return normalised(str(_load(path).get(KEY) or ""))
    except (OSError, ValueError):
        return ""


def normalised(text: str) -> str:
    """``:lbw=OUTD:stop=5``, as it stands in a tag -> ``OUTD:stop=5``, as companions have it.

    Raises:
        ValueError: it cannot stand in a tag.
    """
    text = text.strip().strip(":").strip()
    key, equals, rest = text.partition("=")
    text = rest.strip() if equals and key.strip().lower() == "lbw" else text
    if len(text) > LONGEST or any(sign in "<>" or not sign.isprintable() for sign in text):
        raise ValueError(f"expected what may stand in a tag, in one line, up to {LONGEST} characters, without < and >")
    return text


def write(path: Path, weights: str) -> dict[str, Any]:
    """Set the default in a file, or take it out if it is empty; all else in the file stays. Returns the file's content.

    Raises:
        ValueError: the weights cannot stand in a tag, or the file holds something else; nothing was written.
        OSError: the file cannot be written.
    """
    weights = normalised(weights)
    with _writing:
        content = _load(path)
        if weights == (content.get(KEY) or ""):
            return content
        _require_readable(content.get(KEY), path)
        content[KEY] = weights
        if not weights:
            del content[KEY]
        try:
            text = json.dumps(content, indent=4, ensure_ascii=False)
            is_too_large = len(text.encode()) > MOST_BYTES
        except UnicodeEncodeError:
            raise ValueError(f"{path.name} has text that is no Unicode, so that it is left alone") from None
        except RecursionError:  # it is read to a greater depth than it is written
            raise ValueError(f"{path.name} has lists too deep in lists, so that it is left alone") from None
        if is_too_large:
            raise ValueError(f"{path.name} would have more than {MOST_BYTES} bytes, so that it is left alone")
        write_atomically(path, text)
    return content


def _require_readable(text: Any, path: Path) -> None:
    try:
        normalised(str(text or ""))
    except ValueError:
        raise ValueError(f"{path.name} has a default that cannot stand in a tag, so that it is left alone") from None


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_bytes(path, MOST_BYTES).decode())
    except FileNotFoundError:
        return {}
    except RecursionError:
        content = None
    except ValueError as error:
        raise ValueError(f"{path.name} is not JSON, so that it is left alone") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no JSON object, so that it is left alone")
    return content
