"""Every setting of the host itself. Extensions add theirs through `shared.options_templates` or `opts.add_option`."""

from __future__ import annotations

import gradio as gr

from modules.options import OptionInfo, categories, options_section

restricted_opts = {
    "samples_filename_pattern", "directories_filename_pattern", "outdir_samples", "outdir_txt2img_samples",
    "outdir_img2img_samples", "outdir_grids", "outdir_txt2img_grids", "outdir_img2img_grids", "outdir_init_images",
}
options_templates: dict[str, OptionInfo] = {}

for _id, _label in {
    "saving": "Saving images", "sd": "Stable Diffusion", "ui": "User Interface", "system": "System",
}.items():
    categories.register_category(_id, _label)


def _slider(default, label, low, high, step, **kwargs) -> OptionInfo:
    return OptionInfo(default, label, gr.Slider, {"minimum": low, "maximum": high, "step": step}, **kwargs)


def _radio(default, label, choices, **kwargs) -> OptionInfo:
    return OptionInfo(default, label, gr.Radio, {"choices": choices}, **kwargs)


def _languages() -> dict:
    from modules import localization

    return {"choices": ["None", *localization.localizations]}


def _checkpoint_choices() -> dict:
    from modules import sd_models

    return {"choices": sd_models.checkpoint_tiles()}


def _refresh_checkpoints() -> None:
    from modules import sd_models

    sd_models.list_models()


def _sampler_choices() -> dict:
    from modules import sd_samplers

    return {"choices": [sampler.name for sampler in sd_samplers.all_samplers]}


def _all_setting_names() -> dict:
    from modules import shared

    return {"choices": list(shared.opts.data_labels), "multiselect": True}


options_templates.update(options_section(("saving-images", "Saving images/grids", "saving"), {
    "samples_save": OptionInfo(True, "Save every image"),
    "samples_format": OptionInfo("png", "File format of images"),
    "samples_filename_pattern": OptionInfo("", "File name pattern"),
    "save_images_add_number": OptionInfo(True, "Put a number before the file name"),
    "grid_save": OptionInfo(True, "Save every grid"),
    "grid_format": OptionInfo("png", "File format of grids"),
    "grid_extended_filename": OptionInfo(False, "Seed and prompt in the file name of a grid"),
    "grid_only_if_multiple": OptionInfo(True, "No grid for a single image"),
    "grid_prevent_empty_spots": OptionInfo(False, "Choose a grid without empty places"),
    "grid_text_active_color": OptionInfo("#000000", "Text in grids"),
    "grid_text_inactive_color": OptionInfo("#999999", "Text in grids that is crossed out"),
    "grid_background_color": OptionInfo("#ffffff", "Background of grids"),
    "img_max_size_mp": OptionInfo(200, "Largest grid, in megapixels"),
    "n_rows": _slider(-1, "Rows of a grid; -1 decides by itself, 0 takes the batch size", -1, 16, 1),
    "save_images_before_highres_fix": OptionInfo(False, "Also save the image before the hires pass"),
    "save_mask": OptionInfo(False, "Save the mask of an inpainted image"),
    "save_mask_composite": OptionInfo(False, "Save the masked part of an inpainted image"),
    "jpeg_quality": _slider(80, "JPEG quality", 1, 100, 1),
    "webp_lossless": OptionInfo(False, "Lossless webp"),
    "save_init_img": OptionInfo(False, "Save the images that img2img starts from"),
    "save_incomplete_images": OptionInfo(False, "Save images that were interrupted"),
    "save_images_replace_action": _radio("Replace", "An existing file", ["Replace", "Add number suffix"]),
}))

