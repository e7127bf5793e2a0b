"""What a user writes: tags, vectors, presets, curves, positions. Imports no other room, no torch, gradio or host."""
