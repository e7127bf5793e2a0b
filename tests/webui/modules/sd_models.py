"""Loading checkpoints: which models are in memory, which one is in use, and how one takes another's place."""
from __future__ import annotations

import enum
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import torch

from modules import devices, errors, family, lowvram, script_callbacks, sd_hijack, sd_vae, shared
from modules.diffusion.latent_diffusion import LatentDiffusionBase
from modules.diffusion.unet import DEMO_UNET
from modules.models import MODEL_CLASSES
from modules.sd_checkpoints import (  # noqa: F401  (part of this module's interface)
    CheckpointInfo,
    checkpoint_aliases,
    checkpoint_tiles,
    checkpoints_list,
    get_closet_checkpoint_match,
    list_models,
    model_dir,
    model_hash,
    model_path,
    read_metadata_from_safetensors,
    read_state_dict,
    select_checkpoint,
)

SDXL_KEY = "conditioner.embedders.1.model.ln_final.weight"
REFINER_KEY = "conditioner.embedders.0.model.ln_final.weight"
SD2_KEY = "cond_stage_model.model.ln_final.weight"
SD3_KEY = "model.diffusion_model.x_embedder.proj.weight"
FIRST_KEY = "model.diffusion_model.input_blocks.0.0.weight"
MIDDLE_KEY = "model.diffusion_model.middle_block.0.out_layers.3.weight"


class ModelType(enum.Enum):
    SD1 = 1
    SD2 = 2
    SDXL = 3
    SSD = 4
    SD3 = 5


class SkipWritingToConfig:
    """Inside this context a loaded checkpoint does not become the one chosen in the settings."""

    skip = False

    def __enter__(self) -> SkipWritingToConfig:
        self.previous = SkipWritingToConfig.skip
        SkipWritingToConfig.skip = True
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, tb: TracebackType | None
    ) -> None:
        SkipWritingToConfig.skip = self.previous


class SdModelData:
    """The model in use, and all models in memory, last used first."""

    def __init__(self):
        self.sd_model: LatentDiffusionBase | None = None
        self.loaded_sd_models: list[LatentDiffusionBase] = []
        self.was_loaded_at_least_once = False
        self.lock = threading.Lock()

    def get_sd_model(self) -> LatentDiffusionBase | None:
        """The model in use; the first call loads it. A failure is reported, and tried again at the next call."""
        if self.was_loaded_at_least_once or self.sd_model is not None:
            return self.sd_model
        with self.lock:
            if self.sd_model is None and not self.was_loaded_at_least_once:
                try:
                    load_model()
                except Exception as e:
                    errors.display(e, "loading the checkpoint", full_traceback=True)
                    self.sd_model = None
        return self.sd_model

    def set_sd_model(self, v: LatentDiffusionBase | None) -> None:
        self.sd_model = v
        self.loaded_sd_models[:] = [model for model in self.loaded_sd_models if model is not v]
        if v is not None:
            self.loaded_sd_models.insert(0, v)


model_data = SdModelData()


def find_config(state_dict: dict[str, torch.Tensor]) -> str:
    """Which kind of model a checkpoint holds."""
    for key, kind in ((SD3_KEY, "sd3"), (SDXL_KEY, "sdxl"), (REFINER_KEY, "refiner"), (SD2_KEY, "sd2")):
        if key in state_dict:
            return kind
    if len(state_dict[MIDDLE_KEY]) == DEMO_UNET.model_channels:
        return "demo"
    return {9: "inpainting", 8: "edit"}.get(state_dict[FIRST_KEY].shape[1], "sd1")


def build_model(config: str) -> LatentDiffusionBase:
    """A model with weights yet to be loaded, made without moving the global random numbers."""
    with torch.random.fork_rng(devices=[]):
        model = MODEL_CLASSES[config]()
    model.used_config = config
    is_kind = {ModelType.SD3: model.is_sd3, ModelType.SDXL: model.is_sdxl, ModelType.SD2: model.is_sd2}
    model.model_type = next((kind for kind, is_it in is_kind.items() if is_it), ModelType.SD1)
    return model


def load_model_weights(
    model: LatentDiffusionBase, checkpoint_info: CheckpointInfo, state_dict: dict[str, torch.Tensor] | None
) -> None:
    """Copy a checkpoint's weights into the modules of `model`, in the number formats of this run."""
    model.sd_model_hash = checkpoint_info.calculate_shorthash()
    if not SkipWritingToConfig.skip:
        shared.opts.data["sd_model_checkpoint"] = checkpoint_info.title
    if state_dict is None:
        state_dict = read_state_dict(checkpoint_info.filename)

    model.to(devices.dtype_unet)
    model.first_stage_model.to(devices.dtype_vae)
    model.load_state_dict(state_dict)
    if shared.cmd_opts.opt_channelslast:
        model.to(memory_format=torch.channels_last)
    apply_alpha_schedule_override(model)
    store_in_8_bits(model)

    model.sd_model_checkpoint = checkpoint_info.filename
    model.sd_checkpoint_info = checkpoint_info
    shared.opts.data["sd_checkpoint_hash"] = checkpoint_info.sha256
    sd_vae.use_checkpoints_own(model)