options_templates.update(options_section(("saving-paths", "Paths for saving", "saving"), {
    "outdir_samples": OptionInfo("", "Folder for all images; empty for the folders below"),
    "outdir_txt2img_samples": OptionInfo("outputs/txt2img-images", "Folder for txt2img images"),
    "outdir_img2img_samples": OptionInfo("outputs/img2img-images", "Folder for img2img images"),
    "outdir_grids": OptionInfo("", "Folder for all grids; empty for the folders below"),
    "outdir_txt2img_grids": OptionInfo("outputs/txt2img-grids", "Folder for txt2img grids"),
    "outdir_img2img_grids": OptionInfo("outputs/img2img-grids", "Folder for img2img grids"),
    "outdir_init_images": OptionInfo("outputs/init-images", "Folder for the images that img2img starts from"),
}))

options_templates.update(options_section(("saving-to-dirs", "Subfolders", "saving"), {
    "save_to_dirs": OptionInfo(True, "Save images into subfolders"),
    "grid_save_to_dirs": OptionInfo(True, "Save grids into subfolders"),
    "directories_filename_pattern": OptionInfo("[date]", "Name pattern of subfolders"),
}))

options_templates.update(options_section(("system", "System", "system"), {
    "samples_log_stdout": OptionInfo(False, "Print the parameters of every image"),
    "multiple_tqdm": OptionInfo(True, "Progress bar for the whole job"),
    "list_hidden_files": OptionInfo(True, "Load models from hidden folders"),
    "show_warnings": OptionInfo(False, "Show warnings"),
    "memmon_poll_rate": _slider(8, "Memory readings a second", 0, 40, 1),
}))

options_templates.update(options_section(("API", "API", "system"), {
    "api_enable_requests": OptionInfo(True, "Input images may be given as URLs", restrict_api=True),
    "api_forbid_local_requests": OptionInfo(True, "No URLs of this machine", restrict_api=True),
    "api_useragent": OptionInfo("", "User agent for such requests", restrict_api=True),
}))

options_templates.update(options_section(("sd", "Stable Diffusion", "sd"), {
    "sd_model_checkpoint": OptionInfo(
        None, "Stable Diffusion checkpoint", gr.Dropdown, _checkpoint_choices, refresh=_refresh_checkpoints,
        infotext="Model hash"),
    "sd_checkpoints_limit": _slider(1, "Checkpoints kept loaded at the same time", 1, 10, 1),
    "sd_checkpoints_keep_in_cpu": OptionInfo(True, "Only the current checkpoint on the GPU"),
    "sd_checkpoint_cache": _slider(0, "Checkpoint files kept in memory", 0, 10, 1),
    "sd_unet": OptionInfo("Automatic", "U-Net"),
    "enable_quantization": OptionInfo(False, "Round noise levels to the model's own"),
    "emphasis": OptionInfo("Original", "Emphasis", infotext="Emphasis"),
    "enable_batch_seeds": OptionInfo(True, "Images of a batch equal those made alone"),
    "comma_padding_backtrack": _slider(20, "Tokens to look back for a comma", 0, 74, 1),
    "sdxl_clip_l_skip": OptionInfo(False, "Clip skip for SDXL"),
    "CLIP_stop_at_last_layers": _slider(1, "Clip skip", 1, 12, 1, infotext="Clip skip"),
    "upcast_attn": OptionInfo(False, "Attention in float32"),
    "randn_source": _radio("CPU", "Source of random numbers", ["GPU", "CPU"], infotext="RNG"),
    "tiling": OptionInfo(False, "Tiling", infotext="Tiling"),
    "hires_fix_refiner_pass": _radio(
        "second pass", "Passes that the refiner works in", ["first pass", "second pass", "both passes"],
        infotext="Hires refiner"),
}))

options_templates.update(options_section(("sdxl", "Stable Diffusion XL", "sd"), {
    "sdxl_crop_top": OptionInfo(0, "Crop, top"),
    "sdxl_crop_left": OptionInfo(0, "Crop, left"),
    "sdxl_refiner_low_aesthetic_score": OptionInfo(2.5, "Refiner's low aesthetic score", gr.Number),
    "sdxl_refiner_high_aesthetic_score": OptionInfo(6.0, "Refiner's high aesthetic score", gr.Number),
}))

