"""Parts of network files that AUTOMATIC1111 leaves out because of their names, as modules of its own classes.

They are kept beside the host's network, not in it: the host knows as much of a file as ever. So it cannot bring layers
to such networks by itself, which is why the engine never leaves these to it.
"""

from __future__ import annotations

import copy
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from safetensors import safe_open
from torch import Tensor

import network as host_network
import networks as host_networks
from lbw.engine.parameters import Layer, Slot
from lbw.files import foreign_names, origin
from lbw.files.layer_names import ModelLayers
from lbw.files.tensor_names import MAGNITUDE
from lbw.hosts.a1111.parts import OwnPart
from lbw.hosts.file_lists import is_safe, metadata_of
from lbw.tags.families import family_of_layers
from modules import sd_models

logger = logging.getLogger("lbw")

_BIAS = re.compile(r"\.lora_B(?:\.[^.]+)?\.bias$")
"""PEFT's, of what a LoRA adds."""

_BUNDLED = "bundle_emb."
"""What begins the names of embeddings that a file brings along."""


class OwnParts:
    """Finds them, once for each network and model.

    Args:
        model: tells the model that is in use; only its identity counts.
        layers: tells its layers by name.
        slots: tells the slots of a layer.
        is_wanted: whether the user wants such files to be read.
    """

    def __init__(
        self,
        model: Callable[[], Any],
        layers: Callable[[], Mapping[str, Layer]],
        slots: Callable[[Layer], Sequence[Slot]],
        is_wanted: Callable[[], bool],
    ) -> None:
        self._model, self._layers, self._slots, self.is_wanted = model, layers, slots, is_wanted
        self._known: WeakKeyDictionary[Any, WeakKeyDictionary[Any, dict[str, OwnPart]]] = WeakKeyDictionary()
        self._names: WeakKeyDictionary[Any, ModelLayers] = WeakKeyDictionary()

    def of(self, network: Any) -> Mapping[str, OwnPart]:
        """{the host's key of a layer: the part that a network has for it, in names that the host does not know}."""
        if not self.is_wanted():
            return {}
        model = self._model()
        known = self._known.setdefault(network, WeakKeyDictionary())
        if model not in known:
            known[model] = self._read(network)
        return known[model]

    def _read(self, network: Any) -> dict[str, OwnPart]:
        path = network.network_on_disk.filename
        if not is_safe(path) or self.is_for_another_model(path):
            return {}
        try:
            with safe_open(path, "pt") as file:
                stored = file.keys()
                unread = [name for name in stored if _BIAS.search(name)]
                if unread:
                    logger.warning("LoRA Block Weight: %s: biases such as %s are not read", path, unread[0])
                wanted = self._unknown_to_host(network, stored)
                return self._made(network, file.get_tensor, file.metadata() or {}, wanted)
        except Exception as error:  # whatever is wrong with a file that the host has read, or that is gone
            logger.warning("LoRA Block Weight: %s: its names cannot be read: %s", path, error)
            return {}

    def is_for_another_model(self, path: str) -> bool:
        """Whether a file is known to be for a model of another family: several have one and the same text encoder."""
        found = origin.of_file(path)
        return found is not None and found.is_for_another(family_of_layers(self._layers()))

    def has_names(self, path: str) -> bool:
        """Whether a file has parts for the model in use, in whatever names."""
        with safe_open(path, "pt") as file:
            return bool(foreign_names.parts(file.keys(), self.names()))

    def can_tell_of(self, path: str) -> bool:
        """Whether more is known of a file than that the host refuses it."""
        return self.is_for_another_model(path) or self.has_names(path)

    def names(self) -> ModelLayers:
        """What files call the layers of the model in use."""
        model = self._model()
        if model not in self._names:
            self._names[model] = ModelLayers(self._by_key())
        return self._names[model]

    def _by_key(self) -> dict[str, Layer]:
        """{what the host calls a part: the layer that it is for}."""
        return {name + slot.suffix: layer for name, layer in self._layers().items() for slot in self._slots(layer)}

    def put(self, network: Any, tensors: Mapping[str, Tensor]) -> None:
        """Have a network that was made of some tensors have its parts of these, and not of its file."""
        path = network.network_on_disk.filename
        is_read = self.is_wanted() and not self.is_for_another_model(path)
        wanted = self._unknown_to_host(network, tensors) if is_read else {}
        made = self._made(network, tensors.__getitem__, metadata_of(path), wanted) if wanted else {}
        self._known[network] = WeakKeyDictionary({self._model(): made})

    def _unknown_to_host(self, network: Any, stored: Iterable[str]) -> dict[str, dict[str, str]]:
        """What the host leaves out of a network: a part, or the magnitude of one that it knows."""
        found = foreign_names.parts(stored, self.names())
        return {key: names for key, names in found.items() if key not in network.modules or MAGNITUDE in names}

    def _made(
        self,
        network: Any,
        tensor: Callable[[str], Tensor],
        metadata: Mapping[str, str],
        wanted: Mapping[str, Mapping[str, str]],
    ) -> dict[str, OwnPart]:
        if not wanted:
            return {}
        stand_alone = copy.copy(network)  # the network itself would be kept alive by its own parts
        stand_alone.modules = {}
        layers, found = self._by_key(), {}
        for key, names in wanted.items():
            tensors = {kind: tensor(name) for kind, name in names.items()}
            down = tensors.get("lora_down.weight")
            if down is not None and not {"alpha", "scale"} & tensors.keys():
                scale = foreign_names.scale(metadata, names["lora_down.weight"], len(down))
                if scale is not None:
                    tensors["scale"] = torch.tensor(scale, dtype=torch.float64)
            found[key] = _part(stand_alone, next(iter(names.values())), key, tensors, layers[key])
        return found


