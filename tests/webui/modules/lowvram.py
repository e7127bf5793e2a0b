"""`--medvram` and `--lowvram`: of a model only the part that is at work is on the device, the others wait on the CPU.

A part is sent to the device when it is called, and sends away the one before it.
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from modules import devices, shared

module_in_gpu: nn.Module | None = None


def is_needed(sd_model: nn.Module) -> bool:
    options = shared.cmd_opts
    return options.lowvram or options.medvram or (options.medvram_sdxl and hasattr(sd_model, "conditioner"))


def is_enabled(sd_model: nn.Module) -> bool:
    return sd_model.lowvram


def apply(sd_model: nn.Module) -> None:
    """Prepare a model that has just been loaded; it is on the CPU."""
    needed = is_needed(sd_model)
    shared.parallel_processing_allowed = not needed
    if needed:
        setup_for_low_vram(sd_model, not shared.cmd_opts.lowvram)
    else:
        sd_model.lowvram = False


def send_everything_to_cpu() -> None:
    global module_in_gpu
    if module_in_gpu is not None:
        module_in_gpu.to(devices.cpu)
    module_in_gpu = None


def _send_to_gpu(module: nn.Module) -> None:
    global module_in_gpu
    if module_in_gpu is module:
        return
    send_everything_to_cpu()
    module.to(devices.device)
    module_in_gpu = module


def _text_encoders(sd_model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """(what is called, what is sent along with it) for each part that encodes prompts."""
    if hasattr(sd_model, "text_encoders"):
        yield from ((encoder, encoder) for encoder in sd_model.text_encoders.medvram_modules())
    elif hasattr(sd_model, "conditioner"):
        yield sd_model.conditioner, sd_model.conditioner
    else:
        encoder = sd_model.cond_stage_model
        yield getattr(encoder, "model", None) or encoder.transformer, encoder


def setup_for_low_vram(sd_model: nn.Module, use_medvram: bool) -> None:
    """Have each part of the model sent to the device when it is called; with `--lowvram` also the U-Net block by block.

    What belongs to no part goes to the device at once.
    """
    if sd_model.lowvram:
        return
    sd_model.lowvram = True
    parts = list(_text_encoders(sd_model))
    unet, vae = sd_model.model, sd_model.first_stage_model
    if use_medvram:
        parts.append((unet, unet))
    else:
        blocks = unet.diffusion_model
        small = [blocks.time_embed, *blocks.input_blocks, blocks.middle_block, *blocks.output_blocks]
        parts += [(block, block) for block in small]
    for called, sent in parts:
        called.register_forward_pre_hook(lambda _module, _args, sent=sent: _send_to_gpu(sent))

    def wrap(function: Any) -> Any:
        def called(x: Any) -> Any:
            _send_to_gpu(vae)
            return function(x)

        return called

    vae.encode, vae.decode = wrap(vae.encode), wrap(vae.decode)
    waiting = {id(module) for _, sent in [*parts, (vae, vae)] for module in sent.modules()}
    for module in sd_model.modules():
        if id(module) not in waiting and not list(module.children()):
            module.to(devices.device)
