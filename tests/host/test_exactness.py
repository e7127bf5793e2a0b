"""Weights: the base bit for bit with all off, the correctly rounded sum with LoRAs on; images: the slow path's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lbw.tags.families import SD1, is_text_encoder
from tests.host import slow_path
from tests.host.conftest import Bench
from tests.host.test_isolation import difference

INPUT_BLOCKS = ("BASE", "IN01", "IN02", "IN04", "IN05", "IN07", "IN08")
"""Where the preset INALL is 1."""


def test_locon_and_cp_form_reach_their_exact_weights(bench: Bench):
    seen: dict[str, torch.Tensor] = {}

    def copy_weights(_params: Any) -> None:
        if not seen:
            layers = bench.layers()
            seen.update({name: layers[name].weight.detach().cpu().clone() for name in bench.base})

    with bench.webui.observing(copy_weights):
        bench.webui.generate(prompt="a red cat <lora:t_locon:0.7:stop=4> <lora:t_mid:-0.5:lbw=INALL>")
    none = torch.zeros(1, dtype=torch.float64)
    for name, base in bench.base.items():
        block = SD1.block_of(name)
        if bench.webui.is_forge and is_text_encoder(name):
            continue  # it was at work before
        ratio = float(block is None or block in INPUT_BLOCKS)
        locon, mid = (bench.deltas[network].get(name, none) for network in ("t_locon", "t_mid"))
        wanted = (base.double() + 0.7 * locon - 0.5 * ratio * mid).to(base.dtype)
        up = torch.nextafter(wanted, torch.full_like(wanted, float("inf")))
        down = torch.nextafter(wanted, torch.full_like(wanted, -float("inf")))
        assert ((seen[name] >= down) & (seen[name] <= up)).all(), name


@pytest.mark.parametrize(
    "prompt",
    [
        "a red cat <lora:t_lora:1:lbw=OUTD:stop=5>",
        "a red cat <lora:t_lora:0@0,1@0.6,0.3@1> <lora:t_locon:0.7:lbw=NONE@0,OUTALL@1:curve=cosine>",
        *(
            pytest.param(prompt, marks=pytest.mark.of_any_forge)
            for prompt in (
                "a red cat <lora:t_lora:1:stop=5>",
                "a red cat <lora:t_lora:0.8:start=3> <lora:t_lora2:0.6:stop=6>",
                "a red cat <lora:t_locon:0.7:step=2-5>",
                "a red cat <lora:t_lora:1:lbw=INALL:stop=4> <lora:t_lora:0.5:start=4> "
                "<lora:t_mid:0.6:lbwe=ATTNDEEPOFF>",
            )
        ),
    ],
)
def test_the_image_is_that_of_the_hosts_slow_path(bench: Bench, prompt: str):
    ours = bench.webui.generate(prompt=prompt)
    assert difference(ours, slow_path.generate(bench.webui, prompt)) <= 1
    assert difference(ours, bench.webui.generate(prompt="a red cat")) > 1
