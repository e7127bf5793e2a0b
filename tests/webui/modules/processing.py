"""Makes images: the main loop, in which every hook has its fixed place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from modules import (
    devices,
    extra_networks,
    family,
    images,
    lowvram,
    paths,
    prompt_parser,  # noqa: F401  (extensions import it from here)
    rng,
    scripts,
    sd_models,
    sd_samplers,
    shared,
)
from modules.processing_base import (  # noqa: F401  (part of this module's interface)
    DecodedSamples,
    StableDiffusionProcessing,
    create_random_tensors,
    decode_latent_batch,
    opt_C,
    opt_f,
)
from modules.processing_img2img import StableDiffusionProcessingImg2Img  # noqa: F401
from modules.processing_result import (  # noqa: F401
    Processed,
    create_infotext,
    fix_seed,
    get_fixed_seed,
    program_version,
)
from modules.processing_txt2img import StableDiffusionProcessingTxt2Img, old_hires_fix_first_pass_dimensions  # noqa: F401
from modules.sd_hijack import model_hijack
from modules.shared import cmd_opts, opts, state


def _other_checkpoint_wanted(overrides: dict[str, Any]) -> bool:
    return overrides.get("sd_model_checkpoint") in sd_models.checkpoint_aliases


def _apply_overrides(overrides: dict[str, Any]) -> None:
    """Change the settings; a checkpoint among them is loaded in its turn, one that does not exist is dropped."""
    if not _other_checkpoint_wanted(overrides):
        overrides.pop("sd_model_checkpoint", None)
        sd_models.reload_model_weights()  # a refiner may still be loaded from last time
    for name in overrides:
        opts.set(name, overrides[name], is_api=True, run_callbacks=False)
        if name == "sd_model_checkpoint":
            sd_models.reload_model_weights()


@contextmanager
def _overrides_in_force(p: StableDiffusionProcessing) -> Iterator[None]:
    """Inside, the settings are as `p` wants them; afterwards as before, if `p` wants that as well."""
    # The real host forgets to restore settings that were never saved; here those go back to their default too.
    known = [name for name in p.override_settings if name in opts.data or name in opts.data_labels]
    before = [(name, opts.data.get(name, opts.get_default(name))) for name in known]
    try:
        _apply_overrides(p.override_settings)
        family.current.bring_model(p)
        yield
    finally:
        for name, value in before if p.override_settings_restore_afterwards else ():
            setattr(opts, name, value)


def process_images(p: StableDiffusionProcessing) -> Processed:
    """Make the images of `p`, with its `override_settings` in force meanwhile."""
    if p.scripts is not None:
        p.scripts.before_process(p)
    with _overrides_in_force(p):
        sd_samplers.fix_p_invalid_sampler_and_scheduler(p)
        return process_images_inner(p)


def _prepare(p: StableDiffusionProcessing) -> None:
    """Everything that is settled before scripts see the job: seeds, prompts, the model's name."""
    seed, subseed = (x if isinstance(x, list) else get_fixed_seed(x) for x in (p.seed, p.subseed))
    p.restore_faces = bool(p.restore_faces)
    p.tiling = opts.tiling if p.tiling is None else p.tiling
    if p.refiner_checkpoint not in (None, "", "None", "none"):
        p.refiner_checkpoint_info = sd_models.get_closet_checkpoint_match(p.refiner_checkpoint)
        if p.refiner_checkpoint_info is None:
            raise ValueError(f"there is no checkpoint {p.refiner_checkpoint}")
    p.sd_model_name = shared.sd_model.sd_checkpoint_info.name_for_extra
    p.sd_model_hash = shared.sd_model.sd_model_hash
    model_hijack.apply_circular(p.tiling)
    model_hijack.clear_comments()
    p.fill_fields_from_opts()
    p.setup_prompts()
    count = len(p.all_prompts)
    varied = 0 if p.subseed_strength != 0 else 1
    p.all_seeds = seed if isinstance(seed, list) else [seed + i * varied for i in range(count)]
    p.all_subseeds = subseed if isinstance(subseed, list) else [subseed + i for i in range(count)]


