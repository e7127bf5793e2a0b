"""Sampling algorithms and noise schedules, written from the papers. They know nothing of the rest of the host."""