def _part(network: Any, name: str, key: str, tensors: dict[str, Tensor], layer: Layer) -> OwnPart:
    magnitude, lengths = tensors.pop(MAGNITUDE, None), tensors.pop("dora_scale", None)
    if magnitude is not None:
        lengths = magnitude.flatten()
    weights = host_network.NetworkWeights(name, key, tensors, layer)
    try:
        made = (kind.create_module(network, weights) for kind in host_networks.module_types)
        module = next((module for module in made if module is not None), None)
    except Exception as error:  # tensors that do not fit each other, or the layer
        return OwnPart(None, fault=str(error).partition("\n")[0])
    if module is None:
        return OwnPart(None, fault=f"its tensors {', '.join(sorted(tensors))} are of no type that the host knows")
    return OwnPart(module, lengths)


class Loading:
    """Stands in for the host's ``load_network`` during our generations: there are names for which the host refuses a
    whole file, because it takes a part of them for the name of a layer.

    Args:
        module: the host's module with this function.
        parts: the parts that such files have.
    """

    def __init__(self, module: Any, parts: OwnParts) -> None:
        self._module, self._parts = module, parts
        self._original: Callable[[str, Any], Any] | None = None
        self._refused: WeakValueDictionary[tuple[str, str, float], Any] = WeakValueDictionary()

    def begin(self) -> None:
        """A generation of ours begins."""
        if self._original is None:
            self._original = self._module.load_network
            self._module.load_network = self.load

    def end(self) -> None:
        """What is loaded from now on is not for us."""
        if self._original is not None and self._module.load_network == self.load:
            self._module.load_network = self._original
            self._original = None

    def load(self, name: str, file: Any) -> Any:
        """The host's network of a file, or, if it refuses the file, one that has only what the file bundles: the rest
        is our own. The host would look into such a file anew each time, and refuse it once we are off."""
        load = self._original or self._module.load_network
        key = (name, file.filename, os.path.getmtime(file.filename))
        if key in self._refused:
            return self._refused[key]
        try:
            return load(name, file)
        except Exception:
            if not (self._parts.is_wanted() and is_safe(file.filename) and self._parts.can_tell_of(file.filename)):
                raise
        with _reading_only(_BUNDLED):
            network = load(name, file)
        network.mtime = 0.0
        self._refused[key] = network
        return network


    def load_of(self, tensors: Mapping[str, Tensor], name: str, file: Any) -> Any:
        """The host's network of a file that has these tensors, with the parts of our own."""
        load = self._original or self._module.load_network
        try:
            with _instead_of(file.filename, tensors), _without_initial_values():
                network = load(name, file)
        except Exception:
            if not self._parts.is_wanted():
                raise
            with _instead_of(file.filename, {}):
                network = load(name, file)
        self._parts.put(network, tensors)
        return network


@contextmanager
def _instead_of(path: str, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """While the block runs, the host finds these tensors in a file, which it does not read."""
    read = sd_models.read_state_dict
    sd_models.read_state_dict = lambda filename, *args, **kwargs: (
        dict(tensors) if filename == path else read(filename, *args, **kwargs)
    )
    try:
        yield
    finally:
        sd_models.read_state_dict = read


def _without_initial_values() -> AbstractContextManager[Any]:
    """While the block runs, layers that are made get no random values, by the host's own means. Those of a LoRA get the
    file's, and drawing others before takes longer than all else."""
    try:
        from modules.sd_disable_initialization import DisableInitialization
    except ImportError:
        return nullcontext()
    return DisableInitialization(disable_clip=False)


@contextmanager
def _reading_only(start: str) -> Iterator[None]:
    """While the block runs, the host reads only the tensors of a file whose names begin with ``start``."""
    read = sd_models.read_state_dict
    sd_models.read_state_dict = lambda *args, **kwargs: {
        name: value for name, value in read(*args, **kwargs).items() if name.startswith(start)
    }
    try:
        yield
    finally:
        sd_models.read_state_dict = read