def process_images_inner(p: StableDiffusionProcessing) -> Processed:
    """The job: all batches, one after the other, then the result for the scripts to finish."""
    devices.torch_gc()
    _prepare(p)
    if p.scripts is not None:
        p.scripts.process(p)
    infotexts: list[str] = []
    output_images: list[Image.Image] = []
    with family.current.guard(p):
        with devices.autocast():
            p.init(p.all_prompts, p.all_seeds, p.all_subseeds)
        state.job_count = p.n_iter if state.job_count == -1 else state.job_count
        for n in range(p.n_iter):
            state.skipped, p.iteration = False, n
            if state.interrupted or state.stopping_generation or not _begin_batch(p, n):
                break
            samples = _sample_batch(p, n)
            _finish_batch(p, n, samples, output_images, infotexts)
    if not infotexts:
        infotexts.append(Processed(p, []).infotext(p, 0))
    p.color_corrections = None
    index_of_first_image = _add_grid(p, output_images, infotexts)
    if not p.disable_extra_networks and p.extra_network_data:
        extra_networks.deactivate(p, p.extra_network_data)
    devices.torch_gc()
    result = Processed(
        p, images_list=output_images, seed=p.all_seeds[0], info=infotexts[0], subseed=p.all_subseeds[0],
        index_of_first_image=index_of_first_image, infotexts=infotexts)
    if p.scripts is not None:
        p.scripts.postprocess(p, result)
    return result


def _take_batch(p: StableDiffusionProcessing, n: int) -> None:
    batch = slice(n * p.batch_size, (n + 1) * p.batch_size)
    p.prompts = p.all_prompts[batch]
    p.negative_prompts = p.all_negative_prompts[batch]
    p.seeds = p.all_seeds[batch]
    p.subseeds = p.all_subseeds[batch]


def _call_batch_hook(p: StableDiffusionProcessing, name: str, n: int) -> None:
    """One of the two hooks that see what a batch is made of."""
    if p.scripts is None:
        return
    made_of = {field: getattr(p, field) for field in ("prompts", "seeds", "subseeds")}
    getattr(p.scripts, name)(p, batch_number=n, **made_of)


def _note_encoding(p: StableDiffusionProcessing, n: int) -> None:
    """What encoding the prompts has left to tell: to the infotext, the user, the page and the file of last prompts."""
    p.extra_generation_params.update(model_hijack.extra_generation_params)
    if not (n or cmd_opts.no_prompt_history):
        Path(paths.data_path, "params.txt").write_text(Processed(p, []).infotext(p, 0), encoding="utf8")
    for remark in model_hijack.comments:
        p.comment(remark)
    if p.n_iter > 1:
        state.job = f"Batch {n + 1} of {p.n_iter}"


