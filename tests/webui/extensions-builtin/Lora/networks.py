"""Networks (LoRA and its kin): finding and loading them, and keeping layer weights in step with those that are active.

Nothing is changed when a prompt activates networks. Each layer compares, when it is next called, the networks in its
weights with those wanted, and if they differ restores its weights from a copy on the CPU and adds every network anew.
"""
from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gradio as gr
import network_full
import network_glora
import network_hada
import network_ia3
import network_lokr
import network_lora
import network_norm
import network_oft
import torch
from layer_names import convert_diffusers_name_to_compvis, find_layer  # noqa: F401  (part of this module's interface)
from torch import nn

import network
from modules import devices, errors, sd_hijack, sd_models, shared
from modules.lora.lists import (  # noqa: F401  (part of this module's interface)
    available_network_aliases,
    available_network_hash_lookup,
    available_networks,
    files_by_names,
    forbidden_network_aliases,
    list_available_networks,
    process_network_files,
)
from modules.lora.lists import process_network_files as update_available_networks_by_names  # noqa: F401
from modules.models.sd3.mmdit import QkvLinear
from modules.textual_inversion.textual_inversion import EmbeddingDatabase, create_embedding_from_data

if TYPE_CHECKING:
    import lora_patches
    from extra_networks_lora import ExtraNetworkLora

logger = logging.getLogger("lora")

module_types = [
    network_lora.ModuleTypeLora(),
    network_hada.ModuleTypeHada(),
    network_ia3.ModuleTypeIa3(),
    network_lokr.ModuleTypeLokr(),
    network_full.ModuleTypeFull(),
    network_norm.ModuleTypeNorm(),
    network_glora.ModuleTypeGLora(),
    network_oft.ModuleTypeOFT(),
]

originals: lora_patches.LoraPatches | None = None
extra_network_lora: ExtraNetworkLora | None = None
loaded_networks: list[network.Network] = []
networks_in_memory: dict[str, network.Network] = {}

layers_restored = 0
"""How often, since the start, a layer was brought from one set of networks to another by `network_apply_weights`.

Only this stand-in has the counter. It shows who did the work where an extension updates weights by itself.
"""


def assign_network_names_to_compvis_modules(sd_model: nn.Module) -> None:
    """Give every module of the U-Net and of the text encoders the name by which networks mean it."""
    if sd_model.is_sdxl:
        embedders = sd_model.conditioner.embedders
        roots = [(f"{i}_", embedder.wrapped) for i, embedder in enumerate(embedders) if hasattr(embedder, "wrapped")]
    else:
        roots = [("", getattr(sd_model.cond_stage_model, "wrapped", sd_model.cond_stage_model))]
    roots.append(("", sd_model.model))

    sd_model.network_layer_mapping = {}
    for prefix, root in roots:
        for name, module in root.named_modules():
            module.network_layer_name = prefix + name.replace(".", "_")
            sd_model.network_layer_mapping[module.network_layer_name] = module


def load_network(name: str, network_on_disk: network.NetworkOnDisk) -> network.Network:
    """Read a network file for the model in use. Tensors for layers that the model lacks are left out."""
    net = network.Network(name, network_on_disk)
    net.mtime = os.path.getmtime(network_on_disk.filename)
    layers = shared.sd_model.network_layer_mapping
    matched: dict[str, network.NetworkWeights] = {}
    bundled: dict[str, dict] = {}
    unmatched = []
    diffusers_names = dict(getattr(shared.sd_model, "diffusers_weight_mapping", tuple)())
    for key_network, weight in sd_models.read_state_dict(network_on_disk.filename).items():
        if diffusers_names:
            # As in the host, which cannot read a file with parts of one word, such as "alpha", for these models.
            layer_name, *parts = key_network.rsplit(".", 2)
            part = "{}.{}".format(*parts)
        else:
            layer_name, _, part = key_network.partition(".")
        if layer_name == "bundle_emb":
            word, _, parameter = part.partition(".")
            owner, _, rest = parameter.partition(".")
            known = bundled.setdefault(word, {})
            known.update({owner: {rest: weight}} if owner == "string_to_param" else {parameter: weight})
        key, layer = find_layer(diffusers_names.get(layer_name, layer_name), layers)
        if layer is None:
            unmatched.append(key_network)
            continue
        weights = matched.setdefault(key, network.NetworkWeights(key_network, key, {}, layer))
        weights.w[part] = weight

    for key, weights in matched.items():
        made = (module_type.create_module(net, weights) for module_type in module_types)
        module = next((x for x in made if x is not None), None)
        if module is None:
            raise AssertionError(f"{weights.network_key}: no known kind of network has {', '.join(weights.w)}")
        net.modules[key] = module
    net.bundle_embeddings = {
        word: create_embedding_from_data(data, word, f"{network_on_disk.filename}/{word}")
        for word, data in bundled.items()
    }
    logger.debug("%s: the model has no layers for %s", network_on_disk.filename, unmatched)
    return net


