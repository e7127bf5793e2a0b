"""From prompts to conditionings: schedules, parts joined by AND, and what is in force in a step."""

from __future__ import annotations

import re
from collections import namedtuple

import torch

from modules import prompt_schedule

ScheduledPromptConditioning = namedtuple("ScheduledPromptConditioning", ["end_at_step", "cond"])

re_AND = re.compile(r"\bAND\b")
re_weight = re.compile(r"\s*:\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*$")
re_attention = re.compile(r"\\[\\()\[\]]|\\|\(|\[|:\s*([+-]?[.\d]+)\s*\)|\)|\]|[^\\()\[\]:]+|:")
re_break = re.compile(r"\s*\bBREAK\b\s*")


class SdConditioning(list):
    """Prompts for the text encoder, with what SDXL wants to know besides: the image's size and which side they are."""

    def __init__(self, prompts, is_negative_prompt=False, width=None, height=None, copy_from=None):
        super().__init__(prompts)
        source = prompts if copy_from is None else copy_from
        self.is_negative_prompt = is_negative_prompt or getattr(source, "is_negative_prompt", False)
        self.width = width or getattr(source, "width", None)
        self.height = height or getattr(source, "height", None)


class ComposableScheduledPromptConditioning:
    """One AND part of a prompt: its schedule and its weight."""

    def __init__(self, schedules: list[ScheduledPromptConditioning], weight: float = 1.0):
        self.schedules = schedules
        self.weight = weight


class MulticondLearnedConditioning:
    """All prompts of a batch, each a list of AND parts."""

    def __init__(self, shape: tuple, batch: list[list[ComposableScheduledPromptConditioning]]):
        self.shape = shape
        self.batch = batch


class DictWithShape(dict):
    """SDXL's conditioning, several tensors; its shape is that of the token part."""

    def __init__(self, x, shape=None):
        super().__init__(x)

    @property
    def shape(self):
        return self["crossattn"].shape


def get_learned_conditioning_prompt_schedules(prompts, base_steps, hires_steps=None, use_old_scheduling=False):
    """For each prompt `[[last step, text], ...]`."""
    return [prompt_schedule.schedule(prompt, base_steps, hires_steps, use_old_scheduling) for prompt in prompts]


def get_learned_conditioning(model, prompts, steps, hires_steps=None, use_old_scheduling=False):
    """Encode prompts; for each a list of `ScheduledPromptConditioning`. Equal prompts are encoded once."""
    schedules = get_learned_conditioning_prompt_schedules(prompts, steps, hires_steps, use_old_scheduling)
    encoded: dict[str, list[ScheduledPromptConditioning]] = {}
    for prompt, schedule in zip(prompts, schedules, strict=True):
        if prompt in encoded:
            continue
        conds = model.get_learned_conditioning(SdConditioning([text for _, text in schedule], copy_from=prompts))
        encoded[prompt] = [
            ScheduledPromptConditioning(
                end, {key: value[i] for key, value in conds.items()} if isinstance(conds, dict) else conds[i])
            for i, (end, _) in enumerate(schedule)
        ]
    return [encoded[prompt] for prompt in prompts]


def get_multicond_prompt_list(prompts):
    """Split prompts at AND: for each prompt [(index, weight)], the distinct parts, and the index of each part."""
    flat = SdConditioning([], copy_from=prompts)
    index_of: dict[str, int] = {}
    indexes = []
    for prompt in prompts:
        parts = []
        for subprompt in re_AND.split(prompt):
            weight = re_weight.search(subprompt)
            text = subprompt[:weight.start()] if weight else subprompt.rstrip()
            if text not in index_of:
                index_of[text] = len(flat)
                flat.append(text)
            parts.append((index_of[text], float(weight.group(1)) if weight else 1.0))
        indexes.append(parts)
    return indexes, flat, index_of


def get_multicond_learned_conditioning(
    model, prompts, steps, hires_steps=None, use_old_scheduling=False
) -> MulticondLearnedConditioning:
    """Encode prompts that may have several parts joined by AND."""
    indexes, flat, _ = get_multicond_prompt_list(prompts)
    learned = get_learned_conditioning(model, flat, steps, hires_steps, use_old_scheduling)
    batch = [[ComposableScheduledPromptConditioning(learned[i], weight) for i, weight in parts] for parts in indexes]
    return MulticondLearnedConditioning(shape=(len(prompts),), batch=batch)


def _cond_at(schedule: list[ScheduledPromptConditioning], current_step: int):
    """What is in force in a step; after the last end it is the first again, as on the real host."""
    return next((entry.cond for entry in schedule if current_step <= entry.end_at_step), schedule[0].cond)


def stack_conds(tensors: list[torch.Tensor]) -> torch.Tensor:
    """Stack token tensors, repeating the last vector of those that are shorter."""
    longest = max(tensor.shape[0] for tensor in tensors)
    padded = [
        torch.vstack([tensor, tensor[-1:].repeat(longest - tensor.shape[0], 1)])
        if tensor.shape[0] < longest else tensor
        for tensor in tensors
    ]
    return torch.stack(padded)


def _stacked(conds: list):
    if isinstance(conds[0], dict):
        return DictWithShape({key: stack_conds([cond[key] for cond in conds]) for key in conds[0]})
    return stack_conds(conds)


def reconstruct_cond_batch(c: list[list[ScheduledPromptConditioning]], current_step: int):
    return _stacked([_cond_at(schedule, current_step) for schedule in c])


def reconstruct_multicond_batch(c: MulticondLearnedConditioning, current_step: int):
    """For each image [(row, weight)], and the rows: one for each AND part of each image."""
    rows: list = []
    conds_list = []
    for parts in c.batch:
        conds_list.append([(len(rows) + i, part.weight) for i, part in enumerate(parts)])
        rows += [_cond_at(part.schedules, current_step) for part in parts]
    return conds_list, _stacked(rows)


def parse_prompt_attention(text: str) -> list[list]:
    """Split a prompt into [text, weight]: "(a)" weighs 1.1, "[a]" 1/1.1, "(a:2)" 2; "\\(" is a plain bracket."""
    parts: list[list] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def scale(start: int, factor: float) -> None:
        for part in parts[start:]:
            part[1] *= factor

    for match in re_attention.finditer(text):
        token, weight = match.group(0), match.group(1)
        if token.startswith("\\"):
            parts.append([token[1:], 1.0])
        elif token in opened:
            opened[token].append(len(parts))
        elif weight is not None and opened["("]:
            scale(opened["("].pop(), float(weight))
        elif token == ")" and opened["("]:
            scale(opened["("].pop(), 1.1)
        elif token == "]" and opened["["]:
            scale(opened["["].pop(), 1 / 1.1)
        else:
            for number, piece in enumerate(re_break.split(token)):
                if number > 0:
                    parts.append(["BREAK", -1])
                parts.append([piece, 1.0])
    for start in opened["("]:
        scale(start, 1.1)
    for start in opened["["]:
        scale(start, 1 / 1.1)
    merged: list[list] = []
    for piece, weight in parts:
        if merged and merged[-1][1] == weight:
            merged[-1][0] += piece
        else:
            merged.append([piece, weight])
    return merged or [["", 1.0]]
