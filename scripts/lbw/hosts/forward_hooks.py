"""When layers are at work: the host sends parts of a model to the GPU just before, and calls nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from weakref import WeakKeyDictionary

from torch import nn
from torch.utils.hooks import RemovableHandle

Call = Callable[[], None]
Place = tuple[str, nn.Module]
"""The path of a block in a model, and the block."""


class ForwardHooks:
    """Calls back before the forward of the blocks that layers are in, and behind the host's own hooks there."""

    def __init__(self) -> None:
        self._places: WeakKeyDictionary[nn.Module, Mapping[nn.Module, Place]] = WeakKeyDictionary()
        self._handles: dict[tuple[nn.Module, Call], RemovableHandle] = {}

    def set(self, model: nn.Module, calls: Mapping[nn.Module, Call]) -> None:
        """Have the call of each layer called before each forward of the layer's block, and nothing else any more."""
        places = self._places_of(model, calls) if calls else {}
        wanted = {(places[layer][1] if layer in places else layer, call) for layer, call in calls.items()}
        for gone in self._handles.keys() - wanted:
            self._handles.pop(gone).remove()
        for block, call in wanted - self._handles.keys():
            self._handles[block, call] = block.register_forward_pre_hook(
                lambda _module, _inputs, call=call: call()
            )

    def clear(self) -> None:
        """Have nothing called any more."""
        while self._handles:
            self._handles.popitem()[1].remove()

    def _places_of(self, model: nn.Module, layers: Iterable[nn.Module]) -> Mapping[nn.Module, Place]:
        """{layer: the place of its block}, of at least these layers, as far as they are in the model. Since it was
        asked for, the host may have put other blocks in their places."""
        known = self._places.get(model, {})
        used = {known.get(layer) for layer in layers}
        if not all(place is not None and _is_there(model, place) for place in used):
            known = self._places[model] = dict(_blocks(model))
        return known


def _is_there(model: nn.Module, place: Place) -> bool:
    path, block = place
    try:
        return model.get_submodule(path) is block
    except AttributeError:
        return False


def _blocks(module: nn.Module, path: str = "") -> Iterator[tuple[nn.Module, Place]]:
    """(layer, place of its block). A block is an element of an outermost list of modules: the host calls each one, and
    sends none but whole ones to the GPU."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList | nn.Sequential):
            for number, block in child.named_children():
                yield from ((layer, (f"{path}{name}.{number}", block)) for layer in block.modules())
        else:
            yield child, (f"{path}{name}", child)
            yield from _blocks(child, f"{path}{name}.")
