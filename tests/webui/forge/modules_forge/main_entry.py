"""What the page of Forge of 2025 and of Forge Neo calls when something else is chosen in its menus."""

from __future__ import annotations


def refresh_model_loading_parameters() -> None:
    """What is chosen is looked at when a model is loaded."""
