"""The adapter for AUTOMATIC1111's WebUI: what only this family has. Imports what is beside it in ``hosts`` no more than
``adapter``."""
