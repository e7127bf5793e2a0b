"""LoRA Block Weight: weigh a LoRA block by block, and switch it at a sampling step, in place on the GPU."""

__version__ = "1.0.0"
