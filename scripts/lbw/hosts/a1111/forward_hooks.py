"""When layers are at work: the host sends parts of a model to the GPU just before, and calls nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from torch.utils.hooks import RemovableHandle

Call = Callable[[], None]


class ForwardHooks:
    """Calls back before the forward of the blocks that layers are in, and behind the host's own hooks there."""

    def __init__(self) -> None:
        self._blocks: WeakKeyDictionary[nn.Module, Mapping[nn.Module, nn.Module]] = WeakKeyDictionary()
        self._handles: dict[tuple[nn.Module, Call], RemovableHandle] = {}

    def set(self, model: nn.Module, calls: Mapping[nn.Module, Call]) -> None:
        """Have the call of each layer called before each forward of the layer's block, and nothing else any more."""
        blocks = self._blocks_of(model) if calls else {}
        wanted = {(blocks.get(layer, layer), call) for layer, call in calls.items()}
        for gone in self._handles.keys() - wanted:
            self._handles.pop(gone).remove()
        for block, call in wanted - self._handles.keys():
            self._handles[block, call] = block.register_forward_pre_hook(_Hook(call))

    def _blocks_of(self, model: nn.Module) -> Mapping[nn.Module, nn.Module]:
        """{layer: the block that it is in}, for all layers of a model."""
        if model not in self._blocks:
            self._blocks[model] = dict(_blocks(model))
        return self._blocks[model]


class _Hook:
    def __init__(self, call: Call) -> None:
        self._call = call

    def __call__(self, _module: nn.Module, _inputs: Any) -> None:
        self._call()


def _blocks(module: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """A block is an element of an outermost list of modules: the host calls each one, and sends none but whole ones to
    the GPU."""
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.Sequential):
            for block in child.children():
                yield from ((layer, block) for layer in block.modules())
        else:
            yield child, child
            yield from _blocks(child)

