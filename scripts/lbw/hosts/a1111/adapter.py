"""AUTOMATIC1111's WebUI: its model, its networks, and the solver's steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

import networks as host_networks
from lbw.hosts import file_lists, solver_steps
from lbw.hosts.a1111 import announcement, network_files
from lbw.hosts.a1111.forward_watch import ForwardWatch
from lbw.hosts.a1111.ledger import LayerAttributes
from lbw.hosts.a1111.own_parts import Loading, OwnParts
from lbw.hosts.a1111.parts import ModuleParts, slots_of
from lbw.hosts.forward_hooks import Call, ForwardHooks
from lbw.hosts.model_moves import Departures
from lbw.hosts.settings import FOREIGN_NAMES, setting
from modules import sd_models, shared
from modules.sd_samplers_timesteps import CFGDenoiserTimesteps

_PATCHED_CLASSES = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.MultiheadAttention)


class A1111:
    """The :class:`lbw.hosts.adapter.Adapter` protocol."""

    def __init__(self) -> None:
        own = OwnParts(self.model, self.layers, slots_of, lambda: setting(FOREIGN_NAMES))
        self.ledger, self.parts = LayerAttributes(), ModuleParts(own.of)
        self._loading = Loading(host_networks, own)
        self._hooks, self._departures = ForwardHooks(), Departures()
        self._forward_watch = ForwardWatch(self.wanted_names)

    def model(self) -> Any:
        return shared.sd_model

    def is_sdxl(self) -> bool:
        return bool(getattr(shared.sd_model, "is_sdxl", False))

    def layers(self) -> Mapping[str, nn.Module]:
        mapping: Mapping[str, nn.Module] = getattr(shared.sd_model, "network_layer_mapping", {})
        inside_attention = {
            id(layer.out_proj) for layer in mapping.values() if isinstance(layer, nn.MultiheadAttention)
        }
        return {
            name: layer
            for name, layer in mapping.items()
            if isinstance(layer, _PATCHED_CLASSES) and id(layer) not in inside_attention and _has_weight(layer)
        }

    def networks(self) -> Sequence[Any]:
        networks: Sequence[Any] = host_networks.loaded_networks
        return networks

    def file_of(self, network: Any) -> str | None:
        path = getattr(getattr(network, "network_on_disk", None), "filename", None)
        return path if isinstance(path, str) else None

    def load_again(self, networks: Sequence[Any]) -> None:
        """By the host's own function, which reads no file of those that are in its list."""
        host_networks.loaded_networks[:] = networks
        host_networks.load_networks(
            [net.name for net in networks],
            [net.te_multiplier for net in networks],
            [net.unet_multiplier for net in networks],
            [net.dyn_dim for net in networks],
        )

    def moves_parts(self) -> bool:
        return bool(getattr(shared.sd_model, "lowvram", False))

    def prepares_late(self) -> bool:
        return False

    def before_departure(self, call: Call | None) -> None:
        model = shared.sd_model
        # With --lowvram blocks come and go in each evaluation.
        parts = [] if call is None or shared.cmd_opts.lowvram else [model, model.model]
        self._departures.watch(parts, call or (lambda: None))

    def before_forward(self, calls: Mapping[nn.Module, Call]) -> None:
        self._hooks.set(shared.sd_model, calls)

    def add_in_forward(self, wanted: Mapping[str, tuple[nn.Module, Sequence[float]]]) -> set[str]:
        """The host brings weights to the GPU before it works with them, all of which can be written."""
        return set()

    def wanted_names(self) -> tuple[Any, ...]:
        return tuple((net.name, net.te_multiplier, net.unet_multiplier, net.dyn_dim) for net in self.networks())

    def begin_generation(self) -> None:
        self._loading.begin()

    def end_batch(self) -> None:
        self._loading.end()

    def end_generation(self) -> None:
        self._loading.end()

    def watch_forwards(self, call: Call | None) -> None:
        if call is None:
            self._forward_watch.end()
        else:
            self._forward_watch.begin(call)

    def left_out_by(self) -> str | None:
        return self._forward_watch.left_out_by()

    def patches_in_forward(self) -> bool:
        return bool(shared.opts.lora_functional)

    def counts_timesteps(self, denoiser: Any) -> bool:
        return isinstance(denoiser, CFGDenoiserTimesteps)

    def is_loaded(self) -> bool:
        return sd_models.model_data.sd_model is not None

    def watch_sampling(self, p: Any, around: Callable[[Any, announcement.Run], announcement.Run]) -> None:
        if announcement.is_needed():
            announcement.watch(p, around)

    def unwatch_sampling(self, p: Any) -> None:
        announcement.unwatch(p)

    def denoiser_of(self, params: Any) -> Any:
        return announcement.denoiser_of(params)

    def solver_step(self, denoiser: Any, sampling_step: int) -> int:
        return solver_steps.of(denoiser, sampling_step)

    def network_names(self, *, renewed: bool) -> list[str]:
        return file_lists.names(host_networks, renewed=renewed)

    def network_file(self, name: str) -> Any:
        return network_files.find(name)

    def listed_file(self, name: str) -> Any:
        return file_lists.known(host_networks, name)

    def read_network(self, file: Any) -> Any:
        return network_files.read(file, self._loading.load)

    def has_patched(self) -> bool:
        """The ledger is the host's own."""
        return False

    def network_of(self, file: Any, tensors: Mapping[str, Tensor]) -> Any:
        return network_files.read(file, partial(self._loading.load_of, tensors))

    def not_found(self, wanted: Iterable[str]) -> list[str]:
        return file_lists.missing(host_networks, wanted, {net.name for net in self.networks()})

    def not_loaded(self, wanted: Iterable[str]) -> Mapping[str, str]:
        """Of a name without a file the host tells its user by itself, of a file that it cannot load not."""
        loaded = {net.name for net in self.networks()}
        lost = [name for name in wanted if name not in loaded and file_lists.known(host_networks, name) is not None]
        return dict.fromkeys(lost, "the host cannot load its file, see the console; it is left out")


def _has_weight(layer: nn.Module) -> bool:
    return getattr(layer, "in_proj_weight" if isinstance(layer, nn.MultiheadAttention) else "weight", None) is not None
