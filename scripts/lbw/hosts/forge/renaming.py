"""Files in names that a host of this family passes over, in kohya's, which each of them knows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

import torch
from torch import Tensor

from lbw.files import foreign_names, origin
from lbw.files.kohya_names import with_path_of_host
from lbw.files.layer_names import ModelLayers
from lbw.files.tensor_names import MAGNITUDE
from lbw.hosts.file_lists import metadata_of
from lbw.tags.families import family_of_layers


class Renaming:
    """Renames what a file has for the model in use, where the host has found less.

    Args:
        layers: tells the names of the model's layers.
        is_wanted: whether the user wants such files to be read.
    """

    def __init__(self, layers: Callable[[], Iterable[str]], is_wanted: Callable[[], bool]) -> None:
        self._layers, self._is_wanted = layers, is_wanted
        self._known: tuple[frozenset[str], ModelLayers] = (frozenset(), ModelLayers(()))

    def __call__(self, tensors: Mapping[str, Tensor], read: Collection[str], filename: str) -> dict[str, Tensor] | None:
        """The tensors of a file in kohya's names; None if the host has ``read`` a part for each layer already, as
        a whole. PEFT's lengths of DoRA become those that hosts know, and count by their formula.
        """
        made_for = origin.of_file(filename)
        if not self._is_wanted() or (made_for and made_for.is_for_another(family_of_layers(self._layers()))):
            return None
        layers = self._names()
        found = foreign_names.parts(tensors, layers)
        if found.keys() <= {*read} and not any(MAGNITUDE in names for names in found.values()):
            return None
        # A model of PEFT brings its own weights along, for which hosts refuse a file.
        renamed = {name: value for name, value in tensors.items() if ".base_layer." not in name}
        metadata = metadata_of(filename)
        for key, names in found.items():
            layer = with_path_of_host(key, layers)
            part = {kind: renamed.pop(name) for kind, name in names.items()}
            if MAGNITUDE in part:
                lengths = part.pop(MAGNITUDE).flatten()
                up = part.get("lora_up.weight", lengths)
                part["dora_scale"] = lengths.reshape(-1, *[1] * (max(up.dim(), 2) - 1))
            down = part.get("lora_down.weight")
            if down is not None and not {"alpha", "scale"} & part.keys():
                scale = foreign_names.scale(metadata, names["lora_down.weight"], len(down))
                if scale is not None:
                    part["alpha"] = torch.tensor(scale * len(down), dtype=torch.float64)
            renamed |= {f"{layer}.{kind}": value for kind, value in part.items()}
        return renamed

    def _names(self) -> ModelLayers:
        layers = frozenset(self._layers())
        if layers != self._known[0]:
            self._known = layers, ModelLayers(layers)
        return self._known[1]
