"""The weights: bit for bit the base with everything off, the correctly rounded sum with LoRAs on, and the images of the slow path."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.host.conftest import Bench
from tests.host.test_isolation import difference


def test_locon_and_cp_form_reach_their_exact_weights(bench: Bench):
    seen: dict[str, torch.Tensor] = {}

    def copy_weights(params: Any) -> None:
        if params.sampling_step == 0 and not seen:
            seen.update({name: layer.weight.detach().clone() for name, layer in bench.layers().items() if name in bench.base})

    with bench.webui.observing(copy_weights):
        bench.webui.generate(prompt="a red cat <lora:t_locon:0.7:stop=4> <lora:t_mid:-0.5:lbw=INALL>")
    from lbw.blocks import block_of

    for name, base in bench.base.items():
        delta = 0.7 * bench.deltas["t_locon"].get(name, torch.zeros(1)).double()
        block = block_of(name)
        ratio = 1.0 if block is None or block == "BASE" or block in ("IN01", "IN02", "IN04", "IN05", "IN07", "IN08") else 0.0
        delta = delta - 0.5 * ratio * bench.deltas["t_mid"].get(name, torch.zeros(1)).double()
        wanted = (base.double() + delta).to(base.dtype)
        up = torch.nextafter(wanted, torch.full_like(wanted, float("inf")))
        down = torch.nextafter(wanted, torch.full_like(wanted, -float("inf")))
        got = seen[name].cpu()
        # lora_mid is contracted in float32, and so exact to float32's rounding of the factors only
        if name in bench.deltas["t_mid"] and base.dim() == 4 and base.shape[-1] == 3 and ratio:
            assert torch.allclose(got, wanted, rtol=1e-5, atol=1e-6)
        else:
            assert ((got >= down) & (got <= up)).all(), name


@pytest.mark.parametrize(
    "prompt",
    [
        "a red cat <lora:t_lora:1:stop=5>",
        "a red cat <lora:t_lora:0.8:start=3> <lora:t_lora2:0.6:stop=6>",
        "a red cat <lora:t_locon:0.7:step=2-5>",
    ],
)
def test_the_image_is_that_of_the_hosts_slow_path(bench: Bench, prompt: str):
    """The same schedule through the host's own re-patch: its multipliers are set before each step, and it does the rest."""
    from lbw import prompt as tags
    from lbw.hosts.a1111 import solver_step

    ours = bench.webui.generate(prompt=prompt)
    requests = {
        (request := tags.parse(text.partition(">")[0].split(":")[1:], print)).name: request
        for text in prompt.split("<")[1:]
    }

    def set_multipliers(params: Any) -> None:
        step = solver_step(params.denoiser, params.sampling_step)
        for net in bench.webui.networks.loaded_networks:
            request = requests[net.name]
            strength = request.schedule.strength(step, params.total_sampling_steps)
            net.unet_multiplier = request.unet_multiplier * strength

    with bench.webui.observing(set_multipliers, before=True):
        slow = bench.webui.generate(args=["", False], prompt=prompt)
    assert difference(ours, slow) <= 1
    off = bench.webui.generate(prompt="a red cat")
    assert np.abs(np.asarray(off.images[0]).astype(int) - np.asarray(ours.images[0])).max() > 1
