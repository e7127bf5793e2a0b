"""LoRAs as these hosts load them: patches for parameters of a model, by the parameters' names."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from torch import Tensor

from lbw.hosts import file_lists
from lbw.hosts.file_lists import find

Patch = tuple[Any, Any, Any]
"""(values, offset, function) for one parameter: a tuple that begins with its type, or an adapter object; which rows or
columns of the parameter it is for; and what is done with the delta."""


Entry = tuple[float, Any, float, Any, Any]
"""A patch as hosts keep it: (strength, values, strength of the model, offset, function)."""

Merge = Callable[[Sequence[Entry], Tensor], Tensor]
"""(patches, a weight) -> the weight with the patches, in the weight's own type. It may be the very tensor."""


def entries_of(patches: Sequence[Patch], strength: float) -> list[Entry]:
    """Patches at a strength, as hosts keep them."""
    return [(strength, values, 1.0, offset, function) for values, offset, function in patches]


@dataclass(eq=False)
class Network:
    """One file, as it fits one model. ``patches`` are {our name of a layer: {its parameter's name: patches}}."""

    name: str
    te_multiplier: float = 1.0
    unet_multiplier: float = 1.0
    fault: str | None = None
    """Why there are no patches."""
    is_hosts: bool = False
    """Whether that is because the host applies it, as a whole."""
    patches: dict[str, dict[str, list[Patch]]] = field(default_factory=dict)
    filename: str | None = None


def layer_name(key: str) -> str:
    """Our name of the layer that a parameter belongs to: the host's without the parameter, with underscores."""
    return key.rpartition(".")[0].replace(".", "_")


def _added(new: Any, old: Any) -> dict[str, list[Patch]]:
    """{parameter: patches} that a patched model has, and the one that it was made of has not."""
    found: dict[str, list[Patch]] = {}

    def add(key: str, entries: Any) -> None:
        for _strength, values, _of_weight, *rest in entries:  # a host that patches whole weights only has no rest
            offset, function = rest[:2] if rest else (None, None)
            found.setdefault(key, []).append((values, offset, function))

    before = getattr(old, "lora_patches", {})
    for identifier, patches in getattr(new, "lora_patches", {}).items():
        if identifier not in before:
            for key, entries in patches.items():
                add(key, entries)
    for key, entries in getattr(new, "patches", {}).items():
        more = entries[len(getattr(old, "patches", {}).get(key, [])) :]
        if more:
            add(key, more)
    return found


def _is_for_another(model: Any, named: Mapping[str, Any]) -> bool:
    """Whether another extension has a network loaded so that layers add it in each forward, where it sets strengths by
    itself, as a regional prompter does. The host does so only with weights that it cannot merge networks into."""
    can_merge = getattr(model.model, "storage_dtype", None) in (torch.float32, torch.float16, torch.bfloat16)
    return bool(named.get("online_mode")) and can_merge


_DORA = ".dora_scale"


