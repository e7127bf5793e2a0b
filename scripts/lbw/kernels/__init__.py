"""The in-place update of a weight: one file for each way to run it."""
