"""The shapes of SDXL's U-Net: 722 linear layers of attention blocks, 2.208 billion weights, and all the others."""

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


RESIDUAL_BLOCKS = (
    # (block, channels in, channels out)
    *((f"input_blocks_{i}_0", 320, 320) for i in (1, 2)),
    ("input_blocks_4_0", 320, 640),
    ("input_blocks_5_0", 640, 640),
    ("input_blocks_7_0", 640, 1280),
    ("input_blocks_8_0", 1280, 1280),
    ("middle_block_0", 1280, 1280),
    ("middle_block_2", 1280, 1280),
    ("output_blocks_0_0", 2560, 1280),
    ("output_blocks_1_0", 2560, 1280),
    ("output_blocks_2_0", 1920, 1280),
    ("output_blocks_3_0", 1920, 640),
    ("output_blocks_4_0", 1280, 640),
    ("output_blocks_5_0", 960, 640),
    ("output_blocks_6_0", 960, 320),
    ("output_blocks_7_0", 640, 320),
    ("output_blocks_8_0", 640, 320),
)
SAMPLING_CONVOLUTIONS = (
    ("input_blocks_0_0", 4, 320),
    ("input_blocks_3_0_op", 320, 320),
    ("input_blocks_6_0_op", 640, 640),
    ("output_blocks_2_2_conv", 1280, 1280),
    ("output_blocks_5_2_conv", 640, 640),
    ("out_2", 320, 4),
)
EMBEDDINGS = (
    ("time_embed_0", 320, 1280),
    ("time_embed_2", 1280, 1280),
    ("label_emb_0_0", 2816, 1280),
    ("label_emb_0_2", 1280, 1280),
)


def other_layers() -> Iterator[tuple[str, int, int, int]]:
    """(layer name, out, in, kernel size) of all other layers with a weight matrix; a kernel size of 0 is linear."""
    for block, into, out in RESIDUAL_BLOCKS:
        prefix = f"diffusion_model_{block}"
        yield f"{prefix}_in_layers_2", out, into, 3
        yield f"{prefix}_emb_layers_1", out, 1280, 0
        yield f"{prefix}_out_layers_3", out, out, 3
        if into != out:
            yield f"{prefix}_skip_connection", out, into, 1
    for name, into, out in SAMPLING_CONVOLUTIONS:
        yield f"diffusion_model_{name}", out, into, 3
    for name, into, out in EMBEDDINGS:
        yield f"diffusion_model_{name}", out, into, 0