def purge_networks_from_memory() -> None:
    """Forget networks beyond the limit in the settings, oldest first. Those that are active stay with their list."""
    while len(networks_in_memory) > max(shared.opts.lora_in_memory_limit, 0):
        networks_in_memory.pop(next(iter(networks_in_memory)))
    devices.torch_gc()


def _get_network(
    name: str, file: network.NetworkOnDisk | None, active: dict[str, network.Network]
) -> network.Network | None:
    """A network that is active or in memory, unless its file is newer; else from the file.

    Raises:
        Exception: whatever went wrong in reading the file.
    """
    net = active.get(name)
    if file is None:
        return net
    net = net or networks_in_memory.get(name)
    if net is None or os.path.getmtime(file.filename) > net.mtime:
        net = load_network(name, file)
        networks_in_memory.pop(name, None)
        networks_in_memory[name] = net
    net.mentioned_name = name
    file.read_hash()
    return net


def load_networks(
    names: list[str],
    te_multipliers: list[float] | None = None,
    unet_multipliers: list[float] | None = None,
    dyn_dims: list[int | None] | None = None,
) -> None:
    """Make `loaded_networks` these networks, with these strengths. One that cannot be had is left out, with a note."""
    active = {net.name: net for net in loaded_networks if net.name in names}
    words = sd_hijack.model_hijack.embedding_db
    for word in [word for net in loaded_networks for word, bundled in net.bundle_embeddings.items() if bundled.loaded]:
        words.register_embedding_by_name(None, shared.sd_model, word)
    loaded_networks.clear()
    not_found = []
    for i, (name, file) in enumerate(zip(names, files_by_names(names), strict=True)):
        try:
            net = _get_network(name, file, active)
        except Exception as e:
            errors.display(e, f"loading network {file.filename}")
            continue
        if net is None:
            not_found.append(name)
            continue
        net.te_multiplier, net.unet_multiplier, net.dyn_dim = (
            given[i] if given else 1.0 for given in (te_multipliers, unet_multipliers, dyn_dims))
        loaded_networks.append(net)
        _register_bundled(net, words)
    if not_found:
        _report_not_found(not_found)
    purge_networks_from_memory()


def _register_bundled(net: network.Network, words: EmbeddingDatabase) -> None:
    """Put the words that a network brings along into use, but for those that are taken, or do not fit the model."""
    for word, embedding in net.bundle_embeddings.items():
        if embedding.loaded is None and word in words.word_embeddings:
            logger.warning("%s: the word %r is taken", net.name, word)
            continue
        embedding.loaded = words.expected_shape in (-1, embedding.shape)
        if embedding.loaded:
            words.register_embedding(embedding, shared.sd_model)
        else:
            words.skipped_embeddings[net.name] = embedding


def _report_not_found(names: list[str]) -> None:
    message = f"Lora not found: {', '.join(names)}"
    sd_hijack.model_hijack.comments.append(message)
    if shared.opts.lora_not_found_warning_console:
        print(f"\n{message}\n")
    if shared.opts.lora_not_found_gradio_warning:
        gr.Warning(message)


def allowed_layer_without_weight(layer: nn.Module) -> bool:
    return isinstance(layer, nn.LayerNorm) and not layer.elementwise_affine


def store_weights_backup(weight: torch.Tensor | None) -> torch.Tensor | None:
    return None if weight is None else weight.to(devices.cpu, copy=True)


