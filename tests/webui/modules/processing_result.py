"""The outcome of a generation, and the infotext that says how to make it again."""

from __future__ import annotations

import json
import random

from modules import errors, infotext_utils, sd_samplers, shared
from modules.shared import opts, state

VERSION = "v1.10.1"  # the release whose contract this host keeps; extensions compare it


def program_version() -> str:
    return VERSION


def get_fixed_seed(seed) -> int:
    """The seed as a number; a random one for -1, nothing, or what is no number."""
    try:
        seed = int(seed)
    except (TypeError, ValueError):
        seed = -1
    return random.randrange(4294967294) if seed == -1 else seed


def fix_seed(p) -> None:
    p.seed = get_fixed_seed(p.seed)
    p.subseed = get_fixed_seed(p.subseed)


class Processed:
    """Images of a generation, grid first if there is one, with everything that the page and the API tell of them."""

    COPIED = (
        "prompt", "negative_prompt", "subseed_strength", "width", "height", "sampler_name", "cfg_scale", "steps",
        "batch_size", "restore_faces", "sd_model_name", "sd_model_hash", "sd_vae_name", "sd_vae_hash",
        "seed_resize_from_w", "seed_resize_from_h", "denoising_strength", "extra_generation_params", "styles",
        "token_merging_ratio", "token_merging_ratio_hr", "eta", "ddim_discretize", "s_churn", "s_tmin", "s_tmax",
        "s_noise", "s_min_uncond", "sampler_noise_scheduler_override", "is_using_inpainting_conditioning",
    )

    def __init__(
        self, p, images_list, seed=-1, info="", subseed=None, all_prompts=None, all_negative_prompts=None,
        all_seeds=None, all_subseeds=None, index_of_first_image=0, infotexts=None, comments="",
    ):
        for name in self.COPIED:
            setattr(self, name, getattr(p, name))
        self.images = images_list
        self.image_cfg_scale = getattr(p, "image_cfg_scale", None)
        self.face_restoration_model = None
        self.info = info
        self.comments = "".join(f"{comment}\n" for comment in p.comments) + comments
        self.index_of_first_image = index_of_first_image
        self.job_timestamp = state.job_timestamp
        self.clip_skip = opts.CLIP_stop_at_last_layers
        self.prompt = _first(self.prompt)
        self.negative_prompt = _first(self.negative_prompt)
        self.seed = -1 if seed is None else int(_first(seed))
        self.subseed = -1 if subseed is None else int(_first(subseed))
        for name, given, of_one in (
            ("all_prompts", all_prompts, self.prompt), ("all_seeds", all_seeds, self.seed),
            ("all_negative_prompts", all_negative_prompts, self.negative_prompt),
            ("all_subseeds", all_subseeds, self.subseed),
        ):
            setattr(self, name, given or getattr(p, name) or [of_one])
        self.infotexts = infotexts or [info] * len(images_list)
        self.version = program_version()

    def js(self) -> str:
        """What goes to the page and into the API's `info`, as JSON."""
        names = (
            "all_prompts", "all_negative_prompts", "seed", "all_seeds", "subseed", "all_subseeds", "subseed_strength",
            "width", "height", "sampler_name", "cfg_scale", "steps", "batch_size", "restore_faces",
            "face_restoration_model", "sd_model_name", "sd_model_hash", "sd_vae_name", "sd_vae_hash",
            "seed_resize_from_w", "seed_resize_from_h", "denoising_strength", "extra_generation_params",
            "index_of_first_image", "infotexts", "styles", "job_timestamp", "clip_skip",
            "is_using_inpainting_conditioning", "version",
        )
        first = {"prompt": self.all_prompts[0], "negative_prompt": self.all_negative_prompts[0]}
        return json.dumps({**first, **{name: getattr(self, name) for name in names}}, default=lambda _: None)

    def infotext(self, p, index: int) -> str:
        return create_infotext(
            p, self.all_prompts, self.all_seeds, self.all_subseeds, position_in_batch=index % self.batch_size,
            iteration=index // self.batch_size)

    def get_token_merging_ratio(self, for_hr: bool = False) -> float:
        return self.token_merging_ratio_hr if for_hr else self.token_merging_ratio


def _first(value):
    return value[0] if isinstance(value, list) else value


def _unless(value, unusual: bool):
    return value if unusual else None


def _uses_ensd(p) -> bool:
    """Whether the setting "eta noise seed delta" has a part in this image."""
    config = sd_samplers.find_sampler_config(p.sampler_name)
    eta = p.eta if p.eta is not None else getattr(p.sampler, "eta", None)
    return opts.eta_noise_seed_delta != 0 and eta != 0 and config is not None and config.options.get("uses_ensd", False)


def _own_params(p, index: int, use_main_prompt: bool, all_seeds, all_subseeds) -> dict:
    """The host's part of the infotext, before what samplers and scripts have noted."""
    clip_skip = getattr(p, "clip_skip", opts.CLIP_stop_at_last_layers)
    varied = p.subseed_strength != 0
    resized = p.seed_resize_from_w > 0 and p.seed_resize_from_h > 0
    return {
        "Steps": p.steps,
        "Sampler": p.sampler_name,
        "Schedule type": p.scheduler,
        "CFG scale": p.cfg_scale,
        "Image CFG scale": getattr(p, "image_cfg_scale", None),
        "Seed": p.all_seeds[0] if use_main_prompt else all_seeds[index],
        "Size": f"{p.width}x{p.height}",
        "Model hash": _unless(p.sd_model_hash, opts.add_model_hash_to_info),
        "Model": _unless(p.sd_model_name, opts.add_model_name_to_info),
        "VAE hash": _unless(p.sd_vae_hash, opts.add_vae_hash_to_info),
        "VAE": _unless(p.sd_vae_name, opts.add_vae_name_to_info),
        "Variation seed": _unless(p.all_subseeds[0] if use_main_prompt else all_subseeds[index], varied),
        "Variation seed strength": _unless(p.subseed_strength, varied),
        "Seed resize from": _unless(f"{p.seed_resize_from_w}x{p.seed_resize_from_h}", resized),
        "Denoising strength": p.extra_generation_params.get("Denoising strength"),
        "Clip skip": _unless(clip_skip, clip_skip > 1),
        "ENSD": _unless(opts.eta_noise_seed_delta, _uses_ensd(p)),
        "Init image hash": getattr(p, "init_img_hash", None),
        "RNG": _unless(opts.randn_source, opts.randn_source != "GPU"),
        "Tiling": _unless("True", p.tiling),
    }


def _resolved(key: str, value, context: dict):
    """A noted value for one image: from a list by the image's index, from a function by calling it."""
    try:
        if isinstance(value, list):
            return value[context["index"]]
        if callable(value):
            return value(**context)
    except Exception:
        errors.report(f"infotext: {key!r} failed", exc_info=True)
        return None
    return value


def create_infotext(
    p, all_prompts, all_seeds, all_subseeds, comments=None, iteration=0, position_in_batch=0, use_main_prompt=False,
    index=None, all_negative_prompts=None,
) -> str:
    """The infotext of one image: prompt, negative prompt, and a line of `key: value`.

    A value in `p.extra_generation_params` is a text, a list with one entry for each image, or a function that gets
    this function's arguments and `prompt_text`, `negative_prompt` by name. None leaves the key out.
    """
    number = iteration * p.batch_size + position_in_batch if index is None else index
    index = 0 if use_main_prompt else number
    all_negative_prompts = p.all_negative_prompts if all_negative_prompts is None else all_negative_prompts
    prompt_text = p.main_prompt if use_main_prompt else all_prompts[index]
    negative_prompt = p.main_negative_prompt if use_main_prompt else all_negative_prompts[index]
    own = _own_params(p, index, use_main_prompt, all_seeds, all_subseeds)
    params = {
        **own, **p.extra_generation_params,
        "Version": _unless(program_version(), opts.add_version_to_infotext),
        "User": _unless(p.user, opts.add_user_name_to_info),
    }
    context = {
        "p": p, "all_prompts": all_prompts, "all_seeds": all_seeds, "all_subseeds": all_subseeds, "comments": comments,
        "iteration": iteration, "position_in_batch": position_in_batch, "use_main_prompt": use_main_prompt,
        "index": index, "all_negative_prompts": all_negative_prompts, "prompt_text": prompt_text,
        "negative_prompt": negative_prompt, "generation_params": params, "opts": opts, "shared": shared,
    }
    resolved = {key: _resolved(key, value, context) for key, value in params.items()}
    line = ", ".join(
        key if key == value else f"{key}: {infotext_utils.quote(value)}"
        for key, value in resolved.items() if value is not None)
    negative = f"\nNegative prompt: {negative_prompt}" if negative_prompt else ""
    return f"{prompt_text}{negative}\n{line}".strip()
