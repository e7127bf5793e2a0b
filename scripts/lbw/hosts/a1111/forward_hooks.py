"""When layers are at work: the host sends parts of a model to the GPU just before, and calls nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from torch.utils.hooks import RemovableHandle

Call = Callable[[], None]


class ForwardHooks:
    """Calls back before the forward of the blocks that layers are in, and behind the host's own hooks there."""

    def __init__(self) -> None:
        self._blocks: WeakKeyDictionary[nn.Module, Mapping[nn.Module, str]] = WeakKeyDictionary()
        self._handles: dict[tuple[nn.Module, Call], RemovableHandle] = {}

    def set(self, model: nn.Module, calls: Mapping[nn.Module, Call]) -> None:
        """Have the call of each layer called before each forward of the layer's block, and nothing else any more."""
        wanted = {(block, calls[layer]) for layer, block in self._blocks_of(model, calls)}
        for gone in self._handles.keys() - wanted:
            self._handles.pop(gone).remove()
        for block, call in wanted - self._handles.keys():
            self._handles[block, call] = block.register_forward_pre_hook(_Hook(call))

    def _blocks_of(self, model: nn.Module, layers: Iterable[nn.Module]) -> Iterator[tuple[nn.Module, nn.Module]]:
        """(layer, the block that it is in). Since blocks were found, the host may have put others in their places."""
        layers = list(layers)
        if layers and (model not in self._blocks or not self._are_there(model, layers)):
            self._blocks[model] = dict(_blocks(model))
        for layer in layers:
            path = self._blocks[model].get(layer)
            yield layer, layer if path is None else model.get_submodule(path)

    def _are_there(self, model: nn.Module, layers: Sequence[nn.Module]) -> bool:
        """Whether a look at the first layer of each block finds it there."""
        firsts = {self._blocks[model].get(layer): layer for layer in reversed(layers)}
        try:
            return all(
                path is not None and any(each is layer for each in model.get_submodule(path).modules())
                for path, layer in firsts.items()
            )
        except AttributeError:
            return False


class _Hook:
    def __init__(self, call: Call) -> None:
        self._call = call

    def __call__(self, _module: nn.Module, _inputs: Any) -> None:
        self._call()


def _blocks(module: nn.Module, path: str = "") -> Iterator[tuple[nn.Module, str]]:
    """(layer, path of its block). A block is an element of an outermost list of modules: the host calls each one, and
    sends none but whole ones to the GPU."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList | nn.Sequential):
            for number, block in child.named_children():
                yield from ((layer, f"{path}{name}.{number}") for layer in block.modules())
        else:
            yield child, f"{path}{name}"
            yield from _blocks(child, f"{path}{name}.")
