"""Leaves `# text up to the end of the line` out of prompts."""

import re

from modules import script_callbacks, scripts, shared

RE_WHOLE_LINE = re.compile(r"(?:^|\n)#[^\n]*(?:\n|$)")
RE_REST_OF_LINE = re.compile(r"#[^\n]*(?:\n|$)")


def strip_comments(text: str) -> str:
    for comment in (RE_WHOLE_LINE, RE_REST_OF_LINE):
        text = comment.sub("\n", text)
    return text


class ScriptStripComments(scripts.Script):
    def title(self):
        return "Comments"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def process(self, p, *_):
        names = ["main_prompt", "main_negative_prompt", "all_prompts", "all_negative_prompts"]
        if getattr(p, "enable_hr", False):
            names += ["hr_prompt", "hr_negative_prompt", "all_hr_prompts", "all_hr_negative_prompts"]
        for name in names if shared.opts.enable_prompt_comments else ():
            value = getattr(p, name)
            bare = [strip_comments(text) for text in value] if isinstance(value, list) else strip_comments(value)
            setattr(p, name, bare)


def before_token_counter(params: script_callbacks.BeforeTokenCounterParams) -> None:
    if shared.opts.enable_prompt_comments:
        params.prompt = strip_comments(params.prompt)


script_callbacks.on_before_token_counter(before_token_counter)

shared.options_templates.update(shared.options_section(("sd", "Stable Diffusion", "sd"), {
    "enable_prompt_comments": shared.OptionInfo(True, "Leave # comments out of prompts"),
}))
