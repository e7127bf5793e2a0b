"""The adapter for AUTOMATIC1111's WebUI: what only this family has. It imports nothing that stands beside it."""
