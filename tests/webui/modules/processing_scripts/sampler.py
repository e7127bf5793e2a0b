"""Steps, sampler and schedule."""

import gradio as gr

from modules import scripts, sd_samplers, sd_schedulers
from modules.infotext_utils import PasteField
from modules.ui_components import FormRow


class ScriptSampler(scripts.ScriptBuiltinUI):
    section = "sampler"

    def title(self):
        return "Sampler"

    def ui(self, is_img2img):
        samplers = [sampler.name for sampler in sd_samplers.visible_samplers()]
        schedules = [scheduler.label for scheduler in sd_schedulers.schedulers]
        with FormRow(elem_id=f"sampler_selection_{self.tabname}"):
            self.sampler_name = gr.Dropdown(
                label="Sampling method", elem_id=f"{self.tabname}_sampling", choices=samplers, value=samplers[0])
            self.scheduler = gr.Dropdown(
                label="Schedule type", elem_id=f"{self.tabname}_scheduler", choices=schedules, value=schedules[0])
            self.steps = gr.Slider(
                label="Sampling steps", elem_id=f"{self.tabname}_steps", minimum=1, maximum=150, step=1, value=20)
        read_from = {
            "steps": "Steps", "sampler_name": sd_samplers.get_sampler_from_infotext,
            "scheduler": sd_samplers.get_scheduler_from_infotext,
        }
        controls = {name: getattr(self, name) for name in read_from}
        self.infotext_fields = [PasteField(controls[name], source, api=name) for name, source in read_from.items()]
        return tuple(controls.values())

    def setup(self, p, *values):
        p.steps, p.sampler_name, p.scheduler = values
