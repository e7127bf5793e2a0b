"""What the API takes and gives, as pydantic models.

The two requests for images, the settings and the command line flags are made from the things themselves, so that they
cannot fall behind.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

from pydantic import BaseModel, Field, create_model

from modules.processing import StableDiffusionProcessingImg2Img, StableDiffusionProcessingTxt2Img
from modules.shared import opts, parser

# Set by the host itself, or not to be set by a request.
API_NOT_ALLOWED = {
    "self", "kwargs", "sd_model", "outpath_samples", "outpath_grids", "sampler_index", "extra_generation_params",
    "overlay_images", "do_not_reload_embeddings", "seed_enable_extras", "prompt_for_display",
    "sampler_noise_scheduler_override", "ddim_discretize", "hr_additional_modules",
}


def _annotation(cls: type, parameter: inspect.Parameter) -> Any:
    """Type of a constructor's parameter in a request, where images are base64 text and None is always allowed."""
    annotation = parameter.annotation
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, vars(sys.modules[cls.__module__]))
        except NameError:
            annotation = Any
    if annotation is inspect.Parameter.empty:
        annotation = Any
    if getattr(annotation, "__module__", "").startswith("PIL."):
        annotation = str
    return annotation | None


def _request_model(name: str, cls: type, further: dict[str, tuple[Any, Any]]) -> type[BaseModel]:
    """Model with a field for each parameter of a processing class, and some more."""
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(cls).parameters.values():
        if parameter.name not in API_NOT_ALLOWED:
            default = None if parameter.default is inspect.Parameter.empty else parameter.default
            fields[parameter.name] = (_annotation(cls, parameter), Field(default=default))
    fields |= {key: (kind, Field(default=default)) for key, (kind, default) in further.items()}
    return create_model(name, **fields)


_FURTHER_FIELDS: dict[str, tuple[Any, Any]] = {
    "sampler_index": (str, "Euler"),
    "script_name": (str, None),
    "script_args": (list, []),
    "send_images": (bool, True),
    "save_images": (bool, False),
    "alwayson_scripts": (dict, {}),
    "force_task_id": (str, None),
    "infotext": (str, None),
}

StableDiffusionTxt2ImgProcessingAPI = _request_model(
    "StableDiffusionProcessingTxt2Img", StableDiffusionProcessingTxt2Img, _FURTHER_FIELDS)
StableDiffusionImg2ImgProcessingAPI = _request_model(
    "StableDiffusionProcessingImg2Img", StableDiffusionProcessingImg2Img, {
        **_FURTHER_FIELDS,
        "init_images": (list, None),
        "denoising_strength": (float, 0.75),
        "mask": (str, None),
        "include_init_images": (bool, False),
    })


class TextToImageResponse(BaseModel):
    images: list[str] | None = None
    parameters: dict
    info: str


class ImageToImageResponse(TextToImageResponse):
    pass


class PNGInfoRequest(BaseModel):
    image: str


class PNGInfoResponse(BaseModel):
    info: str
    items: dict
    parameters: dict


class ProgressRequest(BaseModel):
    skip_current_image: bool = False


class ProgressResponse(BaseModel):
    progress: float
    eta_relative: float
    state: dict
    current_image: str | None = None
    textinfo: str | None = None


class SamplerItem(BaseModel):
    name: str
    aliases: list[str]
    options: dict[str, str]


class SchedulerItem(BaseModel):
    name: str
    label: str
    aliases: list[str] | None
    default_rho: float | None
    need_inner_model: bool | None


class UpscalerItem(BaseModel):
    name: str
    model_name: str | None
    model_path: str | None
    model_url: str | None
    scale: float | None


class LatentUpscalerModeItem(BaseModel):
    name: str


class SDModelItem(BaseModel):
    title: str
    model_name: str
    hash: str | None
    sha256: str | None
    filename: str
    config: str | None


class SDVaeItem(BaseModel):
    model_name: str
    filename: str


class HypernetworkItem(BaseModel):
    name: str
    path: str | None


class FaceRestorerItem(BaseModel):
    name: str
    cmd_dir: str | None


class RealesrganItem(BaseModel):
    name: str
    path: str | None
    scale: int | None


class PromptStyleItem(BaseModel):
    name: str
    prompt: str | None
    negative_prompt: str | None


class EmbeddingItem(BaseModel):
    step: int | None
    sd_checkpoint: str | None
    sd_checkpoint_name: str | None
    shape: int
    vectors: int


class EmbeddingsResponse(BaseModel):
    loaded: dict[str, EmbeddingItem]
    skipped: dict[str, EmbeddingItem]


class MemoryResponse(BaseModel):
    ram: dict
    cuda: dict


class ScriptsList(BaseModel):
    txt2img: list | None = None
    img2img: list | None = None


class ScriptArg(BaseModel):
    """One argument of a script, as its component on the page shows it."""

    label: str | None = None
    value: Any | None = None
    minimum: Any | None = None
    maximum: Any | None = None
    step: Any | None = None
    choices: list[str] | None = None


class ScriptInfo(BaseModel):
    name: str | None = None
    is_alwayson: bool | None = None
    is_img2img: bool | None = None
    args: list[ScriptArg]


class ExtensionItem(BaseModel):
    name: str
    remote: str
    branch: str
    commit_hash: str
    version: str
    commit_date: str
    enabled: bool


def _options_model() -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for key, info in opts.data_labels.items():
        kind = opts.typemap.get(type(info.default), type(info.default)) if info.default else Any
        fields[key] = (kind | None, Field(default=info.default, description=info.label))
    return create_model("Options", **fields)


def _flags_model() -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for action in parser._actions:
        if action.dest != "help":
            kind = str if action.default is None else type(action.default)
            fields[action.dest] = (kind | None, Field(default=action.default))
    return create_model("Flags", **fields)


OptionsModel = _options_model()
FlagsModel = _flags_model()
