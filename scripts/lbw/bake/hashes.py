"""The hashes that a LoRA file has in its own head, by which WebUIs know it: taken while its data are written.

They are those of kohya's sd-scripts (``library/train_util.py``: ``precalculate_safetensors_hashes``) and of the model
specification (https://github.com/Stability-AI/ModelSpec: ``hash_sha256``).
"""

from __future__ import annotations

import hashlib

MODEL, LEGACY, SPEC = "sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256"

PLACEHOLDERS = {MODEL: "0" * 64, LEGACY: "0" * 8, SPEC: f"0x{'0' * 64}"}
"""What stands for each hash in a head until the data are known, and is as long as it."""

_LEGACY_BYTES = range(0x100000, 0x110000)
"""Of a file, those that its legacy hash is of."""


class Hashes:
    """``legacy_head`` is what stands before the data in the file that the legacy hash is of: as this one, but with
    ``ss_`` metadata only."""

    def __init__(self, legacy_head: bytes) -> None:
        self._all = hashlib.sha256()
        self._legacy = hashlib.sha256()
        self._position = 0
        self._update_legacy(memoryview(legacy_head))

    def update(self, data: memoryview) -> None:
        """The next bytes behind the head."""
        self._all.update(data)
        self._update_legacy(data)

    def _update_legacy(self, data: memoryview) -> None:
        start, stop = (max(0, end - self._position) for end in (_LEGACY_BYTES.start, _LEGACY_BYTES.stop))
        self._legacy.update(data[start:stop])
        self._position += len(data)

    def values(self) -> dict[str, str]:
        """{key of metadata: the hash as it stands there}, in hexadecimal digits."""
        whole = self._all.hexdigest()
        return {MODEL: whole, LEGACY: self._legacy.hexdigest()[:8], SPEC: f"0x{whole}"}