options_templates.update(options_section(("vae", "VAE", "sd"), {
    "sd_vae": OptionInfo("Automatic", "SD VAE", infotext="VAE"),
    "sd_vae_encode_method": _radio("Full", "Encoder", ["Full"], infotext="VAE Encoder"),
    "sd_vae_decode_method": _radio("Full", "Decoder", ["Full"], infotext="VAE Decoder"),
}))

options_templates.update(options_section(("img2img", "img2img", "sd"), {
    "inpainting_mask_weight": _slider(
        1.0, "Strength of the mask in inpainting models", 0.0, 1.0, 0.01, infotext="Conditional mask weight"),
    "initial_noise_multiplier": _slider(1.0, "Noise multiplier", 0.0, 1.5, 0.001, infotext="Noise multiplier"),
    "img2img_extra_noise": _slider(0.0, "Extra noise", 0.0, 1.0, 0.01, infotext="Extra noise"),
    "img2img_color_correction": OptionInfo(False, "Correct colours after img2img"),
    "img2img_fix_steps": OptionInfo(False, "img2img does exactly the number of steps asked for"),
    "img2img_background_color": OptionInfo("#ffffff", "Colour behind transparent parts"),
    "overlay_inpaint": OptionInfo(True, "Put the unmasked part of the original over an inpainted image"),
    "return_mask": OptionInfo(False, "Show the mask"),
    "return_mask_composite": OptionInfo(False, "Show the masked part"),
    "upscaler_for_img2img": OptionInfo(None, "Upscaler for img2img"),
}))

options_templates.update(options_section(("optimizations", "Optimizations", "sd"), {
    "cross_attention_optimization": OptionInfo("Automatic", "Cross attention optimization"),
    "s_min_uncond": _slider(0.0, "Skip the negative prompt below this noise level", 0.0, 15.0, 0.01, infotext="NGMS"),
    "s_min_uncond_all": OptionInfo(False, "The same in every step", infotext="NGMS all steps"),
    "token_merging_ratio": _slider(0.0, "Token merging ratio", 0.0, 0.9, 0.1, infotext="Token merging ratio"),
    "token_merging_ratio_img2img": _slider(0.0, "The same for img2img", 0.0, 0.9, 0.1),
    "token_merging_ratio_hr": _slider(
        0.0, "The same for the hires pass", 0.0, 0.9, 0.1, infotext="Token merging ratio hr"),
    "pad_cond_uncond": OptionInfo(False, "Pad prompt and negative prompt to one length", infotext="Pad conds"),
    "pad_cond_uncond_v0": OptionInfo(False, "The same by the old way", infotext="Pad conds v0"),
    "persistent_cond_cache": OptionInfo(True, "Keep encoded prompts from one image to the next"),
    "batch_cond_uncond": OptionInfo(True, "Prompt and negative prompt in one model call"),
    "fp8_storage": _radio("Disable", "FP8 weight", ["Disable", "Enable for SDXL", "Enable"]),
    "cache_fp16_weight": OptionInfo(False, "Keep float16 weights beside FP8, for LoRA"),
}))

options_templates.update(options_section(("compatibility", "Compatibility", "sd"), {
    "auto_backcompat": OptionInfo(True, "Follow the version named in a pasted infotext"),
    "use_old_karras_scheduler_sigmas": OptionInfo(False, "Karras schedule from 10 to 0.1"),
    "no_dpmpp_sde_batch_determinism": OptionInfo(False, "DPM++ SDE depends on the batch size"),
    "use_old_hires_fix_width_height": OptionInfo(False, "Width and height are those after the hires pass"),
    "hires_fix_use_firstpass_conds": OptionInfo(
        False, "The hires pass's prompts are encoded with the first pass's networks"),
    "use_old_scheduling": OptionInfo(
        False, "Old timelines for [a:b:N]", infotext="Old prompt editing timelines"),
    "use_downcasted_alpha_bar": OptionInfo(False, "Round alphas to float16", infotext="Downcast alphas_cumprod"),
    "refiner_switch_by_sample_steps": OptionInfo(
        False, "Switch to the refiner by step, not by timestep", infotext="Refiner switch by sampling steps"),
}))