def check_fp8(model: LatentDiffusionBase | None) -> bool:
    """Whether the settings want the weights of this model stored in 8 bits."""
    setting = shared.opts.fp8_storage
    return model is not None and (setting == "Enable" or (setting == "Enable for SDXL" and model.is_sdxl))


def store_in_8_bits(model: LatentDiffusionBase) -> None:
    """Store the weights of linear layers and convolutions in 8 bits, if the settings want that; not the autoencoder's.

    With the option `cache_fp16_weight` each such layer keeps what it was in 16 bits, for networks to be added to.
    """
    devices.fp8 = check_fp8(model)
    vae = set(model.first_stage_model.modules())
    for module in model.modules():
        for name in ("fp16_weight", "fp16_bias"):
            vars(module).pop(name, None)
        if not devices.fp8 or module in vae or not isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            continue
        if shared.opts.cache_fp16_weight:
            module.fp16_weight = module.weight.data.clone().cpu().half()
            if module.bias is not None:
                module.fp16_bias = module.bias.data.clone().cpu().half()
        module.to(torch.float8_e4m3fn)


def apply_alpha_schedule_override(sd_model: LatentDiffusionBase, p=None) -> None:
    """Set the noise schedule; in float16 precision where the settings ask for it."""
    sd_model.alphas_cumprod = sd_model.alphas_cumprod_original.to(devices.device)
    if shared.opts.use_downcasted_alpha_bar:
        if p is not None:
            p.extra_generation_params["Downcast alphas_cumprod"] = True
        sd_model.alphas_cumprod = sd_model.alphas_cumprod.half()


def get_empty_cond(sd_model: LatentDiffusionBase) -> torch.Tensor:
    """Encode the empty prompt. It must be free of extra networks, so active ones are switched off for good."""
    from modules import extra_networks, processing

    extra_networks.activate(processing.StableDiffusionProcessingTxt2Img(), {})
    cond = sd_model.get_learned_conditioning([""])
    return cond["crossattn"] if isinstance(cond, dict) else cond


def send_model_to_cpu(m: LatentDiffusionBase | None) -> None:
    if m is not None and m.lowvram:
        lowvram.send_everything_to_cpu()
    elif m is not None:
        m.to(devices.cpu)
    devices.torch_gc()


def send_model_to_device(m: LatentDiffusionBase) -> None:
    lowvram.apply(m)
    if not m.lowvram:
        m.to(devices.device)


def send_model_to_trash(m: LatentDiffusionBase) -> None:
    """Free the memory of a model even where someone still holds it."""
    m.to(device="meta")
    devices.torch_gc()


def load_model(
    checkpoint_info: CheckpointInfo | None = None, already_loaded_state_dict: dict[str, torch.Tensor] | None = None
) -> LatentDiffusionBase:
    """Build a model for a checkpoint and put it into use, in place of the one in use."""
    checkpoint_info = checkpoint_info or select_checkpoint()
    if not family.current.keeps_models:
        return family.current.load_model(checkpoint_info)
    started = time.perf_counter()
    if model_data.sd_model is not None:
        send_model_to_trash(model_data.sd_model)
        model_data.sd_model = None

    state_dict = already_loaded_state_dict
    if state_dict is None:
        state_dict = read_state_dict(checkpoint_info.filename)
    sd_model = build_model(find_config(state_dict))
    load_model_weights(sd_model, checkpoint_info, state_dict)
    send_model_to_device(sd_model)
    sd_hijack.model_hijack.hijack(sd_model)
    sd_model.eval()
    model_data.set_sd_model(sd_model)
    model_data.was_loaded_at_least_once = True

    sd_hijack.model_hijack.embedding_db.load_textual_inversion_embeddings(force_reload=True)
    script_callbacks.model_loaded_callback(sd_model)
    with devices.autocast(), torch.no_grad():
        sd_model.cond_stage_model_empty_prompt = get_empty_cond(sd_model)
    print(f"Loaded {checkpoint_info.title} in {time.perf_counter() - started:.1f} s", file=sys.stderr)
    return sd_model


def _holds(model: LatentDiffusionBase | None, wanted: CheckpointInfo) -> bool:
    return model is not None and model.sd_checkpoint_info.filename == wanted.filename


def _make_room(wanted: CheckpointInfo) -> None:
    """Free what is in memory beyond the limit, longest unused first, but never a model that holds `wanted`."""
    limit, in_memory = shared.opts.sd_checkpoints_limit, model_data.loaded_sd_models
    surplus = max(len(in_memory) - limit, 0) if limit > 0 else 0
    dispensable = [model for model in reversed(in_memory) if not _holds(model, wanted)]
    for model in dispensable[:surplus]:
        in_memory.remove(model)
        send_model_to_trash(model)


