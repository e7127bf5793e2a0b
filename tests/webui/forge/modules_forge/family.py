"""The order of things in the Forge family, and what of it differs from host to host."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import forge_books
import torch

from modules import family, script_callbacks, sd_hijack, sd_models, shared, ui_components
from modules_forge import engine


class Forge(family.Family):
    """As reForge and Forge Classic do it: a model is loaded at the start, and where a checkpoint is changed."""

    lora_extension = "ForgeLora"
    callbacks_see_rows = sigmas_are_timesteps = refiner_goes_by_noise = keeps_models = False
    has_objects_without_lora = True
    """Whether `forge_objects_after_applying_lora` are in use where no LoRA is applied."""

    def __init__(self, name: str) -> None:
        self.name = name

    def guard(self, p: Any) -> AbstractContextManager:
        return torch.inference_mode()

    def load_model(self, info: Any) -> Any:
        sd_models.model_data.sd_model = None
        forge_books.memory.unload_all_models()
        model = engine.with_parts(engine.build(info), applied=self.has_objects_without_lora)
        self._announce(model)
        with torch.inference_mode():
            model.cond_stage_model_empty_prompt = sd_models.get_empty_cond(model)
        return model

    def _announce(self, model: Any) -> None:
        sd_models.model_data.set_sd_model(model)
        sd_models.model_data.was_loaded_at_least_once = True
        sd_hijack.model_hijack.embedding_db.load_textual_inversion_embeddings(force_reload=True)
        script_callbacks.model_loaded_callback(model)

    def reload_model(self, info: Any, forced: bool) -> Any:
        model = sd_models.model_data.sd_model
        if model is not None and model.sd_checkpoint_info.filename == info.filename and not forced:
            return model
        return self.load_model(info)

    def conditioning_key(self, model: Any) -> str:
        return "crossattn"

    def begin_batch(self, p: Any) -> None:
        p.sd_model.forge_objects = p.sd_model.forge_objects_original.shallow_copy()

    def use_networks(self, p: Any) -> None:
        p.sd_model.forge_objects = p.sd_model.forge_objects_after_applying_lora.shallow_copy()

    def encodes_hires_prompts_early(self, p: Any) -> bool:
        return True

    def announce_hires(self, p: Any, announce: Callable[[], None]) -> None:
        self.use_networks(p)
        announce()

    def prepare_sampling(self) -> None:
        forge_books.memory.load_models_gpu([shared.sd_model.forge_objects.unet])

    def unload_model(self, model: Any) -> None:
        forge_books.memory.unload_all_models()

    def evaluate(self, model: Any, x: torch.Tensor, sigma: torch.Tensor, cond: dict) -> torch.Tensor:
        return shared.sd_model.forge_objects.unet.model.apply_model(x, sigma, cond)

    def refine(self, p: Any) -> None:
        p.activate_extra_networks(p.extra_network_data)

    def is_in_use(self, model: Any, targets: list[list]) -> bool:
        """Whether these LoRAs, each (file, U-Net's strength, text encoder's strength), are applied to the model; if
        not, it is noted that they are, and the model has to be given its parts as they were."""
        wanted = str(targets)
        if model.current_lora_hash == wanted:
            return True
        model.current_lora_hash = wanted
        model.forge_objects.unet = model.forge_objects_original.unet
        model.forge_objects.clip = model.forge_objects_original.clip
        return False


class ForgeOfGeneration1(Forge):
    """As Forge of 2025 and Forge Neo do it: a model is loaded at the beginning of a generation."""

    def install(self) -> None:
        sd_models.model_data.sd_model = engine.FakeInitialModel()
        accordion = ui_components.InputAccordion
        ui_components.InputAccordion = lambda value=None, **options: accordion(value, **options)
        self._loaded: str | None = None
        sd_models.forge_model_reload = self.bring_model_back

    def reload_model(self, info: Any, forced: bool) -> None:
        """These hosts have kept the name of the function only."""

    def bring_model(self, p: Any) -> None:
        if self._load(sd_models.select_checkpoint()):
            p.clear_prompt_cache()

    def bring_model_back(self) -> None:
        self._load(sd_models.select_checkpoint())

    def change_model(self, info: Any) -> None:
        if info is not None:
            self._load(info)

    @torch.inference_mode()
    def _load(self, info: Any) -> bool:
        """Load a checkpoint unless it is in use; says whether it had to be."""
        if self._loaded == info.filename:
            return False
        sd_models.model_data.sd_model = None
        forge_books.memory.unload_all_models()
        self._announce(engine.ForgeDiffusionEngine(engine.build(info)))
        self._loaded = info.filename
        return True

    def announce_hires(self, p: Any, announce: Callable[[], None]) -> None:
        """The scripts are told twice: before the parts with the LoRAs are taken, and after it."""
        announce()
        self.use_networks(p)
        announce()


class ForgeOfGeneration2(Forge):
    """As Forge Classic does it: which LoRAs are applied is noted in `shared`."""

    has_objects_without_lora = False

    def install(self) -> None:
        shared.cached_lora_hash = []

    def load_model(self, info: Any) -> Any:
        with torch.inference_mode():
            return super().load_model(info)

    def _announce(self, model: Any) -> None:
        shared.cached_lora_hash.clear()
        super()._announce(model)

    def use_networks(self, p: Any) -> None:
        if shared.cached_lora_hash:
            super().use_networks(p)

    def is_in_use(self, model: Any, targets: list[list]) -> bool:
        if shared.cached_lora_hash == targets:
            return True
        shared.cached_lora_hash, model.current_lora_hash = targets, str(targets)
        if not targets:
            model.forge_objects_after_applying_lora = None
        return not targets


def make(name: str) -> Forge:
    return {"forge-g1": ForgeOfGeneration1, "forge-g2": ForgeOfGeneration2}.get(name, Forge)(name)
