"""Prompts from file or textbox: an image of each line, by copies of one request."""

from __future__ import annotations

from copy import copy

import gradio as gr

from modules import scripts
from modules.processing import Processed, process_images
from modules.shared import state


class Script(scripts.Script):
    def title(self):
        return "Prompts from file or textbox"

    def ui(self, is_img2img):
        return [
            gr.Checkbox(label="Iterate seed every line", elem_id=self.elem_id("checkbox_iterate")),
            gr.Checkbox(label="Use same random seed for all lines", elem_id=self.elem_id("checkbox_iterate_batch")),
            gr.Radio(
                ["start", "end"], label="Insert prompts at the", value="start",
                elem_id=self.elem_id("prompt_position")),
            gr.Textbox(label="List of prompt inputs", lines=1, elem_id=self.elem_id("prompt_txt")),
        ]

    def run(self, p, iterates, _same_seed, position, text):
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        p.do_not_save_grid = True
        state.job_count = len(lines) * p.n_iter
        made = []
        for line in lines:
            one = copy(p)  # with the same dictionaries of comments and of generation parameters
            one.prompt = " ".join(filter(None, (line, p.prompt) if position == "start" else (p.prompt, line)))
            made.append(process_images(one))
            p.seed += p.batch_size * p.n_iter * bool(iterates)
        return Processed(
            p, [image for each in made for image in each.images], p.seed, "",
            all_prompts=[prompt for each in made for prompt in each.all_prompts],
            infotexts=[infotext for each in made for infotext in each.infotexts])
