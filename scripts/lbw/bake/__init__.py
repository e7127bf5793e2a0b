"""Baking: what LoRA tags do to a model, kept as a network file that does the same at strength 1, without tags.

A part of a network stays what it is where that is exact: a LoRA's ratio goes into ``up``, a part at 0 is left out. What
it cannot stay becomes a whole difference, or, where the user names a rank, a LoRA that is as near as one can be.
"""
