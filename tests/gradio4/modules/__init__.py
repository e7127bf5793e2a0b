"""The part of a host that the panel sees, as it is on Forge, whose gradio is 4.40."""