def _bring_back(wanted: CheckpointInfo) -> LatentDiffusionBase | None:
    """Put the model in memory that holds `wanted` into use again, if there is one."""
    found = next((model for model in model_data.loaded_sd_models if _holds(model, wanted)), None)
    if found is not None:
        send_model_to_device(found)
        model_data.set_sd_model(found)
        if not SkipWritingToConfig.skip:
            shared.opts.data.update(sd_model_checkpoint=wanted.title, sd_checkpoint_hash=wanted.sha256)
        sd_vae.reload_vae_weights(found)
    return found


def _build_beside(wanted: CheckpointInfo) -> LatentDiffusionBase | None:
    """Build a further model for `wanted`, if the settings allow more than one and there is room."""
    limit = shared.opts.sd_checkpoints_limit
    if limit < 2 or len(model_data.loaded_sd_models) >= limit:
        return None
    model_data.sd_model = None  # or else loading would free it
    return load_model(wanted)


def _take_longest_unused() -> LatentDiffusionBase | None:
    """Strike the model that was not used for longest off the list and put it into use, to be filled anew."""
    if not model_data.loaded_sd_models:
        return None
    model_data.sd_model = model_data.loaded_sd_models.pop()
    return model_data.sd_model


def reuse_model_from_already_loaded(
    sd_model: LatentDiffusionBase | None, checkpoint_info: CheckpointInfo
) -> LatentDiffusionBase | None:
    """Find a model for a checkpoint among those in memory.

    Returns:
        a model that holds the checkpoint already, or is built for it here because the settings allow one more
        in memory; else one in memory whose place the checkpoint may take; else None.
    """
    if _holds(sd_model, checkpoint_info):
        return sd_model
    if shared.opts.sd_checkpoints_keep_in_cpu:
        send_model_to_cpu(sd_model)
    _make_room(checkpoint_info)
    return _bring_back(checkpoint_info) or _build_beside(checkpoint_info) or _take_longest_unused()


@contextmanager
def _taken_apart(model: LatentDiffusionBase) -> Iterator[None]:
    """Inside, the model is on the CPU without the hijack; afterwards, come what may, it is ready and announced."""
    send_model_to_cpu(model)
    sd_hijack.model_hijack.undo_hijack(model)
    try:
        yield
    finally:
        sd_hijack.model_hijack.hijack(model)
        if not model.lowvram:
            model.to(devices.device)
        script_callbacks.model_loaded_callback(model)


def _refill(model: LatentDiffusionBase, wanted: CheckpointInfo, weights: dict[str, torch.Tensor]) -> None:
    """Put other weights into a model's modules; if they do not fit, it gets those of before again."""
    former = model.sd_checkpoint_info
    with _taken_apart(model):
        try:
            load_model_weights(model, wanted, weights)
        except Exception:
            load_model_weights(model, former, None)
            raise
    model_data.set_sd_model(model)


def reload_model_weights(
    sd_model: LatentDiffusionBase | None = None, info: CheckpointInfo | None = None, forced_reload: bool = False
) -> LatentDiffusionBase:
    """Put a checkpoint (by default the one chosen in the settings) into use.

    Nothing happens if it is in use already. A model of the same kind gets the new weights into its existing modules;
    otherwise a new model is built, and with it the active extra networks are switched off (see `get_empty_cond`).
    """
    wanted = info or select_checkpoint()
    if not family.current.keeps_models:
        return family.current.reload_model(wanted, forced_reload)
    candidate = sd_model or model_data.sd_model
    forced_reload = forced_reload or (candidate is not None and check_fp8(candidate) != devices.fp8)
    if forced_reload or not _holds(candidate, wanted):
        candidate = reuse_model_from_already_loaded(candidate, wanted)
    if _holds(candidate, wanted) and not forced_reload:
        return candidate

    weights = read_state_dict(wanted.filename)
    if candidate is not None:
        if candidate.used_config == find_config(weights):
            _refill(candidate, wanted, weights)
            return candidate
        sd_hijack.model_hijack.undo_hijack(candidate)
        send_model_to_trash(candidate)
    return load_model(wanted, already_loaded_state_dict=weights)


def unload_model_weights(sd_model: LatentDiffusionBase | None = None, info: CheckpointInfo | None = None):
    """Move a model, by default the one in use, to the CPU."""
    family.current.unload_model(sd_model or shared.sd_model)
    return sd_model


def apply_token_merging(sd_model: LatentDiffusionBase, token_merging_ratio: float) -> None:
    """Note the ratio that is asked for. These networks are too small to gain from merging tokens, so none are."""
    sd_model.applied_token_merged_ratio = token_merging_ratio
