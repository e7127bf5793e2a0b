"""A baked file at strength 1, which the host puts into the weights by itself, does what the tags do that it is made
of."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from tests.host.conftest import Bench
from tests.host.measure import OUTPUT_BLOCKS, forget_conditioning
from tests.host.network_files import MAKERS
from tests.host.test_network_types import write

FORMS = {
    "plain": ":0.8",
    "blocks": f":-0.7:lbw={OUTPUT_BLOCKS}",
    "elements": ":1:lbwe=OUT04-OUT11:attn:0.5",
    "te and unet": ":0.25:unet=1.5",
}


def bake(bench: Bench, path: Path, prompt: str, **asked: Any) -> Any:
    """Bake a prompt's tags into a file, as a user's request does."""
    from lbw.bake.baking import Progress
    from lbw.hosts.backend import Backend
    from lbw.request.bake import Order, begin

    begun = begin(Order(prompt, **asked), Backend(), Progress())
    path.unlink(missing_ok=True)  # a host may have mapped the one of an earlier test into memory
    with path.open("w+b") as file:
        begun.baking.write(file, {})
    return begun


class FirstWeights:
    """The weights that layers have when they are first at work for an image.

    Args:
        active: whether the extension is.
    """

    def __init__(self, bench: Bench, prompt: str, active: bool) -> None:
        from lbw.request.arguments import ARGUMENTS

        self.weights: dict[str, Tensor] = {}
        values = [argument.default for argument in ARGUMENTS]
        values[[argument.name for argument in ARGUMENTS].index("active")] = active
        layers = {name: layer for name, layer in bench.layers().items() if name in bench.base}
        hooks = [layer.register_forward_hook(partial(self._see, name)) for name, layer in layers.items()]
        forget_conditioning(bench.webui)
        self.result = bench.webui.generate(values, prompt=prompt, steps=1)
        for hook in hooks:
            hook.remove()

    def _see(self, name: str, layer: Any, *_: Any) -> None:
        self.weights.setdefault(name, layer.weight.detach().cpu().double())


def differences(bench: Bench, wanted: dict[str, Tensor], found: dict[str, Tensor]) -> dict[str, float]:
    """By how much weights differ, relative to what networks add to them."""
    shares = {}
    for name, weight in wanted.items():
        added = float((weight - bench.base[name].double()).norm())
        difference = float((weight - found[name]).norm())
        shares[name] = difference / added if added else (1.0 if difference else 0.0)
    return {name: share for name, share in shares.items() if share}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", MAKERS)
def test_a_type_is_baked(bench: Bench, kind: str, form: str):
    (bench.webui.lora_folder / f"t_{kind}.safetensors").unlink(missing_ok=True)
    write(bench, kind)
    tag = f"<lora:t_{kind}{FORMS[form]}>"
    wanted = FirstWeights(bench, f"a red cat {tag}", True)
    begun = bake(bench, bench.webui.lora_folder / "t_baked.safetensors", tag, dtype="fp32")
    print(begun.messages, {part.form.value for part in begun.baking.recipe.parts})
    found = FirstWeights(bench, "a red cat <lora:t_baked:1>", False)
    print(found.result.comments)
    shares = differences(bench, wanted.weights, found.weights)
    print(sorted(shares.items(), key=lambda item: -item[1])[:3])
    assert max(shares.values(), default=0) < 1e-5
