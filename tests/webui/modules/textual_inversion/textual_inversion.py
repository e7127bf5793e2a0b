"""The list of textual inversion embeddings. This host loads none, so the list stays empty."""
from __future__ import annotations

from typing import Any


class EmbeddingDatabase:
    """Names under which the API and the page look embeddings up."""

    def __init__(self):
        self.word_embeddings: dict[str, Any] = {}
        self.skipped_embeddings: dict[str, Any] = {}
        self.expected_shape = -1

    def load_textual_inversion_embeddings(self, force_reload: bool = False) -> None:
        """The host calls this after each model load and before each generation, to find new files."""
        self.word_embeddings.clear()
        self.skipped_embeddings.clear()