options_templates.update(options_section(("extra_networks", "Extra Networks", "sd"), {
    "extra_networks_default_multiplier": _slider(1.0, "Strength of an inserted network", 0.0, 2.0, 0.01),
    "extra_networks_add_text_separator": OptionInfo(" ", "Text before an inserted network"),
    "extra_networks_show_hidden_directories": OptionInfo(True, "Show hidden directories"),
    "extra_networks_card_order_field": OptionInfo("Path", "Order of cards"),
    "extra_networks_card_order": OptionInfo("Ascending", "Direction of that order"),
    "textual_inversion_add_hashes_to_infotext": OptionInfo(True, "Embeddings' hashes in the infotext"),
    "sd_hypernetwork": OptionInfo("None", "A hypernetwork for every prompt"),
}))

options_templates.update(options_section(("ui_gallery", "Gallery", "ui"), {
    "return_grid": OptionInfo(True, "Show the grid"),
    "do_not_show_images": OptionInfo(False, "Hide the images"),
}))

options_templates.update(options_section(("ui", "User interface", "ui"), {
    "localization": OptionInfo("None", "Language", gr.Dropdown, _languages),
    "quicksettings_list": OptionInfo(["sd_model_checkpoint"], "Settings at the top", gr.Dropdown, _all_setting_names),
    "hidden_tabs": OptionInfo([], "Hidden tabs"),
    "ui_tab_order": OptionInfo([], "Order of tabs"),
    "ui_reorder_list": OptionInfo([], "Order of parts in txt2img and img2img"),
    "send_seed": OptionInfo(True, "Send the seed to another tab too"),
    "send_size": OptionInfo(True, "Send the size to another tab too"),
    "enable_reloading_ui_scripts": OptionInfo(False, "Reload UI also reloads the page's modules"),
    "disable_token_counters": OptionInfo(False, "No token counters"),
    "interrupt_after_current": OptionInfo(True, "Interrupt after the current image"),
    "hires_fix_show_sampler": OptionInfo(False, "A sampler for the hires pass"),
    "hires_fix_show_prompts": OptionInfo(False, "Prompts for the hires pass"),
    "keyedit_precision_attention": OptionInfo(0.1, "Step of (attention:1.1) when edited by keys"),
    "keyedit_precision_extra": OptionInfo(0.05, "Step of <extra networks:0.9> when edited by keys"),
}))

options_templates.update(options_section(("infotext", "Infotext", "ui"), {
    "enable_pnginfo": OptionInfo(True, "Write parameters into images"),
    "save_txt": OptionInfo(False, "Write parameters into a text file too"),
    "add_model_name_to_info": OptionInfo(True, "Model name"),
    "add_model_hash_to_info": OptionInfo(True, "Model hash"),
    "add_vae_name_to_info": OptionInfo(True, "VAE name"),
    "add_vae_hash_to_info": OptionInfo(True, "VAE hash"),
    "add_user_name_to_info": OptionInfo(False, "User name"),
    "add_version_to_infotext": OptionInfo(True, "Version"),
    "disable_weights_auto_swap": OptionInfo(True, "Ignore the checkpoint of a pasted infotext"),
    "infotext_skip_pasting": OptionInfo([], "Ignore these fields of a pasted infotext"),
    "infotext_styles": _radio(
        "Apply if any", "Styles in pasted prompts", ["Ignore", "Apply", "Discard", "Apply if any"]),
}))

