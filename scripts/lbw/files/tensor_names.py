"""What a tensor is to its layer, whatever a trainer calls it: the names of kohya's scripts and of LyCORIS, which hosts
know, stand for all."""

from __future__ import annotations

import re

MAGNITUDE = "magnitude"
"""DoRA's length of each output channel, as PEFT keeps it. What LyCORIS and OneTrainer keep is ``dora_scale``, and may
be of the input channels."""

_SIDES = {"A": "lora_down.weight", "B": "lora_up.weight"}

_OTHERS = (
    "alpha", "scale", "dora_scale",
    "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
    "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t1", "lokr_t2",
    "diff", "diff_b", "w_norm", "b_norm", "a1.weight", "a2.weight", "b1.weight", "b2.weight",
    "oft_blocks", "oft_diag", "rescale", "weight", "on_input",
)  # fmt: skip
"""Those that trainers call alike."""

_ADAPTER = r"(?:\.(?!weight$)[^.]+)?"
"""PEFT keeps several adapters of a model apart by a name; the usual one is ``default``."""

_TENSOR = re.compile(
    r"(?P<layer>.+?)(?:"
    r"(?:\.lora_linear_layer|[._]lora)\.(?P<of_diffusers>up|down)\.weight"  # diffusers, in a processor: to_q_lora.up
    rf"|\.lora_(?P<of_kohya>up|down|mid){_ADAPTER}\.weight"
    rf"|\.lora_(?P<of_peft>[AB]){_ADAPTER}\.weight"
    rf"|\.(?P<magnitude>lora_magnitude_vector){_ADAPTER}(?:\.weight)?"
    r"|_lora\.(?P<of_processor>alpha)"
    rf"|\.(?P<other>{'|'.join(map(re.escape, _OTHERS))}){_ADAPTER}"
    r")"
)


def split(name: str) -> tuple[str, str] | None:
    """(the layer as the file calls it, what the tensor is to it); None for a name of no form that is known."""
    match = _TENSOR.fullmatch(name)
    if match is None:
        return None
    side = match["of_diffusers"] or match["of_kohya"]
    if side:
        return match["layer"], f"lora_{side}.weight"
    if match["of_peft"]:
        return match["layer"], _SIDES[match["of_peft"]]
    return match["layer"], MAGNITUDE if match["magnitude"] else match["of_processor"] or match["other"]
