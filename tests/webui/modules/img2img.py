"""What Generate on the img2img tab runs."""

from __future__ import annotations

import gradio as gr
from PIL import ImageOps

from modules import processing, scripts, shared
from modules.infotext_utils import create_override_settings_dict
from modules.shared import opts
from modules.txt2img import run_on_page

# The page's inputs after the task, in their order; scripts' arguments follow.
FIELDS = (
    "mode", "prompt", "negative_prompt", "styles", "init_img", "init_img_inpaint", "init_mask_inpaint", "mask_blur",
    "inpainting_fill", "n_iter", "batch_size", "cfg_scale", "denoising_strength", "height", "width", "resize_mode",
    "inpaint_full_res", "inpaint_full_res_padding", "inpainting_mask_invert", "override_settings",
)
MODE_INPAINT_UPLOAD = 1


def img2img(id_task: str, request: gr.Request, *args) -> tuple:
    values = dict(zip(FIELDS, args, strict=False))
    image, image_inpaint = values.pop("init_img"), values.pop("init_img_inpaint")
    mask = values.pop("init_mask_inpaint")
    if values.pop("mode") == MODE_INPAINT_UPLOAD:
        image = image_inpaint
    else:
        mask = None
    if image is None:
        raise ValueError("img2img needs an image to start from")
    values["override_settings"] = create_override_settings_dict(values["override_settings"])

    p = processing.StableDiffusionProcessingImg2Img(
        sd_model=shared.sd_model,
        outpath_samples=opts.outdir_samples or opts.outdir_img2img_samples,
        outpath_grids=opts.outdir_grids or opts.outdir_img2img_grids,
        init_images=[ImageOps.exif_transpose(image)],
        mask=mask,
        **values)
    p.scripts = scripts.scripts_img2img
    p.script_args = args[len(FIELDS):]
    p.user = request.username
    return run_on_page(p, scripts.scripts_img2img)
