"""Further checkpoints for whatever host runs, made from the file of the one in use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.host.webui import WebUI


def write_checkpoint(
    webui: WebUI,
    name: str,
    change: Callable[[dict[str, Tensor]], None],
    config: Callable[[str], str] = lambda text: text,
) -> Any:
    """Write a checkpoint beside the one in use.

    Args:
        change: changes the tensors of the one in use, in place.
        config: changes the text of its configuration file, on a host that has one beside it.

    Returns:
        The host's ``CheckpointInfo``.
    """
    from modules import sd_models

    first = Path(webui.shared.sd_model.sd_checkpoint_info.filename)
    path = Path(sd_models.model_path) / f"{name}.safetensors"
    if not path.exists():
        tensors = load_file(first)
        change(tensors)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path)
        if first.with_suffix(".yaml").exists():
            path.with_suffix(".yaml").write_text(config(first.with_suffix(".yaml").read_text()))
    sd_models.list_models()
    return next(info for info in sd_models.checkpoints_list.values() if info.name_for_extra == name)


def other_weights(tensors: dict[str, Tensor]) -> None:
    """Weights of another training of the same model."""
    random = torch.Generator().manual_seed(8)
    for name, value in tensors.items():
        if value.is_floating_point() and value.dim() > 1 and not name.startswith("first_stage_model"):
            noise = torch.randn(value.shape, generator=random)
            tensors[name] = (value.float() + 0.1 * value.float().std() * noise).to(value.dtype)


def with_channels(count: int, target: str) -> tuple[Callable[[dict[str, Tensor]], None], Callable[[str], str]]:
    """What makes of SD1 a model that reads so many channels, and of its configuration one that names this class."""

    def change(tensors: dict[str, Tensor]) -> None:
        name = "model.diffusion_model.input_blocks.0.0.weight"
        first = tensors[name]
        more = torch.randn((len(first), count - first.shape[1], *first.shape[2:]), generator=torch.manual_seed(3))
        tensors[name] = torch.cat([first, (0.1 * first.float().std() * more).to(first.dtype)], dim=1)

    def configure(text: str) -> str:
        text = text.replace("in_channels: 4", f"in_channels: {count}").replace("crossattn", "hybrid")
        if count == 8:
            text = text.replace("cond_stage_key: txt", "cond_stage_key: edit")
        else:
            text = text.replace("conditioning_key: hybrid", "conditioning_key: hybrid\n    finetune_keys: null")
        return text.replace("ldm.models.diffusion.ddpm.LatentDiffusion", target)

    return change, configure


def use(checkpoints: list[str], name: str) -> None:
    """Put the checkpoint whose title has ``name`` in it into use."""
    from modules import sd_models

    title = next((title for title in checkpoints if name in title), None)
    if title is None:
        pytest.skip(f"this host has no checkpoint {name}")
    switch(sd_models.get_closet_checkpoint_match(title))


def switch(info: Any) -> None:
    """Put a checkpoint into use, as the menu of the host does."""
    from modules import sd_models, shared

    if not hasattr(sd_models, "forge_model_reload"):
        shared.opts.data["sd_model_checkpoint"] = info.title  # some hosts look there before each generation
        sd_models.reload_model_weights(info=info)
        return
    from modules_forge.main_entry import refresh_model_loading_parameters

    shared.opts.set("sd_model_checkpoint", info.title)
    refresh_model_loading_parameters()
    sd_models.forge_model_reload()
