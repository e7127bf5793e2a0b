"""Every network type through the engine, on the CPU and on a CUDA GPU: within one unit in the last place of float64."""

from __future__ import annotations

import pytest
import torch

from lbw.engine import LoraEngine
from tests.host.network_files import MAKERS, Random, in_half
from tests.unit.host_modules import layer_for, make_module
from tests.unit.networks import Network
from tests.unit.ulp import ulp_distance

CASES = [(kind, layer) for kind, (_maker, layers) in MAKERS.items() for layer in layers]
KEY = "diffusion_model_input_blocks_4_1_proj_in"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_a_type_is_exact(case: tuple[str, str], device: str, dtype: torch.dtype):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    torch.manual_seed(1)
    layer = layer_for(case[1]).to(device, dtype)
    base, bias_base = layer.weight.detach().clone(), layer.bias.detach().clone()
    network = Network(case[0])
    tensors, formula, bias = MAKERS[case[0]][0](base.cpu().float(), Random(3))
    if dtype == torch.float16:
        tensors = in_half(tensors)
    network.modules[KEY] = make_module(network, tensors)
    engine = LoraEngine()
    assert engine.bind(layer, {KEY: layer}, [network]).messages == ()
    # What is left of a sum that nearly cancels out has more digits in bfloat16 than float32 can sum up.
    floor = 1e-7 if dtype == torch.bfloat16 else 0.0
    for coefficient in (1.0, 0.5, -0.7):
        engine.manual_lora_update({KEY: (coefficient,)}, ((case[0], 1.0, 1.0, None),))
        wanted = base.cpu().double() + coefficient * formula(base.cpu().double())
        assert ulp_distance(layer.weight, wanted.to(dtype), floor) <= 1
        if bias is not None:
            wanted_bias = (bias_base.cpu().double() + coefficient * bias).to(dtype)
            assert ulp_distance(layer.bias, wanted_bias, floor) <= 1
    engine.manual_lora_update({KEY: (0.0,)}, ((case[0], 1.0, 1.0, None),))
    assert layer.weight.equal(base) and layer.bias.equal(bias_base)


@pytest.mark.parametrize("kind", ["glora", "dora", "dora_by_output"])
def test_what_is_remembered_of_a_weight_goes_with_it(kind: str):
    """Another checkpoint is loaded into the same layer, and the host drops the backup."""
    torch.manual_seed(1)
    layer = layer_for("linear").half()
    network = Network(kind)
    tensors, formula, _ = MAKERS[kind][0](layer.weight.detach().float(), Random(3))
    network.modules[KEY] = make_module(network, tensors)
    engine = LoraEngine()
    for _ in range(2):
        layer.weight.data.normal_(std=0.2)
        base = layer.weight.detach().clone()
        layer.network_current_names, layer.network_weights_backup, layer.network_bias_backup = (), None, None
        engine.bind(layer, {KEY: layer}, [network])
        engine.manual_lora_update({KEY: (0.5,)}, ((kind, 1.0, 1.0, None),))
        wanted = base.double() + 0.5 * formula(base.double())
        assert ulp_distance(layer.weight, wanted.half()) <= 1
