"""The parts of the API that only tell what there is."""

from __future__ import annotations

import os

import torch

from modules import extensions, scripts, sd_hijack, sd_models, sd_samplers, sd_schedulers, shared
from modules.api import models


def get_samplers() -> list[dict]:
    return [
        {"name": name, "aliases": aliases, "options": options}
        for name, _, aliases, options in sd_samplers.all_samplers
    ]


def get_schedulers() -> list[dict]:
    fields = ("name", "label", "aliases", "default_rho", "need_inner_model")
    return [{field: getattr(scheduler, field) for field in fields} for scheduler in sd_schedulers.schedulers]


def get_upscalers() -> list[dict]:
    return [
        {
            "name": upscaler.name, "model_name": upscaler.scaler.model_name, "model_path": upscaler.data_path,
            "model_url": None, "scale": upscaler.scale,
        }
        for upscaler in shared.sd_upscalers
    ]


def get_latent_upscale_modes() -> list[dict]:
    return [{"name": mode} for mode in shared.latent_upscale_modes]


def get_sd_models() -> list[dict]:
    return [
        {
            "title": info.title, "model_name": info.model_name, "hash": info.shorthash, "sha256": info.sha256,
            "filename": info.filename, "config": None,
        }
        for info in sd_models.checkpoints_list.values()
    ]


def get_hypernetworks() -> list[dict]:
    return [{"name": name, "path": path} for name, path in shared.hypernetworks.items()]


def get_face_restorers() -> list[dict]:
    return [{"name": restorer.name(), "cmd_dir": None} for restorer in shared.face_restorers]


def get_nothing() -> list:
    """A kind of model that this host has none of."""
    return []


def get_prompt_styles() -> list[dict]:
    return [
        {"name": style.name, "prompt": style.prompt, "negative_prompt": style.negative_prompt}
        for style in shared.prompt_styles.styles.values()
    ]


def get_embeddings() -> dict:
    database = getattr(sd_hijack.model_hijack, "embedding_db", None)
    fields = ("step", "sd_checkpoint", "sd_checkpoint_name", "shape", "vectors")

    def described(kind: str) -> dict:
        known = getattr(database, kind, None) or {}
        return {item.name: {field: getattr(item, field) for field in fields} for item in known.values()}

    return {"loaded": described("word_embeddings"), "skipped": described("skipped_embeddings")}


def get_memory() -> models.MemoryResponse:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    cuda: dict = {"error": "unavailable"}
    if torch.cuda.is_available():
        cuda_free, cuda_total = torch.cuda.mem_get_info()
        cuda = {"system": {"free": cuda_free, "used": cuda_total - cuda_free, "total": cuda_total}}
    return models.MemoryResponse(ram={"free": free, "used": total - free, "total": total}, cuda=cuda)


def get_scripts_list() -> models.ScriptsList:
    def names(runner) -> list[str]:
        return [script.name for script in runner.scripts if script.name is not None]

    return models.ScriptsList(txt2img=names(scripts.scripts_txt2img), img2img=names(scripts.scripts_img2img))


def get_script_info() -> list:
    every = scripts.scripts_txt2img.scripts + scripts.scripts_img2img.scripts
    return [script.api_info for script in every if script.api_info is not None]


def get_extensions_list() -> list[dict]:
    """Extensions that were cloned from somewhere."""
    fields = ("name", "remote", "branch", "commit_hash", "commit_date", "version", "enabled")
    return [
        {field: getattr(extension, field) for field in fields}
        for extension in extensions.extensions if extension.remote is not None
    ]


ROUTES = (
    ("samplers", get_samplers, list[models.SamplerItem]),
    ("schedulers", get_schedulers, list[models.SchedulerItem]),
    ("upscalers", get_upscalers, list[models.UpscalerItem]),
    ("latent-upscale-modes", get_latent_upscale_modes, list[models.LatentUpscalerModeItem]),
    ("sd-models", get_sd_models, list[models.SDModelItem]),
    ("sd-vae", get_nothing, list[models.SDVaeItem]),
    ("hypernetworks", get_hypernetworks, list[models.HypernetworkItem]),
    ("face-restorers", get_face_restorers, list[models.FaceRestorerItem]),
    ("realesrgan-models", get_nothing, list[models.RealesrganItem]),
    ("prompt-styles", get_prompt_styles, list[models.PromptStyleItem]),
    ("embeddings", get_embeddings, models.EmbeddingsResponse),
    ("memory", get_memory, models.MemoryResponse),
    ("scripts", get_scripts_list, models.ScriptsList),
    ("script-info", get_script_info, list[models.ScriptInfo]),
    ("extensions", get_extensions_list, list[models.ExtensionItem]),
)
