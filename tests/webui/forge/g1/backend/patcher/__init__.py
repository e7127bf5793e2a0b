"""Copies of models with patches, and how those are merged."""