options_templates.update(options_section(("ui", "Live previews", "ui"), {
    "show_progressbar": OptionInfo(True, "Progress bar"),
    "live_previews_enable": OptionInfo(True, "Show the image while it is made"),
    "live_previews_image_format": _radio("png", "File format", ["jpeg", "png", "webp"]),
    "show_progress_grid": OptionInfo(True, "Show all images of a batch"),
    "show_progress_every_n_steps": _slider(10, "Steps between previews; -1 for after each batch only", -1, 32, 1),
    "show_progress_type": _radio("Full", "Preview method", ["Full"]),
    "live_preview_allow_lowvram_full": OptionInfo(False, "Full previews with lowvram too"),
    "live_preview_content": _radio("Prompt", "Preview of", ["Combined", "Prompt", "Negative prompt"]),
    "live_preview_refresh_period": OptionInfo(1000, "Milliseconds between updates"),
    "live_preview_fast_interrupt": OptionInfo(False, "Return the preview on interrupt"),
}))

options_templates.update(options_section(("sampler-params", "Sampler parameters", "sd"), {
    "hide_samplers": OptionInfo([], "Hidden samplers", gr.CheckboxGroup, _sampler_choices),
    "eta_ddim": _slider(0.0, "Eta of DDIM", 0.0, 1.0, 0.01, infotext="Eta DDIM"),
    "eta_ancestral": _slider(1.0, "Eta of ancestral samplers", 0.0, 1.0, 0.01, infotext="Eta"),
    "ddim_discretize": _radio("uniform", "img2img DDIM discretize", ["uniform", "quad"]),
    "s_churn": _slider(0.0, "sigma churn", 0.0, 100.0, 0.01, infotext="Sigma churn"),
    "s_tmin": _slider(0.0, "sigma tmin", 0.0, 10.0, 0.01, infotext="Sigma tmin"),
    "s_tmax": _slider(0.0, "sigma tmax", 0.0, 999.0, 0.01, infotext="Sigma tmax"),
    "s_noise": _slider(1.0, "sigma noise", 0.0, 1.1, 0.001, infotext="Sigma noise"),
    "sigma_min": OptionInfo(0.0, "sigma min", gr.Number, infotext="Schedule min sigma"),
    "sigma_max": OptionInfo(0.0, "sigma max", gr.Number, infotext="Schedule max sigma"),
    "rho": OptionInfo(0.0, "rho", gr.Number, infotext="Schedule rho"),
    "eta_noise_seed_delta": OptionInfo(
        0, "Added to the seed of noise within a pass", gr.Number, {"precision": 0}, infotext="ENSD"),
    "always_discard_next_to_last_sigma": OptionInfo(
        False, "Leave out the last noise level but one", infotext="Discard penultimate sigma"),
    "sgm_noise_multiplier": OptionInfo(False, "SGM noise multiplier", infotext="SGM noise multiplier"),
    "uni_pc_variant": _radio("bh1", "UniPC variant", ["bh1", "bh2"], infotext="UniPC variant"),
    "uni_pc_skip_type": _radio("time_uniform", "UniPC skip type", ["time_uniform"], infotext="UniPC skip type"),
    "uni_pc_order": _slider(3, "UniPC order", 1, 50, 1, infotext="UniPC order"),
    "uni_pc_lower_order_final": OptionInfo(True, "UniPC ends in a lower order", infotext="UniPC lower order final"),
    "sd_noise_schedule": _radio("Default", "Noise schedule", ["Default"], infotext="Noise Schedule"),
    "skip_early_cond": _slider(0.0, "Part of the steps without negative prompt", 0.0, 1.0, 0.01,
                               infotext="Skip Early CFG"),
}))

options_templates.update(options_section((None, "Hidden options"), {
    "disabled_extensions": OptionInfo([], "Disable these extensions"),
    "disable_all_extensions": _radio("none", "Disable all extensions", ["none", "extra", "all"]),
    "restore_config_state_file": OptionInfo("", "Configuration to restore"),
    "sd_checkpoint_hash": OptionInfo("", "SHA256 of the checkpoint"),
}))
