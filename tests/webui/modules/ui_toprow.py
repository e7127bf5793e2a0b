"""The top of a generation tab: prompts, Generate with Interrupt and Skip, and the small buttons below them."""

from __future__ import annotations

import gradio as gr

from modules import shared
from modules.ui_components import ToolButton

# Symbols that plain text fonts have, so that they show on machines without an emoji font.
PASTE_SYMBOL = "\u2199"
CLEAR_SYMBOL = "\u2715"
_PLACEHOLDER = "(Ctrl+Enter generates, Alt+Enter skips, Esc interrupts)"


class Toprow:
    def __init__(self, is_img2img: bool, id_part: str | None = None):
        self.id_part = id_part or ("img2img" if is_img2img else "txt2img")
        self.is_img2img = is_img2img
        with gr.Row(elem_id=f"{self.id_part}_toprow", variant="compact"):
            self._create_prompts()
            with gr.Column(scale=1, elem_id=f"{self.id_part}_actions_column"):
                self._create_submit_box()
                self._create_tools()
                self._create_styles()

    def _create_prompts(self) -> None:
        with gr.Column(elem_id=f"{self.id_part}_prompt_container", scale=6):
            with gr.Row(elem_id=f"{self.id_part}_prompt_row", elem_classes=["prompt-row"]):
                self.prompt = gr.Textbox(
                    label="Prompt", elem_id=f"{self.id_part}_prompt", show_label=False, lines=3,
                    placeholder=f"Prompt\n{_PLACEHOLDER}", elem_classes=["prompt"])
            with gr.Row(elem_id=f"{self.id_part}_neg_prompt_row", elem_classes=["prompt-row"]):
                self.negative_prompt = gr.Textbox(
                    label="Negative prompt", elem_id=f"{self.id_part}_neg_prompt", show_label=False, lines=3,
                    placeholder="Negative prompt", elem_classes=["prompt"])

    def _create_submit_box(self) -> None:
        with gr.Row(elem_id=f"{self.id_part}_generate_box", elem_classes=["generate-box"]):
            self.interrupt = gr.Button(
                "Interrupt", elem_id=f"{self.id_part}_interrupt", elem_classes="generate-box-interrupt")
            self.skip = gr.Button("Skip", elem_id=f"{self.id_part}_skip", elem_classes="generate-box-skip")
            self.interrupting = gr.Button(
                "Interrupting...", elem_id=f"{self.id_part}_interrupting", elem_classes="generate-box-interrupting")
            self.submit = gr.Button("Generate", elem_id=f"{self.id_part}_generate", variant="primary")
        # Never queued: the queue is what they are to break into.
        self.skip.click(fn=shared.state.skip, queue=False)
        self.interrupt.click(
            fn=_interrupt, _js=f"() => showSubmitInterruptingPlaceholder('{self.id_part}')", queue=False)
        self.interrupting.click(fn=_interrupt, queue=False)

    def _create_tools(self) -> None:
        with gr.Row(elem_id=f"{self.id_part}_tools"):
            self.paste = ToolButton(
                value=PASTE_SYMBOL, elem_id="paste",
                tooltip="Read parameters from the prompt, or those of the last image if the prompt is empty")
            self.clear_prompt_button = ToolButton(
                value=CLEAR_SYMBOL, elem_id=f"{self.id_part}_clear_prompt", tooltip="Clear both prompts")
            self.token_counter = gr.HTML(
                value="<span>0/75</span>", elem_id=f"{self.id_part}_token_counter", elem_classes=["token-counter"])
            self.token_button = gr.Button(visible=False, elem_id=f"{self.id_part}_token_button")
        both = [self.prompt, self.negative_prompt]
        self.clear_prompt_button.click(fn=lambda: ("", ""), inputs=[], outputs=both, show_progress=False)

    def _create_styles(self) -> None:
        with gr.Row(elem_id=f"{self.id_part}_styles_row"):
            self.styles = gr.Dropdown(
                label="Styles", show_label=False, elem_id=f"{self.id_part}_styles", multiselect=True, value=[],
                choices=list(shared.prompt_styles.styles), tooltip="Styles")


def _interrupt() -> None:
    """With several images to make, first stop after the one in work; a second click stops at once."""
    state = shared.state
    if not state.stopping_generation and state.job_count > 1 and shared.opts.interrupt_after_current:
        state.stop_generating()
        gr.Info("Generation stops after this image. Another click stops it now.")
    else:
        state.interrupt()
