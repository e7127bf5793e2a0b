"""The Forge family: its models, the networks that it loads for us, and the solver's steps."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

import networks as host_networks
from lbw.engine.strengths import UnmeasurableError
from lbw.hosts import file_lists, solver_steps, under_way
from lbw.hosts.adapter import UnservedHostError
from lbw.hosts.forge.forward_patches import Entries, ForwardPatches, can_patch
from lbw.hosts.forge.ledger import OwnPages
from lbw.hosts.forge.networks import Loading, Network, entries_of, layer_name
from lbw.hosts.forge.parts import PatchParts
from lbw.hosts.forge.renaming import Renaming
from lbw.hosts.forward_hooks import Call, ForwardHooks
from lbw.hosts.model_moves import Departures
from lbw.hosts.settings import FOREIGN_NAMES, setting
from modules import sd_models, shared


def _module(*names: str) -> Any:
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    return None


_host_lora = _module("backend.patcher.lora", "ldm_patched.modules.lora")
_host_args = _module("backend.args")
_host_memory = _module("backend.memory_management", "ldm_patched.modules.model_management")


def merge(entries: Sequence[Any], weight: Tensor) -> Tensor:
    """The host's own merge. The result has the weight's type, and some hosts compute in it. Some change the weight."""
    if hasattr(_host_lora, "merge_lora_to_weight"):
        return _host_lora.merge_lora_to_weight(entries, weight, computation_dtype=weight.dtype)
    if hasattr(_host_lora, "calculate_weight"):
        return _host_lora.calculate_weight(entries, weight, "")
    unet = shared.sd_model.forge_objects_original.unet
    return unet.calculate_weight(entries, weight, "")


def _is_over() -> bool:
    under_way.end_failed()
    return not under_way.sessions()


class Forge:
    """The :class:`lbw.hosts.adapter.Adapter` protocol."""

    def __init__(self) -> None:
        if _host_lora is None:
            raise UnservedHostError("this WebUI merges LoRAs in a way that is not known")
        self.ledger, self.parts = OwnPages(), PatchParts(merge, can_patch)
        renaming = Renaming(self.layers, lambda: setting(FOREIGN_NAMES))
        self._loading = Loading(
            host_networks, self._forget_what_is_loaded, self._gives_networks_by_itself, renaming, _is_over
        )
        self._forward_patches = ForwardPatches(merge)
        self._unet_hooks, self._clip_hooks, self._departures = ForwardHooks(), ForwardHooks(), Departures(_host_memory)
        self._layers: WeakKeyDictionary[nn.Module, Mapping[str, nn.Module]] = WeakKeyDictionary()

    def _parts_of_model(self) -> list[nn.Module]:
        """The U-Net, and the text encoders."""
        objects = getattr(sd_models.model_data.sd_model, "forge_objects_original", None)
        return [] if objects is None else [objects.unet.model, objects.clip.cond_stage_model]

    def model(self) -> Any:
        return shared.sd_model

    def is_sdxl(self) -> bool:
        return bool(getattr(shared.sd_model, "is_sdxl", False))

    def layers(self) -> Mapping[str, nn.Module]:
        return {name: layer for each in self._parts_of_model() for name, layer in self._layers_of(each).items()}

    def _layers_of(self, part: nn.Module) -> Mapping[str, nn.Module]:
        if part not in self._layers:
            self._layers[part] = {
                layer_name(f"{path}.weight"): layer
                for path, layer in part.named_modules()
                if isinstance(getattr(layer, "weight", None), Tensor) and not isinstance(layer, nn.Embedding)
            }
        return self._layers[part]

    def networks(self) -> Sequence[Any]:
        return self._loading.networks

    def file_of(self, network: Network) -> str | None:
        return network.filename

    def load_again(self, networks: Sequence[Any]) -> None:
        """The host has them activated once more with each model that it loads."""

    def moves_parts(self) -> bool:
        return True

    def prepares_late(self) -> bool:
        return True

    def before_departure(self, call: Call | None) -> None:
        parts = [] if call is None else self._parts_of_model()
        parts += [each for part in parts if (each := getattr(part, "diffusion_model", None)) is not None]
        self._departures.watch(parts, call or (lambda: None))

    def before_forward(self, calls: Mapping[nn.Module, Call]) -> None:
        if not calls:  # whether there is still a model or not
            self._unet_hooks.clear()
            self._clip_hooks.clear()
            return
        for hooks, part in zip((self._unet_hooks, self._clip_hooks), self._parts_of_model(), strict=False):
            hooks.set(part, {layer: calls[layer] for layer in self._layers_of(part).values() if layer in calls})

    def add_in_forward(self, wanted: Mapping[str, tuple[nn.Module, Sequence[float]]]) -> set[str]:
        networks = list({id(net): net for net in self.networks()}.values())
        served = {name: layer for name, (layer, _coefficients) in wanted.items() if can_patch(layer)}
        self._forward_patches.set({
            layer: self._entries(name, zip(networks, wanted[name][1], strict=True)) for name, layer in served.items()
        })  # fmt: skip
        return {*served}

    def _entries(self, layer_name: str, networks: Iterable[tuple[Network, float]]) -> Entries:
        """The host's form of what networks have for a layer, each with its coefficient."""
        found: Entries = {}
        for net, coefficient in networks:
            part = net.patches.get(layer_name, {})
            if not coefficient or self.parts.fault(net, part) is not None:
                continue
            for parameter, patches in part.items():
                found.setdefault(parameter, []).extend(entries_of(patches, coefficient))
        return found

    def wanted_names(self) -> tuple[Any, ...]:
        return tuple((net.name, net.te_multiplier, net.unet_multiplier, None) for net in self.networks())

    def is_loaded(self) -> bool:
        """Some of these hosts load one when they are asked for it."""
        return hasattr(sd_models.model_data.sd_model, "forge_objects_original")

    def watch_forwards(self, call: Call | None) -> None:
        """The host looks at multipliers when it loads networks, and never again."""

    def left_out_by(self) -> str | None:
        return None

    def patches_in_forward(self) -> bool:
        return False

    def begin_generation(self) -> None:
        self._loading.begin()

    def end_batch(self) -> None:
        self._loading.pause()

    def end_generation(self) -> None:
        self._loading.end()

    def _gives_networks_by_itself(self) -> bool:
        """There are models whose quantised layers take a list of LoRAs, and have no weights to patch."""
        kind = getattr(_host_args, "dynamic_args", {})
        return bool(kind.get("nunchaku")) or str(kind.get("ops", "")).lower().endswith("int8")

    def _forget_what_is_loaded(self) -> None:
        """The host compares what it has with what is asked for: have it look again."""
        if self.is_loaded():
            shared.sd_model.current_lora_hash = None
            objects = shared.sd_model.forge_objects_original
            for patcher in (objects.unet, objects.clip.patcher):
                if hasattr(patcher, "patch_status"):  # LoRAs may be left merged: have it take them out before it merges
                    patcher.patch_status.l_cache = None
        if hasattr(shared, "cached_lora_hash"):
            shared.cached_lora_hash = []  # a list for the host, which clears it when it loads a model

    def watch_sampling(self, p: Any, around: Callable[[Any, Callable[..., Any]], Callable[..., Any]]) -> None:
        """The host has a hook for it."""

    def unwatch_sampling(self, p: Any) -> None:
        """There is nothing to take back."""

    def denoiser_of(self, params: Any) -> Any:
        return params.denoiser

    def solver_step(self, denoiser: Any, sampling_step: int) -> int:
        return solver_steps.of(denoiser, sampling_step)

    def counts_timesteps(self, denoiser: Any) -> bool:
        return False

    def network_names(self, *, renewed: bool) -> list[str]:
        return file_lists.names(host_networks, renewed=renewed)

    def network_file(self, name: str) -> Any:
        return file_lists.require(file_lists.find(host_networks, name), name)

    def listed_file(self, name: str) -> Any:
        return file_lists.known(host_networks, name)

    def read_network(self, file: Any) -> Network:
        return self._read_network(file, None)

    def has_patched(self) -> bool:
        if not getattr(shared, "cached_lora_hash", True):  # Forge Classic has left them behind, and does not use them
            return False
        objects = getattr(shared.sd_model, "forge_objects_after_applying_lora", None)
        patchers = [] if objects is None else [objects.unet, objects.clip.patcher]
        return any(getattr(each, "lora_patches", None) or getattr(each, "patches", None) for each in patchers)

    def network_of(self, file: Any, tensors: Mapping[str, Tensor]) -> Network:
        return self._read_network(file, tensors)

    def _read_network(self, file: Any, tensors: Mapping[str, Tensor] | None) -> Network:
        objects = shared.sd_model.forge_objects_original
        if self._gives_networks_by_itself():
            raise UnmeasurableError(f"{file.name}: this model gets LoRAs from the host alone, as a whole")
        try:
            tensors = self._loading.tensors(file.filename) if tensors is None else tensors
            return self._loading.read(objects.unet, objects.clip, dict(tensors), file.filename)
        except Exception as error:  # whatever is wrong with a file of whatever type; the message may have its path
            raise UnmeasurableError(f"{file.name}: the file cannot be read ({type(error).__name__})") from error

    def not_found(self, wanted: Iterable[str]) -> list[str]:
        return file_lists.missing(host_networks, wanted, {net.name for net in self.networks()})

    def not_loaded(self, wanted: Iterable[str]) -> Mapping[str, str]:
        loaded = {net.name: net for net in self.networks()}
        reasons = {}
        for name in wanted:
            if name not in loaded and name in self._loading.asked:
                lacks_file = file_lists.find(host_networks, name) is None
                reason = "there is no such file" if lacks_file else "the host cannot load its file"
                reasons[name] = f"{reason}; it is left out"
            elif name in loaded and loaded[name].fault is not None:
                what = "blocks and steps do not count" if loaded[name].is_hosts else "it is left out"
                reasons[name] = f"{loaded[name].fault}; {what}"
        return reasons