def _begin_batch(p: StableDiffusionProcessing, n: int) -> bool:
    """Tags, networks, prompts of one batch, up to where it can be sampled; False if there is nothing to do."""
    family.current.bring_model_back()
    family.current.begin_batch(p)
    _take_batch(p, n)
    channels = getattr(shared.sd_model, "latent_channels", opt_C)
    p.rng = rng.ImageRNG(
        (channels, p.height // opt_f, p.width // opt_f), p.seeds, subseeds=p.subseeds,
        subseed_strength=p.subseed_strength, seed_resize_from_h=p.seed_resize_from_h,
        seed_resize_from_w=p.seed_resize_from_w)
    _call_batch_hook(p, "before_process_batch", n)
    if not p.prompts:
        return False
    p.parse_extra_network_prompts()
    p.activate_extra_networks(p.extra_network_data)
    family.current.use_networks(p)
    _call_batch_hook(p, "process_batch", n)
    p.setup_conds()
    _note_encoding(p, n)
    sd_models.apply_alpha_schedule_override(p.sd_model, p)
    return True


def _sample_batch(p: StableDiffusionProcessing, n: int) -> torch.Tensor:
    """Sample and decode one batch; the images as one tensor in 0..1."""
    with devices.without_autocast() if devices.unet_needs_upcast else devices.autocast():
        samples = p.sample(
            conditioning=p.c, unconditional_conditioning=p.uc, seeds=p.seeds, subseeds=p.subseeds,
            subseed_strength=p.subseed_strength, prompts=p.prompts)
    if p.scripts is not None:
        ps = scripts.PostSampleArgs(samples)
        p.scripts.post_sample(p, ps)
        samples = ps.samples
    if not getattr(samples, "already_decoded", False):
        devices.test_for_nans(samples, "unet")
        samples = decode_latent_batch(p.sd_model, samples, target_device=devices.cpu, check_for_nans=True)
    decoded = torch.clamp((torch.stack(list(samples)).float() + 1.0) / 2.0, 0.0, 1.0)
    if lowvram.is_enabled(shared.sd_model):
        lowvram.send_everything_to_cpu()
    devices.torch_gc()
    state.nextjob()
    return decoded


def _finish_batch(p, n: int, decoded: torch.Tensor, output_images: list, infotexts: list) -> None:
    """From tensors to images: hooks, overlay, files; appends to the two lists."""
    if p.scripts is not None:
        p.scripts.postprocess_batch(p, decoded, batch_number=n)
        # Scripts see the prompts with their tags again from here on, and so does the infotext.
        p.prompts = p.all_prompts[n * p.batch_size:(n + 1) * p.batch_size]
        p.negative_prompts = p.all_negative_prompts[n * p.batch_size:(n + 1) * p.batch_size]
        batch_params = scripts.PostprocessBatchListArgs(list(decoded))
        p.scripts.postprocess_batch_list(p, batch_params, batch_number=n)
        decoded = batch_params.images
    save = p.save_samples()
    for i, sample in enumerate(decoded):
        p.batch_index = i
        pixels = 255.0 * np.moveaxis(sample.cpu().numpy(), 0, 2)
        image, mask, denoised = _composite(p, i, Image.fromarray(pixels.astype(np.uint8)))
        text = create_infotext(
            p, p.prompts, p.seeds, p.subseeds, index=i, all_negative_prompts=p.negative_prompts)

        def save_as(picture, suffix="", i=i, text=text):
            images.save_image(
                picture, p.outpath_samples or opts.outdir_samples or opts.outdir_txt2img_samples, "", p.seeds[i],
                p.prompts[i], opts.samples_format, info=text, p=p, suffix=suffix)

        if save:
            save_as(image)
        _hand_out(image, text, output_images, infotexts)
        if mask is not None:
            _add_masks(mask, denoised, image, output_images, save_as if save else None)


def _hand_out(image: Image.Image, text: str, output_images: list, infotexts: list, at: int | None = None) -> None:
    """Put an image and its infotext into the lists: at a place, or else last."""
    if opts.enable_pnginfo:
        image.info["parameters"] = text
    for into, thing in ((infotexts, text), (output_images, image)):
        into.insert(len(into) if at is None else at, thing)


def _composite(p, i: int, image: Image.Image) -> tuple[Image.Image, Image.Image | None, Image.Image]:
    """Run the hooks for one image, and lay the unmasked original over it.

    Returns:
        The image, its mask or None, and the image as it was made.
    """
    overlays = getattr(p, "overlay_images", None) or []
    overlay = overlays[i] if opts.overlay_inpaint and i < len(overlays) else None
    mask = getattr(p, "mask_for_overlay", None)
    if p.scripts is not None:
        pp = scripts.PostprocessImageArgs(image)
        p.scripts.postprocess_image(p, pp)
        ppmo = scripts.PostProcessMaskOverlayArgs(i, mask, overlay)
        p.scripts.postprocess_maskoverlay(p, ppmo)
        image, mask, overlay = pp.image, ppmo.mask_for_overlay, ppmo.overlay_image
    denoised = image
    if overlay is not None:
        if p.paste_to is not None:
            left, top, width, height = p.paste_to
            whole = Image.new("RGBA", overlay.size)
            whole.paste(images.resize_image(1, image, width, height), (left, top))
            image = denoised = whole
        image = Image.alpha_composite(image.convert("RGBA"), overlay).convert("RGB")
    if p.scripts is not None:
        finished = scripts.PostprocessImageArgs(image)
        p.scripts.postprocess_image_after_composite(p, finished)
        image = finished.image
    return image, mask, denoised


def _add_masks(mask, denoised, image, output_images: list, save_as) -> None:
    """The mask, and what was made under it, as further images, where the settings want them."""
    composite = Image.composite(
        denoised.convert("RGBA").convert("RGBa"), Image.new("RGBa", image.size),
        images.resize_image(2, mask, image.width, image.height).convert("L")).convert("RGBA")
    for picture, wanted, saved, suffix in (
        (mask.convert("RGB"), opts.return_mask, opts.save_mask, "-mask"),
        (composite, opts.return_mask_composite, opts.save_mask_composite, "-mask-composite"),
    ):
        if saved and save_as is not None:
            save_as(picture, suffix)
        if wanted:
            output_images.append(picture)


def _add_grid(p, output_images: list, infotexts: list) -> int:
    """Put the grid before the images, if wanted; returns the index of the first image after it."""
    single = len(output_images) < 2 and opts.grid_only_if_multiple
    wanted = (opts.return_grid or opts.grid_save) and not p.do_not_save_grid
    if not wanted or single or not output_images:
        return 0
    grid = images.image_grid(output_images, p.batch_size)
    text = create_infotext(p, p.prompts, p.seeds, p.subseeds, use_main_prompt=True)
    if opts.grid_save:
        images.save_image(
            grid, p.outpath_grids or opts.outdir_grids or opts.outdir_txt2img_grids, "grid", p.all_seeds[0],
            p.all_prompts[0], opts.grid_format, info=text, short_filename=not opts.grid_extended_filename, p=p,
            grid=True)
    if not opts.return_grid:
        return 0
    _hand_out(grid, text, output_images, infotexts, at=0)
    return 1
