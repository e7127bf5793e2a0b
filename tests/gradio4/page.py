"""A page of gradio 4.40 with the panel in two tabs, built by the entry points that a host would use.

Usage: python page.py --port PORT
"""

from __future__ import annotations

import argparse
import re
import sys
import threading
from html import escape
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(PROJECT / "scripts"), str(PROJECT)]

import gradio as gr  # noqa: E402

from lbw import ui  # noqa: E402
from lbw.request import model_routes  # noqa: E402
from tests.backend import Backend  # noqa: E402

PRESETS_FILE = PROJECT / "scripts" / "lbwpresets.txt"
RULE_SETS_FILE = PROJECT / "scripts" / "elempresets.txt"
LAYERS = tuple(
    f"diffusion_model_{block}_1_transformer_blocks_0_{part}"
    for block in ("input_blocks_1", "input_blocks_5", "middle_block", "output_blocks_5", "output_blocks_9")
    for part in ("attn1_to_q", "attn2_to_v", "ff_net_2")
)


def scripts() -> list[Path]:
    stand_in = PROJECT / "tests" / "webui"
    own = sorted((PROJECT / "javascript").glob("*.js"))
    hosts = [stand_in / "javascript" / name for name in ("inputAccordion.js", "localStorage.js")]
    return [stand_in / "script.js", *hosts, *own]


def head() -> str:
    tags = [f'<script src="/file={path}"></script>' for path in scripts()]
    tooltips = """<script>
        onUiLoaded(() => {
            opts.page = "gradio 4";
            for (const {props} of window.gradio_config.components) {
                const element = props.webui_tooltip && document.getElementById(props.elem_id);
                if (element) element.title = props.webui_tooltip;
            }
        });
    </script>"""
    return "\n".join([*tags, tooltips, f'<link rel="stylesheet" href="/file={PROJECT / "style.css"}">'])


def serve_with_head() -> None:
    """Put the scripts into the page that gradio serves, as hosts do, and take out what asks public servers."""
    original = gr.routes.templates.TemplateResponse

    def response(*args, **kwargs):
        answer = original(*args, **kwargs)
        page = re.sub(rb'<link rel="preconnect"[^>]*>|<script[^>]*src="https://[^>]*></script>', b"", answer.body)
        answer.body = page.replace(b"</head>", f"{head()}</head>".encode())
        answer.init_headers()
        return answer

    gr.routes.templates.TemplateResponse = response


def tab(name: str) -> None:
    with gr.TabItem(name, id=name, elem_id=f"tab_{name}"):
        gr.Textbox(label="Prompt", lines=3, elem_id=f"{name}_prompt")
        components = ui.build(
            name == "img2img",
            presets_file=PRESETS_FILE,
            rule_sets_file=RULE_SETS_FILE,
        ).components
        # An input of an event can be changed on the page, and in a host all of them are.
        received = gr.HTML(elem_id=f"{name}_received")
        gr.Button("Generate").click(lambda *values: escape(repr(values)), list(components.values()), [received])
        with gr.Column(), gr.Group(elem_id=f"{name}_gallery_container"):
            gr.HTML(elem_id=f"html_log_{name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    serve_with_head()
    theme = gr.themes.Default(font=["sans-serif"], font_mono=["monospace"])
    with gr.Blocks(theme=theme, analytics_enabled=False, title="gradio 4") as demo, gr.Tabs(elem_id="tabs"):
        tab("txt2img")
        tab("img2img")
    app, *_ = demo.launch(
        server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True, show_api=False,
        allowed_paths=[str(PROJECT)],
    )
    model_routes.add(app, Backend(LAYERS))
    ui.routes.add(app, PRESETS_FILE, RULE_SETS_FILE, Backend(LAYERS))
    threading.Event().wait()


if __name__ == "__main__":
    main()
