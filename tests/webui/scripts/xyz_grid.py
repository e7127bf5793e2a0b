"""X/Y/Z plot: a grid of images that differ in up to three things. Extensions add to `axis_options`."""

from __future__ import annotations

import csv
from copy import copy
from itertools import product

import gradio as gr
from PIL import Image

from modules import errors, images, processing, scripts
from modules.shared import opts, state


def _text_with_label(p, option, value) -> str:
    return f"{option.label}: {value}"


class AxisOption:
    """Something that a plot can vary.

    Args:
        label: its name in the menu.
        type: makes a value of a text.
        apply: called with a cell's processing object, the value, and all values of the axis.
        format_value: the text beside a row or column.
        confirm: called once with all values before anything is made; raises if one cannot be used.
        cost: the higher, the less often it is changed.
        choices: returns the values to choose from; None where any text goes.
        prepare: splits the text with values in another way than at commas.
    """

    def __init__(
        self, label, type, apply, format_value=_text_with_label, confirm=None, cost=0.0, choices=None, prepare=None
    ):
        self.label, self.type, self.apply, self.format_value = label, type, apply, format_value
        self.confirm, self.cost, self.choices, self.prepare = confirm, cost, choices, prepare


def _set(field: str):
    return lambda p, value, values: setattr(p, field, value)


def _replace(p, value, values) -> None:
    if values[0] not in p.prompt:
        raise RuntimeError(f"{values[0]} is not in the prompt")
    p.prompt = p.prompt.replace(values[0], value)


axis_options = [
    AxisOption("Nothing", str, lambda p, value, values: None, format_value=lambda p, option, value: ""),
    AxisOption("Seed", int, _set("seed")),
    AxisOption("Steps", int, _set("steps")),
    AxisOption("CFG Scale", float, _set("cfg_scale")),
    AxisOption("Prompt S/R", str, _replace, format_value=lambda p, option, value: value),
]


def _values(p, option: AxisOption, text: str, chosen: list[str], as_text: bool) -> list:
    if option.label == "Nothing":
        return [0]
    if option.choices is not None and not as_text:
        texts = chosen
    else:
        texts = [text.strip() for row in csv.reader([text], skipinitialspace=True) for text in row]
    values = [option.type(text) for text in texts]
    if option.confirm:
        option.confirm(p, values)
    return values


class Script(scripts.Script):
    def title(self):
        return "X/Y/Z plot"

    def ui(self, is_img2img):
        # Settled once: what is added later is not in the menus.
        self.current_axis_options = list(axis_options)
        labels = [option.label for option in self.current_axis_options]
        controls = []
        for number, axis in enumerate("XYZ"):
            with gr.Row():
                controls += [
                    gr.Dropdown(
                        label=f"{axis} type", choices=labels, value=labels[1 if number == 0 else 0], type="index",
                        elem_id=self.elem_id(f"{axis.lower()}_type")),
                    gr.Textbox(label=f"{axis} values", lines=1, elem_id=self.elem_id(f"{axis.lower()}_values")),
                    gr.Dropdown(label=f"{axis} values", visible=False, multiselect=True, choices=[], value=[]),
                ]
        ticked = {"Draw legend": True, "Include Sub Images": False, "Include Sub Grids": False,
                  "Keep -1 for seeds": False, "Vary seeds for X": False, "Vary seeds for Y": False,
                  "Vary seeds for Z": False}
        controls += [gr.Checkbox(label=label, value=value) for label, value in ticked.items()]
        margin = gr.Slider(label="Grid margins (px)", minimum=0, maximum=500, value=0, step=2)
        as_text = gr.Checkbox(label="Use text inputs instead of dropdowns", value=False)
        return [*controls, margin, as_text]

    def run(self, p, *args):
        given, (legend, lone, _sub, keep, *_vary, margin, as_text) = args[:9], args[9:]
        if not keep:
            processing.fix_seed(p)
        axes = []
        for start in (0, 3, 6):
            option = self.current_axis_options[given[start] or 0]
            axes.append((option, _values(p, option, given[start + 1] or "", given[start + 2] or [], as_text)))
        (x, xs), (y, ys), (_z, zs) = axes
        state.job_count = len(xs) * len(ys) * len(zs) * p.n_iter
        made, told = [], None
        for values in product(zs, ys, xs):
            state.job = f"{len(made) + 1} out of {len(xs) * len(ys) * len(zs)}"
            cell = copy(p)  # with the same dictionaries of comments and of generation parameters
            for (option, all_values), value in zip(axes, reversed(values), strict=True):
                option.apply(cell, value, all_values)
            try:  # a cell that fails stays empty; nobody closes it
                made.append(processing.process_images(cell))
            except Exception as error:
                errors.display(error, "making a cell")
                made.append(processing.Processed(p, []))
            if told is None:
                told = self._infotext(cell, axes, given)
        pictures = [one.images[0] for one in made if one.images]
        if not pictures:
            return processing.Processed(p, [])
        processed = made[0]
        empty = Image.new(pictures[0].mode, pictures[0].size)
        texts = [one.infotexts[0] if one.images else None for one in made]
        pictures = [one.images[0] if one.images else empty for one in made]
        size = len(xs) * len(ys)
        grids = []
        for start in range(0, len(pictures), size):
            grid = images.image_grid(pictures[start:start + size], rows=len(ys))
            if legend:
                labels = (
                    [[images.GridAnnotation(option.format_value(p, option, value))] for value in values]
                    for option, values in ((x, xs), (y, ys)))
                grid = images.draw_grid_annotations(grid, *pictures[0].size, *labels, margin)
            grids.append(grid)
        processed.images = [images.image_grid(grids, rows=1), *(pictures if lone else [])]
        processed.infotexts = [told, *texts][:len(processed.images)]
        processed.index_of_first_image = 1
        if opts.grid_save and not p.do_not_save_grid:
            images.save_image(
                processed.images[0], p.outpath_grids, "xyz_grid", info=processed.infotexts[0],
                extension=opts.grid_format, prompt=p.prompt, seed=p.seed, grid=True, p=processed)
        return processed

    def _infotext(self, cell, axes, given) -> str:
        """What the grid says: what its first cell says, which has been made, and the axes."""
        cell.extra_generation_params = {**cell.extra_generation_params, "Script": self.title()}
        for name, (option, _), text in zip("XYZ", axes, given[1::3], strict=True):
            if option.label != "Nothing":
                cell.extra_generation_params |= {f"{name} Type": option.label, f"{name} Values": text}
        return processing.create_infotext(cell, cell.all_prompts, cell.all_seeds, cell.all_subseeds)