def restore_weights_backup(obj: nn.Module, field: str, weight: torch.Tensor | None) -> None:
    if weight is None:
        setattr(obj, field, None)
    else:
        getattr(obj, field).copy_(weight)


def network_restore_weights_from_backup(self: nn.Module) -> None:
    """Put the weights of a layer back to what they were before any network; nothing where there is no backup."""
    weights, bias = (getattr(self, f"network_{part}_backup", None) for part in ("weights", "bias"))
    if weights is None and bias is None:
        return
    attention = isinstance(self, nn.MultiheadAttention)
    with_bias = self.out_proj if attention else self
    if weights is not None:
        owners = ((self, "in_proj_weight"), (self.out_proj, "weight")) if attention else ((self, "weight"),)
        for (owner, name), weight in zip(owners, weights if attention else (weights,), strict=True):
            restore_weights_backup(owner, name, weight)
    restore_weights_backup(with_bias, "bias", bias)


def _back_up_weights(self: nn.Module, layer_name: str, current_names: tuple) -> None:
    """Keep copies on the CPU of weights that no network has changed yet; whether one will change them or not.

    Raises:
        RuntimeError: there is no copy, and the weights are changed already.
    """
    attention = isinstance(self, nn.MultiheadAttention)
    if getattr(self, "network_weights_backup", None) is None:
        if current_names != () and not allowed_layer_without_weight(self):
            raise RuntimeError(f"{layer_name}: the weights hold networks, and there is no backup of them without")
        if attention:
            pair = (self.in_proj_weight, self.out_proj.weight)
            self.network_weights_backup = tuple(store_weights_backup(weight) for weight in pair)
        else:
            self.network_weights_backup = store_weights_backup(self.weight)
    if getattr(self, "network_bias_backup", None) is None:
        bias = self.out_proj.bias if attention else getattr(self, "bias", None)
        if bias is not None and current_names != ():
            raise RuntimeError(f"{layer_name}: the bias holds networks, and there is no backup of it without")
        self.network_bias_backup = store_weights_backup(bias)


def network_apply_weights(self: nn.Module) -> None:
    """Bring a layer's weights to the active networks, if others are in them now."""
    global layers_restored
    layer_name = getattr(self, "network_layer_name", None)
    if layer_name is None:
        return
    current_names = getattr(self, "network_current_names", ())
    wanted_names = tuple((x.name, x.te_multiplier, x.unet_multiplier, x.dyn_dim) for x in loaded_networks)
    if wanted_names != ():
        _back_up_weights(self, layer_name, current_names)
    if current_names == wanted_names:
        return
    layers_restored += 1
    network_restore_weights_from_backup(self)
    for net in loaded_networks:
        try:
            _add_network(self, net, layer_name)
        except RuntimeError as e:
            logger.debug("network %s, layer %s: %s", net.name, layer_name, e)
            extra_network_lora.errors[net.name] = extra_network_lora.errors.get(net.name, 0) + 1
    self.network_current_names = wanted_names


def _add_network(self: nn.Module, net: network.Network, layer_name: str) -> None:
    """Add what one network does to a layer; its modules are given the weights as the networks before left them.

    Raises:
        RuntimeError: the network's tensors do not fit the layer.
    """
    module = net.modules.get(layer_name)
    if module is not None and hasattr(self, "weight"):
        _add_to_weight(self, module)
        return
    parts = [net.modules.get(layer_name + suffix) for suffix in ("_q_proj", "_k_proj", "_v_proj", "_out_proj")]
    if isinstance(self, nn.MultiheadAttention) and all(parts):
        _add_to_attention(self, *parts)
    elif isinstance(self, QkvLinear) and all(parts[:3]):
        with torch.no_grad():
            weights = self.weight.chunk(3, 0)
            self.weight += torch.vstack(
                [part.calc_updown(weight)[0] for part, weight in zip(parts[:3], weights, strict=True)])
    elif module is not None:
        raise RuntimeError(f"a layer of type {type(self).__name__} cannot be changed")