def with_columns(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """A file's tensors, with the lengths that DoRA has for output channels as columns. As [out], in which some trainers
    write them, hosts would take them for those of input channels where there are as many, and fail where not."""
    found, in_order = dict(tensors), sorted(tensors)
    for name, lengths in tensors.items():
        if name.endswith(_DORA) and lengths.dim() == 1:
            part = name.removesuffix(_DORA) + "."
            others = in_order[bisect_left(in_order, part) : bisect_left(in_order, part + "\U0010ffff")]
            found[name] = lengths.reshape(-1, *[1] * (max(2, *(tensors[other].dim() for other in others)) - 1))
    return found


class Loading:
    """Stands in for functions of the host during our generations: ``load_networks``, which it calls for the tags of a
    pass, and those that this calls for each file, ``load_lora_state_dict`` and ``load_lora_for_models``. The host
    reads, renames and refuses as ever, and gets its models back as they were.

    Args:
        module: the host's module with these functions.
        forget: has the host look again at what is asked for, which it compares with what it has loaded last.
        leaves: whether the model in use is one that the host gives networks in a way that no patch shows.
        rename: tells, of (the tensors of a file, the layers that the host has found parts for, the file's path), the
            tensors in names of which the host finds more; None for none.
        is_over: whether none of our generations is under way any more, of which nobody may have told.
    """

    def __init__(
        self,
        module: Any,
        forget: Callable[[], None],
        leaves: Callable[[], bool] = lambda: False,
        rename: Callable[[Any, Collection[str], str], Any] = lambda *_: None,
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        self._module, self._forget, self._leaves, self._rename = module, forget, leaves, rename
        self._is_over = is_over
        self._originals: dict[str, Callable[..., Any]] = {}
        self._own: dict[str, Callable[..., Any]] = {
            "load_networks": self._load_networks,
            "load_lora_state_dict": self._read_file,
            "load_lora_for_models": self._load,
        }
        self._known: WeakKeyDictionary[Any, WeakValueDictionary[tuple[str, int], Network]] = WeakKeyDictionary()
        self._versions: dict[str, int] = {}
        """{path: when the file that was read last had been written}"""
        self._faults: dict[str, str] = {}
        """{path: why the file could not be read}"""
        self.networks: list[Network] = []
        """What the host has loaded last, in its order."""
        self._is_asked = False
        """Whether the host's networks are loaded by us, and not by a function that somebody has put over ours."""
        self._place = -1
        """Of the last one in the host's list, if they are loaded by somebody else."""
        self.asked: frozenset[str] = frozenset()
        """The names that the host was asked to load last: not those of all tags, it leaves out some that do nothing."""

    def begin(self) -> None:
        """A generation of ours begins, or one of its batches. Where another extension has put a function of its own
        over ours, as a regional prompter does for good, ours may not be asked, and what was loaded last be unknown.
        Where it has put back the host's, ours takes its place again."""
        if "load_networks" in self._originals and self._module.load_networks != self._own["load_networks"]:
            self._forget()
            self._clear()
        for name, own in self._own.items():
            now = getattr(self._module, name)
            if now == self._originals.setdefault(name, now):
                setattr(self._module, name, own)

    def pause(self) -> None:
        """What the host loads until :meth:`begin` is no business of ours, nor does it know what was loaded for us."""
        if not self._originals:
            return
        for name, own in self._own.items():
            if name in self._originals and getattr(self._module, name) == own:
                setattr(self._module, name, self._originals.pop(name))
        self._forget()

    def end(self) -> None:
        """A generation of ours is over, or one of somebody else's begins inside it."""
        self.pause()
        self._clear()

    def _clear(self) -> None:
        self.networks, self.asked, self._place = [], frozenset(), -1

    def _original(self, name: str) -> Callable[..., Any]:
        found: Callable[..., Any] = self._originals.get(name) or getattr(self._module, name)
        return found

    def _load_networks(self, names: Sequence[str], *columns: Sequence[Any] | None, **named: Any) -> Any:
        """With a name that has no file, the host would load none of them."""
        if self._is_over():
            self.end()
            return self._original("load_networks")(names, *columns, **named)
        self._forget()
        earlier = self.networks  # so that those that are asked for again are still there
        self.networks, self.asked = [], frozenset(names)
        if any(find(self._module, name) is None for name in names):  # by their aliases the host finds what it has read
            file_lists.list_anew(self._module)
        known = [number for number, name in enumerate(names) if file_lists.known(self._module, name) is not None]

        def chosen(column: Any) -> Any:
            return [column[number] for number in known] if isinstance(column, list) else column

        load, named = self._original("load_networks"), {key: chosen(each) for key, each in named.items()}
        self._is_asked = True
        try:
            result = load(chosen(list(names)), *map(chosen, columns), **named)
        finally:
            self._is_asked = False
        del earlier
        return result

    def _read_file(self, filename: str) -> Any:
        """With a file that cannot be read, the host would load none of those behind it."""
        try:
            return self.tensors(filename)
        except Exception as error:  # whatever is wrong with a file of whatever type
            self._faults[filename] = f"its file cannot be read ({type(error).__name__})"
            return {}

    def tensors(self, filename: str) -> Any:
        """The tensors of a file, as it is now: the host does not look again at those that it has read."""
        read, version = self._original("load_lora_state_dict"), os.stat(filename).st_mtime_ns
        if self._versions.get(filename, version) != version and hasattr(read, "cache_clear"):
            read.cache_clear()
        self._versions[filename] = version
        self._faults.pop(filename, None)
        return read(filename)

    def _load(
        self, model: Any, clip: Any, lora: Any, unet_multiplier: float, te_multiplier: float,
        filename: str = "default", *args: Any, **kwargs: Any,
    ) -> tuple[Any, Any]:
        if not self._is_asked:
            self._come_to(filename)
        name = self._name_of(filename, len(self.networks))
        fault = "this model gets LoRAs from the host alone, as a whole" if self._leaves() else None
        if _is_for_another(model, kwargs):
            fault = "another extension has it added in each forward, as a whole"
        if fault is not None:
            self.networks.append(Network(name, fault=fault, is_hosts=True))
            original = self._original("load_lora_for_models")
            patched: tuple[Any, Any] = original(
                model, clip, lora, unet_multiplier, te_multiplier, filename, *args, **kwargs
            )
            return patched
        known = self._known.setdefault(model.model, WeakValueDictionary())
        version = (filename, self._versions.get(filename, 0))
        network = known.get(version)
        if network is None:
            try:
                network = self.read(model, clip, lora, filename, *args, **kwargs)
                if filename not in self._faults:  # the next pass may read it
                    known[version] = network
            except Exception as error:
                network = Network(name)
                self._faults.setdefault(filename, f"the host cannot load its file ({type(error).__name__})")
        if network.name != name:  # the prompt, or that of another pass, has two names for one file
            network = Network(name, patches=network.patches)
            if filename not in self._faults:
                known[version] = network
        network.filename = filename
        network.name, network.fault = name, self._faults.get(filename)
        network.unet_multiplier, network.te_multiplier = float(unet_multiplier), float(te_multiplier)
        self.networks.append(network)
        return model, clip

    def _come_to(self, filename: str) -> None:
        """A file is loaded, and somebody else's function does it. That these are other networks than before is seen
        from the host's list of them, in whose order they come."""
        listed = [net.network_on_disk.filename for net in self._module.loaded_networks]
        if filename not in listed:
            return
        behind = listed[self._place + 1 :]
        if filename not in behind or any(net.filename not in (None, *listed) for net in self.networks):
            self.networks, self._place, behind = [], -1, listed
        self._place += 1 + behind.index(filename)

    def read(self, model: Any, clip: Any, lora: Any, filename: str, *args: Any, **kwargs: Any) -> Network:
        """What the host makes of a file for a model, at strength 1."""
        network = self._read(model, clip, lora, filename, *args, **kwargs)
        renamed = self._rename(lora, network.patches, filename)
        if renamed is None:
            return network
        more = self._read(model, clip, renamed, filename, *args, **kwargs)
        return more if len(more.patches) >= len(network.patches) else network

    def _read(self, model: Any, clip: Any, lora: Any, filename: str, *args: Any, **kwargs: Any) -> Network:
        original, lora = self._original("load_lora_for_models"), with_columns(lora)
        new_model, new_clip = original(model, clip, lora, 1.0, 1.0, filename, *args, **kwargs)
        network = Network(self._name_of(filename))
        for new, old in ((new_model, model), (new_clip.patcher, clip.patcher)):
            for key, patches in _added(new, old).items():
                parameters = network.patches.setdefault(layer_name(key), {})
                parameters.setdefault(key.rpartition(".")[2], []).extend(patches)
        return network

    def _name_of(self, filename: str, place: int = 0) -> str:
        """The name that the prompt has for a file, the first one from this place on."""
        listed = list(self._module.loaded_networks)
        for net in [*listed[place:], *listed[:place]]:
            if net.network_on_disk.filename == filename:
                return str(net.name)
        files: Mapping[str, Any] = self._module.available_networks
        return next((name for name, file in files.items() if file.filename == filename), filename)
