"""When layers are at work: the host sends parts of a model to the GPU just before, and calls nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from weakref import WeakKeyDictionary

from torch import nn
from torch.utils.hooks import RemovableHandle

Call = Callable[[], None]


class ForwardHooks:
    """Calls back before the forward of the blocks that layers are in, and behind the host's own hooks there."""

    def __init__(self) -> None:
        self._blocks: WeakKeyDictionary[nn.Module, Mapping[nn.Module, nn.Module]] = WeakKeyDictionary()
        self._handles: dict[Call, dict[nn.Module, RemovableHandle]] = {}

    def set(self, model: nn.Module, layers: Sequence[nn.Module], call: Call) -> None:
        """Have ``call`` called before each forward of the blocks of ``layers``, and of no others any more."""
        known = self._handles.pop(call, {})
        blocks = self._blocks_of(model) if layers else {}
        wanted = dict.fromkeys(blocks.get(layer, layer) for layer in layers)
        for block in known.keys() - wanted.keys():
            known.pop(block).remove()
        for block in wanted.keys() - known.keys():
            known[block] = block.register_forward_pre_hook(lambda _module, _inputs: call())
        if known:
            self._handles[call] = known

    def _blocks_of(self, model: nn.Module) -> Mapping[nn.Module, nn.Module]:
        """{layer: the block that it is in}, for all layers of a model."""
        if model not in self._blocks:
            self._blocks[model] = dict(_blocks(model))
        return self._blocks[model]


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

