"""What each family of hosts does in its own way: here AUTOMATIC1111, in the folder `forge` beside `modules` the others.

`current` is the family of this process: see `choose`.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch

from modules import paths

FORGE = ("forge-g1", "forge-g2", "forge-g3")
NAMES = ("a1111", *FORGE)
LORA_EXTENSIONS = ("Lora", "ForgeLora")


class Family:
    """The calls come from where the hosts part ways; `p` is the generation at work."""

    name = "a1111"
    lora_extension = "Lora"
    callbacks_see_rows = True
    """Before an evaluation, callbacks see the rows that the model gets, prompts and negative prompts; and they are
    called once more when the model has run. Otherwise they see each image once, and are called before it only."""
    sigmas_are_timesteps = True
    """What callbacks see as sigma is a timestep where the sampler goes by those."""
    refiner_goes_by_noise = True

    def install(self) -> None:
        """The host's modules are imported, and nothing is loaded yet."""

    def guard(self, p: Any) -> AbstractContextManager:
        """The context of a whole generation."""
        stack = ExitStack()
        stack.enter_context(torch.no_grad())
        stack.enter_context(p.sd_model.ema_scope())
        return stack

    def load_model(self, info: Any) -> Any:
        """Load a checkpoint otherwise than `modules.sd_models` does it; never called where `keeps_models` is true."""
        raise NotImplementedError

    def reload_model(self, info: Any, forced: bool) -> Any:
        """As `load_model`, unless the checkpoint is in use already."""
        raise NotImplementedError

    def unload_model(self, model: Any) -> None:
        """Take a model off the device."""
        from modules import sd_models

        sd_models.send_model_to_cpu(model)

    keeps_models = True
    """Models are kept in memory, or their modules filled anew, as `modules.sd_models` does it."""

    def bring_model(self, p: Any) -> None:
        """The settings of the generation are in force: load the model that they choose."""

    def bring_model_back(self) -> None:
        """A batch begins; the one before it may have ended with a refiner."""
        self.change_model(None)

    def change_model(self, info: Any) -> None:
        """Put a checkpoint into use in the middle of a generation; without one, that of the settings."""
        from modules import sd_models

        sd_models.reload_model_weights(info=info)

    def conditioning_key(self, model: Any) -> str:
        return model.model.conditioning_key

    def begin_batch(self, p: Any) -> None:
        """Nothing of the batch has been read yet."""

    def use_networks(self, p: Any) -> None:
        """What comes next, prompts or sampling, is to be done with the networks that are activated."""

    def encodes_hires_prompts_early(self, p: Any) -> bool:
        """Whether the hires pass's prompts are encoded along with those of the first pass."""
        from modules import lowvram, sd_models

        return lowvram.is_enabled(p.sd_model) and p.sd_model.sd_checkpoint_info == sd_models.select_checkpoint()

    def announce_hires(self, p: Any, announce: Callable[[], None]) -> None:
        """The hires pass is about to be sampled: `announce` tells the scripts."""
        announce()

    def prepare_sampling(self) -> None:
        """A sampler is about to begin a pass, or goes on with a refiner."""

    def evaluate(self, model: Any, x: torch.Tensor, sigma: torch.Tensor, cond: dict) -> torch.Tensor:
        """One call of the model; `model` is as the sampler has wrapped it."""
        return model(x, sigma, cond=cond)

    def refine(self, p: Any) -> None:
        """A refiner has just been loaded, and is about to encode the prompts."""


current = Family()


def choose(name: str | None) -> None:
    """Make this process a host of a family; by default of the one that the environment names as WEBUI_FAMILY.

    Raises:
        ValueError: there is no such family, or the process has become a host of another one already.
    """
    global current
    name = name or os.environ.get("WEBUI_FAMILY") or "a1111"
    if name not in NAMES:
        raise ValueError(f"there is no family {name}; expected one of {', '.join(NAMES)}")
    if name == current.name:
        return
    if current.name != "a1111" or "networks" in sys.modules:
        raise ValueError(f"this process is a host of the family {current.name}")
    folder = os.path.join(paths.script_path, "forge")
    sys.path[:0] = [os.path.join(folder, name.removeprefix("forge-")), folder]
    current = importlib.import_module("modules_forge.family").make(name)
