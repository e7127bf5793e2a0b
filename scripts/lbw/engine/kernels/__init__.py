"""The in-place update of weights: one file for each way to run it."""
