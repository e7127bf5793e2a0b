"""The shapes of SDXL's U-Net that LoRAs touch: 722 linear layers of 2.208 billion weights."""

from __future__ import annotations

from collections.abc import Iterator

TEXT_WIDTH = 2048

BLOCKS = (
    # (block, channels, transformer depth)
    *((f"input_blocks_{i}_1", 640, 2) for i in (4, 5)),
    *((f"input_blocks_{i}_1", 1280, 10) for i in (7, 8)),
    ("middle_block_1", 1280, 10),
    *((f"output_blocks_{i}_1", 1280, 10) for i in (0, 1, 2)),
    *((f"output_blocks_{i}_1", 640, 2) for i in (3, 4, 5)),
)


def attention_layers() -> Iterator[tuple[str, int, int]]:
    """(layer name, out features, in features) of every linear layer in the attention blocks."""
    for block, width, depth in BLOCKS:
        prefix = f"diffusion_model_{block}"
        yield f"{prefix}_proj_in", width, width
        for layer in range(depth):
            part = f"{prefix}_transformer_blocks_{layer}"
            for attention, source in (("attn1", width), ("attn2", TEXT_WIDTH)):
                yield f"{part}_{attention}_to_q", width, width
                yield f"{part}_{attention}_to_k", width, source
                yield f"{part}_{attention}_to_v", width, source
                yield f"{part}_{attention}_to_out_0", width, width
            yield f"{part}_ff_net_0_proj", 8 * width, width
            yield f"{part}_ff_net_2", width, 4 * width
        yield f"{prefix}_proj_out", width, width