def _add_to_weight(self: nn.Module, module: network.NetworkModule) -> None:
    with torch.no_grad():
        weight, bias = self.weight, self.bias
        if getattr(self, "fp16_weight", None) is not None:  # the weight itself is stored in fp8
            weight = self.fp16_weight.clone().to(self.weight.device)
            bias = getattr(self, "fp16_bias", None)
            bias = None if bias is None else bias.clone().to(self.bias.device)
        updown, ex_bias = module.calc_updown(weight)
        if weight.ndim == 4 and weight.shape[1] == 9:  # an inpainting model: five channels that networks do not know
            updown = torch.nn.functional.pad(updown, (0, 0, 0, 0, 0, 5))
        self.weight.copy_((weight.to(dtype=updown.dtype) + updown).to(dtype=self.weight.dtype))
        if ex_bias is None or not hasattr(self, "bias"):
            return
        if self.bias is None:
            self.bias = nn.Parameter(ex_bias).to(self.weight.dtype)
        else:
            self.bias.copy_((bias + ex_bias).to(dtype=self.bias.dtype))


def _add_to_attention(self: nn.MultiheadAttention, *parts: network.NetworkModule) -> None:
    """`parts` are the modules of q, k, v and out."""
    *projections, out = parts
    with torch.no_grad():
        weights = self.in_proj_weight.chunk(3, 0)
        updowns = [part.calc_updown(weight)[0] for part, weight in zip(projections, weights, strict=True)]
        updown_out, ex_bias = out.calc_updown(self.out_proj.weight)
        self.in_proj_weight += torch.vstack(updowns)
        self.out_proj.weight += updown_out
        if ex_bias is None:
            return
        if self.out_proj.bias is None:
            self.out_proj.bias = nn.Parameter(ex_bias)
        else:
            self.out_proj.bias += ex_bias


def network_forward(org_module: nn.Module, input: torch.Tensor, original_forward: Callable[..., Any]) -> torch.Tensor:
    """The old way (`lora_functional`): weights stay as they are, and each call adds what the networks would."""
    if loaded_networks:
        network_restore_weights_from_backup(org_module)
        network_reset_cached_weight(org_module)
        input = devices.cond_cast_unet(input)
    output = original_forward(org_module, input)
    layer_name = getattr(org_module, "network_layer_name", None)
    for module in [net.modules[layer_name] for net in loaded_networks if layer_name in net.modules]:
        output = module.forward(input, output)
    return output


def network_reset_cached_weight(self: nn.Module) -> None:
    """The weights of a layer are taken as they are now, for free of networks."""
    self.network_bias_backup = self.network_weights_backup = None
    self.network_current_names = ()


def _patched_forward(class_name: str) -> Callable[..., torch.Tensor]:
    def forward(self: nn.Module, input: torch.Tensor) -> torch.Tensor:
        original_forward = getattr(originals, f"{class_name}_forward")
        if shared.opts.lora_functional:
            return network_forward(self, input, original_forward)
        network_apply_weights(self)
        return original_forward(self, input)

    return forward


def _patched_load_state_dict(class_name: str) -> Callable[..., None]:
    def load_from_state_dict(self: nn.Module, *args, **kwargs) -> None:
        network_reset_cached_weight(self)
        return getattr(originals, f"{class_name}_load_state_dict")(self, *args, **kwargs)

    return load_from_state_dict


def network_MultiheadAttention_forward(self: nn.MultiheadAttention, *args, **kwargs):
    """Networks are in the weights here even with `lora_functional`."""
    network_apply_weights(self)
    return originals.MultiheadAttention_forward(self, *args, **kwargs)


network_Linear_forward = _patched_forward("Linear")
network_Conv2d_forward = _patched_forward("Conv2d")
network_GroupNorm_forward = _patched_forward("GroupNorm")
network_LayerNorm_forward = _patched_forward("LayerNorm")
network_Linear_load_state_dict = _patched_load_state_dict("Linear")
network_Conv2d_load_state_dict = _patched_load_state_dict("Conv2d")
network_GroupNorm_load_state_dict = _patched_load_state_dict("GroupNorm")
network_LayerNorm_load_state_dict = _patched_load_state_dict("LayerNorm")
network_MultiheadAttention_load_state_dict = _patched_load_state_dict("MultiheadAttention")


list_available_networks()
