"""Makes the README's picture of what tags do, by the WebUI of the demo; what training noted, and a sheet of prompts.

Usage: python -m tests.demo_model.pictures [--report]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from tests.demo_model import train
from tests.demo_model.scenes import SIDE
from tests.host.real_host import PROJECT, STAND_IN
from tests.host.webui import WebUI

FOLDER = Path(__file__).resolve().parent / "pictures"
ONE_PROMPT = "a red cat on a meadow"
TAGS = ("", "<lora:demo_locon:1>", "<lora:demo_locon:1:lbw=OUTD>", "<lora:demo_locon:1:lbw=OUTS>",
        "<lora:demo_locon:1:stop=5>", "<lora:demo_locon:0@0.3,1@1>")  # fmt: skip
PROMPTS = (
    *train.SAMPLES, "a red robot <lora:demo:1>", "a blue robot in the snow <lora:demo:1>", "a red cat <lora:demo2:1>",
    "a green car at night <lora:demo2:1>",
)  # fmt: skip
LINE, MARGIN = 18, 6


def make(webui: WebUI, prompt: str, **fields: Any) -> Image.Image:
    fields = {"steps": 20, "width": SIDE, "height": SIDE, "negative_prompt": ""} | fields
    return webui.generate(prompt=prompt, **fields).images[0]


def sheet(pictures: Sequence[Image.Image], captions: Sequence[str], columns: int) -> Image.Image:
    """The pictures with what is below each of them, row by row."""
    height = SIDE + 2 * LINE + MARGIN
    rows = -(-len(pictures) // columns)
    whole = Image.new("RGB", (columns * (SIDE + MARGIN) - MARGIN, rows * height), "white")
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(13)
    for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = index % columns * (SIDE + MARGIN), index // columns * height
        whole.paste(picture, (x, y))
        words, line = caption.split(" "), ""
        lines = []
        for word in words:
            longer = f"{line} {word}".strip()
            if line and draw.textlength(longer, font) > SIDE:
                lines.append(line)
                longer = word
            line = longer
        for number, text in enumerate([*lines, line]):
            draw.text((x, y + SIDE + 2 + number * LINE), text, "black", font)
    return whole.quantize(256)  # a third of the size


def draw_losses() -> None:
    """The curves of what the training script has noted, one a network."""
    losses = json.loads((FOLDER / "losses.json").read_text())
    figure = Figure(figsize=(3 * len(losses), 2.6), layout="constrained")
    for axes, (name, values) in zip(figure.subplots(1, len(losses)), losses.items(), strict=True):
        axes.semilogy([(number + 1) * train.NOTED_EVERY for number in range(len(values))], values)
        axes.set(title=name, xlabel="step")
    figure.savefig(FOLDER / "losses.png", dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", action="store_true", help="also the loss curves and twenty prompts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = PROJECT / "tests" / "webui" / "data"
    subprocess.run([sys.executable, str(STAND_IN / "make_demo.py"), "--trained", "--data-dir", str(data)], check=True)
    webui = WebUI(data)
    FOLDER.mkdir(exist_ok=True)
    pictures = [make(webui, f"{ONE_PROMPT} {tag}") for tag in TAGS]
    sheet(pictures, [tag or "without a LoRA" for tag in TAGS], len(TAGS)).save(FOLDER / "one_prompt.png")
    if options.report:
        draw_losses()
        made = []
        for prompt in PROMPTS:
            begun = time.perf_counter()
            made.append(make(webui, prompt))
            print(f"{time.perf_counter() - begun:5.1f} s  {prompt}", flush=True)
        sheet(made, PROMPTS, 5).save(FOLDER / "prompts.png")


if __name__ == "__main__":
    main()
