"""A second checkpoint that takes over in the middle of sampling."""

import gradio as gr

from modules import scripts, sd_models
from modules.infotext_utils import PasteField
from modules.ui_common import create_refresh_button
from modules.ui_components import InputAccordion


class ScriptRefiner(scripts.ScriptBuiltinUI):
    section = "accordions"
    create_group = False

    def title(self):
        return "Refiner"

    def ui(self, is_img2img):
        with InputAccordion(False, label="Refiner", elem_id=self.elem_id("enable")) as enable, gr.Row():
            checkpoint = gr.Dropdown(
                label="Checkpoint", elem_id=self.elem_id("checkpoint"), choices=sd_models.checkpoint_tiles(), value="")
            create_refresh_button(
                checkpoint, sd_models.list_models, lambda: {"choices": sd_models.checkpoint_tiles()},
                self.elem_id("checkpoint_refresh"))
            switch_at = gr.Slider(
                label="Switch at", value=0.8, minimum=0.01, maximum=1.0, step=0.01, elem_id=self.elem_id("switch_at"))

        def title_of(params: dict) -> str | None:
            info = sd_models.get_closet_checkpoint_match(params.get("Refiner"))
            return info.title if info is not None else None

        self.infotext_fields = [
            PasteField(enable, lambda params: "Refiner" in params),
            PasteField(checkpoint, title_of, api="refiner_checkpoint"),
            PasteField(switch_at, "Refiner switch at", api="refiner_switch_at"),
        ]
        return enable, checkpoint, switch_at

    def setup(self, p, enable_refiner, refiner_checkpoint, refiner_switch_at):
        on = enable_refiner and refiner_checkpoint not in (None, "", "None")
        p.refiner_checkpoint = refiner_checkpoint if on else None
        p.refiner_switch_at = refiner_switch_at if on else None
