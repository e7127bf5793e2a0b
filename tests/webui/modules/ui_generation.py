"""The txt2img and img2img tabs: the panel on the left, the images on the right, and what connects them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import gradio as gr

from modules import extra_networks, img2img, scripts, sd_hijack, sd_models, sd_samplers, sd_schedulers, shared, txt2img
from modules import infotext_utils as parameters_copypaste
from modules.call_queue import wrap_gradio_gpu_call, wrap_queued_call
from modules.infotext_utils import PasteField
from modules.script_callbacks import BeforeTokenCounterParams, before_token_counter_callback
from modules.shared import opts
from modules.ui_common import create_output_panel
from modules.ui_components import FormGroup, FormRow, InputAccordion, ResizeHandleRow, ToolButton
from modules.ui_toprow import Toprow

CATEGORIES = (
    "prompt", "image", "inpaint", "sampler", "accordions", "checkboxes", "dimensions", "cfg", "denoising", "seed",
    "batch", "override_settings",
)
# The real host's page starts at 512, which takes this one half a minute on a CPU.
DEFAULT_SIZE = 128


def ordered_ui_categories() -> Iterator[str]:
    """The panel's parts from top to bottom: the user's order first, sections of extensions and scripts at the end."""
    every = scripts.scripts_txt2img.scripts + scripts.scripts_img2img.scripts
    further = dict.fromkeys(script.section for script in every if script.section and script.section not in CATEGORIES)
    names = [*CATEGORIES, *further, "scripts"]
    user_order = {name.strip(): index * 2 + 1 for index, name in enumerate(opts.ui_reorder_list)}
    return iter(sorted(names, key=lambda name: user_order.get(name, names.index(name) * 2)))


def update_token_counter(text: str, steps: int, styles: list[str]) -> str:
    params = BeforeTokenCounterParams(text, steps, styles)
    before_token_counter_callback(params)
    prompt, _ = extra_networks.parse_prompt(params.prompt)
    count, limit = sd_hijack.model_hijack.get_prompt_lengths(prompt)
    return f"<span class='gr-box gr-text-input'>{count}/{limit}</span>"


class GenerationTab:
    """What the two tabs have in common. Component names in `self.fields` are parameters of the processing object."""

    tabname: str
    default_denoising: float
    function: Callable
    field_order: tuple[str, ...]
    javascript: str

    def __init__(self):
        self.is_img2img = self.tabname == "img2img"
        self.runner = scripts.scripts_img2img if self.is_img2img else scripts.scripts_txt2img
        self.fields: dict[str, gr.components.Component] = {}
        scripts.scripts_current = self.runner
        self.runner.initialize_scripts(is_img2img=self.is_img2img)
        with gr.Blocks(analytics_enabled=False) as self.interface:
            self.toprow = Toprow(is_img2img=self.is_img2img)
            self.dummy_component = gr.Label(visible=False)
            self.fields |= {
                "prompt": self.toprow.prompt, "negative_prompt": self.toprow.negative_prompt,
                "styles": self.toprow.styles,
            }
            with (
                gr.Tabs(elem_id=f"{self.tabname}_extra_tabs"),
                gr.Tab("Generation", id=f"{self.tabname}_generation"),
                ResizeHandleRow(equal_height=False),
            ):
                with gr.Column(variant="compact", elem_id=f"{self.tabname}_settings"):
                    self._create_panel()
                self.output = create_output_panel(self.tabname, getattr(opts, f"outdir_{self.tabname}_samples"))
            self._connect()

    def elem(self, name: str) -> str:
        return f"{self.tabname}_{name}"

    def slider(self, field: str, label: str, name: str, low: float, high: float, step: float, value: float) -> None:
        self.fields[field] = gr.Slider(
            label=label, elem_id=self.elem(name), minimum=low, maximum=high, step=step, value=value)

    def _create_panel(self) -> None:
        self.runner.prepare_ui()
        for category in ordered_ui_categories():
            if category == "scripts":
                with FormGroup(elem_id=self.elem("script_container")):
                    self.script_inputs = self.runner.setup_ui()
            else:
                getattr(self, f"create_{category}", lambda: None)()
            if category != "accordions":  # these are inside of the category's own row
                self.runner.setup_ui_for_section(category)

    def create_accordions(self) -> None:
        with gr.Row(elem_id=self.elem("accordions"), elem_classes="accordions"):
            self.create_own_accordions()
            self.runner.setup_ui_for_section("accordions")

    def create_own_accordions(self) -> None:
        """Accordions of this tab alone."""

    def create_dimensions(self) -> None:
        with FormRow():
            with gr.Column(elem_id=self.elem("column_size"), scale=4):
                self.slider("width", "Width", "width", 64, 2048, 8, DEFAULT_SIZE)
                self.slider("height", "Height", "height", 64, 2048, 8, DEFAULT_SIZE)
            with gr.Column(elem_id=self.elem("dimensions_row"), scale=1, elem_classes="dimensions-tools"):
                swap = ToolButton(value="\u21c5", elem_id=self.elem("res_switch_btn"), tooltip="Swap width and height")
            with gr.Column(elem_id=self.elem("column_batch")):
                self.slider("n_iter", "Batch count", "batch_count", 1, 100, 1, 1)
                self.slider("batch_size", "Batch size", "batch_size", 1, 8, 1, 1)
        swap.click(
            fn=None, inputs=None, outputs=None, show_progress=False, _js=f"() => switchWidthHeight('{self.tabname}')")

    def create_cfg(self) -> None:
        with gr.Row():
            self.slider("cfg_scale", "CFG Scale", "cfg_scale", 1.0, 30.0, 0.5, 7.0)

    def create_override_settings(self) -> None:
        with FormRow(elem_id=self.elem("override_settings_row")):
            dropdown = gr.Dropdown(
                [], label="Override settings", visible=False, elem_id=self.elem("override_settings"), multiselect=True)
        dropdown.change(
            fn=lambda chosen: gr.Dropdown.update(visible=bool(chosen)), inputs=[dropdown], outputs=[dropdown])
        self.fields["override_settings"] = dropdown

    def create_denoising_slider(self) -> None:
        self.slider(
            "denoising_strength", "Denoising strength", "denoising_strength", 0.0, 1.0, 0.01, self.default_denoising)

    def _connect(self) -> None:
        fields = [self.fields[name] for name in self.field_order]
        generate = {
            "fn": wrap_gradio_gpu_call(self.function, extra_outputs=[None, "", ""]),
            "_js": self.javascript,
            "inputs": [self.dummy_component, *fields, *self.script_inputs],
            "outputs": self.output.outputs,
            "show_progress": False,
        }
        self.toprow.submit.click(**generate)
        self.toprow.token_button.click(
            fn=wrap_queued_call(update_token_counter), outputs=[self.toprow.token_counter], show_progress=False,
            inputs=[self.toprow.prompt, self.runner.script("Sampler").steps, self.toprow.styles])
        parameters_copypaste.add_paste_fields(
            self.tabname, self.fields.get("init_img"), self._paste_fields(), self.fields["override_settings"])
        parameters_copypaste.register_paste_params_button(parameters_copypaste.ParamBinding(
            paste_button=self.toprow.paste, tabname=self.tabname, source_text_component=self.toprow.prompt))

    def _paste_fields(self) -> list[PasteField]:
        """Where the parts of an infotext go."""
        named = {
            "prompt": "Prompt", "negative_prompt": "Negative prompt", "cfg_scale": "CFG scale", "width": "Size-1",
            "height": "Size-2", "batch_size": "Batch size", "denoising_strength": "Denoising strength",
            **self.further_paste_fields(),
        }
        fields = [PasteField(self.fields[field], key, api=field) for field, key in named.items()]
        return fields + self.runner.infotext_fields

    def further_paste_fields(self) -> dict[str, str | Callable]:
        return {}


class Txt2ImgTab(GenerationTab):
    tabname = "txt2img"
    default_denoising = 0.7
    function = staticmethod(txt2img.txt2img)
    field_order = txt2img.FIELDS
    javascript = "submit"

    def create_own_accordions(self) -> None:
        with InputAccordion(False, label="Hires. fix", elem_id="txt2img_hr") as self.fields["enable_hr"]:
            with FormRow(elem_id="txt2img_hires_fix_row1", variant="compact"):
                upscalers = [*shared.latent_upscale_modes, *[upscaler.name for upscaler in shared.sd_upscalers]]
                self.fields["hr_upscaler"] = gr.Dropdown(
                    label="Upscaler", elem_id="txt2img_hr_upscaler", choices=upscalers,
                    value=shared.latent_upscale_default_mode)
                self.slider("hr_second_pass_steps", "Hires steps", "hires_steps", 0, 150, 1, 0)
                self.create_denoising_slider()
            with FormRow(elem_id="txt2img_hires_fix_row2", variant="compact"):
                self.slider("hr_scale", "Upscale by", "hr_scale", 1.0, 4.0, 0.05, 2.0)
                self.slider("hr_resize_x", "Resize width to", "hr_resize_x", 0, 2048, 8, 0)
                self.slider("hr_resize_y", "Resize height to", "hr_resize_y", 0, 2048, 8, 0)
            self._create_hires_choices()
            self._create_hires_prompts()

    def _create_hires_choices(self) -> None:
        same = {
            "hr_checkpoint_name": ("Checkpoint", "hr_checkpoint", "checkpoint", sd_models.checkpoint_tiles()),
            "hr_sampler_name": ("Hires sampling method", "hr_sampler", "sampler", sd_samplers.visible_sampler_names()),
            "hr_scheduler": (
                "Hires schedule type", "hr_scheduler", "scheduler", [item.label for item in sd_schedulers.schedulers]),
        }
        with FormRow(elem_id="txt2img_hires_fix_row3", variant="compact", visible=opts.hires_fix_show_sampler):
            for field, (label, elem_id, kind, names) in same.items():
                first = f"Use same {kind}"
                self.fields[field] = gr.Dropdown(label=label, elem_id=elem_id, choices=[first, *names], value=first)

    def _create_hires_prompts(self) -> None:
        prompts = {"hr_prompt": ("Hires prompt", "hires_prompt"), "hr_negative_prompt": (
            "Hires negative prompt", "hires_neg_prompt")}
        with FormRow(elem_id="txt2img_hires_fix_row4", variant="compact", visible=opts.hires_fix_show_prompts):
            for field, (label, elem_id) in prompts.items():
                self.fields[field] = gr.Textbox(
                    label=label, elem_id=elem_id, show_label=False, lines=3, elem_classes=["prompt"],
                    placeholder=f"{label}; empty for that of the first pass")

    def further_paste_fields(self) -> dict[str, str | Callable]:
        def has_hires(params: dict) -> bool:
            marks = ("Hires upscale", "Hires upscaler", "Hires resize-1")
            return "Denoising strength" in params and any(params.get(mark) for mark in marks)

        return {
            "enable_hr": has_hires, "hr_scale": "Hires upscale", "hr_upscaler": "Hires upscaler",
            "hr_second_pass_steps": "Hires steps", "hr_resize_x": "Hires resize-1", "hr_resize_y": "Hires resize-2",
            "hr_checkpoint_name": "Hires checkpoint", "hr_sampler_name": sd_samplers.get_hr_sampler_from_infotext,
            "hr_scheduler": sd_samplers.get_hr_scheduler_from_infotext, "hr_prompt": "Hires prompt",
            "hr_negative_prompt": "Hires negative prompt",
        }


class Img2ImgTab(GenerationTab):
    tabname = "img2img"
    default_denoising = 0.75
    function = staticmethod(img2img.img2img)
    field_order = img2img.FIELDS
    javascript = "submit_img2img"

    def create_image(self) -> None:
        self.fields["mode"] = gr.Number(value=0, visible=False)
        with gr.Tabs(elem_id="mode_img2img"):
            with gr.TabItem("img2img", id="img2img", elem_id="img2img_img2img_tab") as tab_image:
                self.fields["init_img"] = self._image("Image for img2img", "img2img_image", "RGBA")
            with gr.TabItem("Inpaint upload", id="inpaint_upload", elem_id="img2img_inpaint_upload_tab") as tab_inpaint:
                self.fields["init_img_inpaint"] = self._image("Image for img2img", "img_inpaint_base", "RGB")
                self.fields["init_mask_inpaint"] = self._image("Mask", "img_inpaint_mask", "RGBA")
        for number, tab in enumerate((tab_image, tab_inpaint)):
            tab.select(fn=lambda number=number: number, inputs=[], outputs=[self.fields["mode"]])
        with FormRow():
            modes = ["Just resize", "Crop and resize", "Resize and fill", "Just resize (latent upscale)"]
            self.fields["resize_mode"] = gr.Radio(
                label="Resize mode", elem_id="resize_mode", choices=modes, type="index", value=modes[0])

    def _image(self, label: str, elem_id: str, mode: str) -> gr.Image:
        return gr.Image(
            label=label, elem_id=elem_id, show_label=label == "Mask", source="upload", interactive=True, type="pil",
            image_mode=mode, height=320)

    def create_inpaint(self) -> None:
        radios = {
            "inpainting_mask_invert": ("Mask mode", "img2img_mask_mode", ["Inpaint masked", "Inpaint not masked"], 0),
            "inpainting_fill": (
                "Masked content", "img2img_inpainting_fill", ["fill", "original", "latent noise", "latent nothing"], 1),
            "inpaint_full_res": ("Inpaint area", "img2img_inpaint_full_res", ["Whole picture", "Only masked"], 0),
        }
        with FormGroup(elem_id="inpaint_controls", visible=False) as controls:
            self.slider("mask_blur", "Mask blur", "mask_blur", 0, 64, 1, 4)
            for field, (label, elem_id, choices, default) in radios.items():
                self.fields[field] = gr.Radio(
                    label=label, elem_id=elem_id, choices=choices, value=choices[default], type="index")
            self.slider(
                "inpaint_full_res_padding", "Pixels around the mask", "inpaint_full_res_padding", 0, 256, 4, 32)
        self.fields["mode"].change(
            fn=lambda mode: gr.update(visible=mode == img2img.MODE_INPAINT_UPLOAD), inputs=[self.fields["mode"]],
            outputs=[controls], show_progress=False)

    def create_denoising(self) -> None:
        self.create_denoising_slider()

    def further_paste_fields(self) -> dict[str, str | Callable]:
        return {"mask_blur": "Mask blur", "resize_mode": "Resize mode"}
