"""What the built-in LoRA extensions of all families have in common: their files, lists, tag, settings and routes."""
