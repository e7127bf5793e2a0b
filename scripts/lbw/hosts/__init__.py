"""Adapters: one for each family of WebUIs. Imports every other room but ``ui``; only the entry script imports it."""
