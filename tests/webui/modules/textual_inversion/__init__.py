"""Textual inversion, as far as other parts of the host ask for it."""
