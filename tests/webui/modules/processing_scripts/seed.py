"""The seed, and a second seed to blend with it."""

import json

import gradio as gr

from modules import infotext_utils, scripts
from modules.infotext_utils import PasteField
from modules.ui_components import ToolButton


class ScriptSeed(scripts.ScriptBuiltinUI):
    section = "seed"
    create_group = False

    def title(self):
        return "Seed"

    def ui(self, is_img2img):
        with gr.Row(elem_id=self.elem_id("seed_row")):
            self.seed = gr.Number(label="Seed", value=-1, elem_id=self.elem_id("seed"), min_width=100, precision=0)
            random_seed = ToolButton(
                "\u2684", elem_id=self.elem_id("random_seed"), tooltip="A new seed for each image")
            reuse_seed = ToolButton(
                "\u267b", elem_id=self.elem_id("reuse_seed"), tooltip="The last image's seed")
            extra = gr.Checkbox(label="Extra", elem_id=self.elem_id("subseed_show"), value=False)
        with gr.Group(visible=False, elem_id=self.elem_id("seed_extras")) as extras:
            with gr.Row(elem_id=self.elem_id("subseed_row")):
                subseed = gr.Number(label="Variation seed", value=-1, elem_id=self.elem_id("subseed"), precision=0)
                strength = gr.Slider(
                    label="Variation strength", value=0.0, minimum=0, maximum=1, step=0.01,
                    elem_id=self.elem_id("subseed_strength"))
            with gr.Row(elem_id=self.elem_id("seed_resize_from_row")):
                from_w, from_h = (
                    gr.Slider(
                        label=f"Resize seed from {side}", minimum=0, maximum=2048, step=8, value=0,
                        elem_id=self.elem_id(f"seed_resize_from_{side[0]}"))
                    for side in ("width", "height")
                )

        random_seed.click(
            fn=None, inputs=[], outputs=[], show_progress=False, _js=f"() => setRandomSeed('{self.elem_id('seed')}')")
        extra.change(lambda shown: gr.update(visible=shown), inputs=[extra], outputs=[extras], show_progress=False)
        self.on_after_component(
            lambda on: connect_reuse_seed(self.seed, reuse_seed, on.component),
            elem_id=f"generation_info_{self.tabname}")
        self.infotext_fields = [
            PasteField(self.seed, "Seed", api="seed"),
            PasteField(extra, lambda params: "Variation seed" in params or "Seed resize from-1" in params),
            PasteField(subseed, "Variation seed", api="subseed"),
            PasteField(strength, "Variation seed strength", api="subseed_strength"),
            PasteField(from_w, "Seed resize from-1", api="seed_resize_from_w"),
            PasteField(from_h, "Seed resize from-2", api="seed_resize_from_h"),
        ]
        return self.seed, extra, subseed, strength, from_w, from_h

    def setup(self, p, seed, extra, subseed, subseed_strength, seed_resize_from_w, seed_resize_from_h):
        p.seed = seed
        if not extra:
            return
        wanted = {}
        if subseed_strength > 0:
            wanted.update(subseed=subseed, subseed_strength=subseed_strength)
        if min(seed_resize_from_w, seed_resize_from_h) > 0:
            wanted.update(seed_resize_from_w=seed_resize_from_w, seed_resize_from_h=seed_resize_from_h)
        for name, value in wanted.items():
            setattr(p, name, value)


def connect_reuse_seed(seed: gr.Number, button: gr.Button, generation_info: gr.Textbox) -> None:
    """Let the button read the seed of the image that is selected, or else of the first."""

    def seed_of(info: str, index: int):
        infotexts = json.loads(info)["infotexts"] if info else []
        if not infotexts:
            return -1
        params = infotext_utils.parse_generation_parameters(infotexts[max(index, 0)], [])
        return int(params.get("Seed", -1))

    button.click(
        fn=seed_of, _js="info => [info, selected_gallery_index()]", inputs=[generation_info, seed], outputs=[seed],
        show_progress=False)
