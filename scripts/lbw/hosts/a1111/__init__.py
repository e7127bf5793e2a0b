"""The adapter for AUTOMATIC1111's WebUI: what only this family has."""
