"""What Generate on the txt2img tab runs."""

from __future__ import annotations

from contextlib import closing

import gradio as gr

from modules import processing, scripts, shared
from modules.infotext_utils import create_override_settings_dict
from modules.shared import opts
from modules.ui_common import plaintext_to_html

_SAME = {"Use same checkpoint", "Use same sampler", "Use same scheduler"}

# The page's inputs after the task, in their order; scripts' arguments follow.
FIELDS = (
    "prompt", "negative_prompt", "styles", "n_iter", "batch_size", "cfg_scale", "height", "width", "enable_hr",
    "denoising_strength", "hr_scale", "hr_upscaler", "hr_second_pass_steps", "hr_resize_x", "hr_resize_y",
    "hr_checkpoint_name", "hr_sampler_name", "hr_scheduler", "hr_prompt", "hr_negative_prompt", "override_settings",
)


def txt2img_create_processing(request: gr.Request, *args) -> processing.StableDiffusionProcessingTxt2Img:
    values = dict(zip(FIELDS, args, strict=False))
    for name in ("hr_checkpoint_name", "hr_sampler_name", "hr_scheduler"):
        values[name] = None if values[name] in _SAME else values[name]
    values["override_settings"] = create_override_settings_dict(values["override_settings"])
    p = processing.StableDiffusionProcessingTxt2Img(
        sd_model=shared.sd_model,
        outpath_samples=opts.outdir_samples or opts.outdir_txt2img_samples,
        outpath_grids=opts.outdir_grids or opts.outdir_txt2img_grids,
        **values)
    p.scripts = scripts.scripts_txt2img
    p.script_args = args[len(FIELDS):]
    p.user = request.username
    return p


def run_on_page(p, runner) -> tuple:
    """Run the script from the menu, or else an ordinary generation; returns what the output panel shows."""
    with closing(p):
        processed = runner.run(p, *p.script_args)
        if processed is None:
            processed = processing.process_images(p)
    shared.total_tqdm.clear()
    generation_info = processed.js()
    if opts.samples_log_stdout:
        print(generation_info)
    images = [] if opts.do_not_show_images else processed.images
    comments = plaintext_to_html(processed.comments, classname="comments")
    return images, generation_info, plaintext_to_html(processed.info), comments


def txt2img(id_task: str, request: gr.Request, *args) -> tuple:
    return run_on_page(txt2img_create_processing(request, *args), scripts.scripts_txt2img)
