"""Leaves `# text up to the end of the line` out of prompts."""

import re

from modules import script_callbacks, scripts, shared


def strip_comments(text: str) -> str:
    text = re.sub(r"(^|\n)#[^\n]*(\n|$)", "\n", text)
    return re.sub(r"#[^\n]*(\n|$)", "\n", text)


class ScriptStripComments(scripts.Script):
    def title(self):
        return "Comments"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def process(self, p, *args):
        if not shared.opts.enable_prompt_comments:
            return
        p.main_prompt = strip_comments(p.main_prompt)
        p.main_negative_prompt = strip_comments(p.main_negative_prompt)
        p.all_prompts = [strip_comments(prompt) for prompt in p.all_prompts]
        p.all_negative_prompts = [strip_comments(prompt) for prompt in p.all_negative_prompts]
        if getattr(p, "enable_hr", False):
            p.hr_prompt = strip_comments(p.hr_prompt)
            p.hr_negative_prompt = strip_comments(p.hr_negative_prompt)
            p.all_hr_prompts = [strip_comments(prompt) for prompt in p.all_hr_prompts]
            p.all_hr_negative_prompts = [strip_comments(prompt) for prompt in p.all_hr_negative_prompts]


def before_token_counter(params: script_callbacks.BeforeTokenCounterParams) -> None:
    if shared.opts.enable_prompt_comments:
        params.prompt = strip_comments(params.prompt)


script_callbacks.on_before_token_counter(before_token_counter)

shared.options_templates.update(shared.options_section(("sd", "Stable Diffusion", "sd"), {
    "enable_prompt_comments": shared.OptionInfo(True, "Leave # comments out of prompts"),
}))
