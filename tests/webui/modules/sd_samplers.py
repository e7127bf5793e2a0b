"""All samplers by name, and what a user may have called them."""

from __future__ import annotations

import functools
import logging

from modules import (
    sd_samplers_common,
    sd_samplers_kdiffusion,
    sd_samplers_lcm,
    sd_samplers_timesteps,
    sd_schedulers,
    shared,
)

samples_to_image_grid = sd_samplers_common.samples_to_image_grid
sample_to_image = sd_samplers_common.sample_to_image

all_samplers: list[sd_samplers_common.SamplerData] = [
    *sd_samplers_kdiffusion.samplers_data_k_diffusion,
    *sd_samplers_timesteps.samplers_data_timesteps,
    *sd_samplers_lcm.samplers_data_lcm,
]
all_samplers_map = {sampler.name: sampler for sampler in all_samplers}

samplers: list[sd_samplers_common.SamplerData] = all_samplers
samplers_for_img2img: list[sd_samplers_common.SamplerData] = all_samplers
samplers_map: dict[str, str] = {}
samplers_hidden: set[str] = set()


def find_sampler_config(name: str | None) -> sd_samplers_common.SamplerData | None:
    return all_samplers[0] if name is None else all_samplers_map.get(name)


def create_sampler(name: str | None, model):
    """A fresh sampler for one pass."""
    config = find_sampler_config(name)
    assert config is not None, f"there is no sampler {name!r}"
    sampler = config.constructor(model)
    sampler.config = config
    return sampler


def set_samplers() -> None:
    """Take over the user's list of hidden samplers."""
    global samplers_hidden
    samplers_hidden = set(shared.opts.hide_samplers)
    samplers_map.clear()
    for sampler in all_samplers:
        samplers_map.update({key.lower(): sampler.name for key in (sampler.name, *sampler.aliases)})


def visible_samplers() -> list[sd_samplers_common.SamplerData]:
    return [sampler for sampler in samplers if sampler.name not in samplers_hidden]


def visible_sampler_names() -> list[str]:
    return [sampler.name for sampler in visible_samplers()]


@functools.cache
def get_sampler_and_scheduler(
    sampler_name: str | None, scheduler_name: str | None, *, convert_automatic: bool = True
) -> tuple[str, str]:
    """Names of a sampler and a schedule that exist; "Euler Karras", the form before 1.9, is taken apart.

    With `convert_automatic` the schedule that the sampler prefers is called "Automatic".
    """
    scheduler = sd_schedulers.schedulers_map.get(scheduler_name, sd_schedulers.schedulers[0])
    name = sampler_name or samplers[0].name
    for candidate in sd_schedulers.schedulers:
        endings = (candidate.label, candidate.name, *(candidate.aliases or []))
        ending = next((ending for ending in endings if name.endswith(" " + ending)), None)
        if ending is not None:
            scheduler = candidate
            name = name.removesuffix(" " + ending)
    sampler = all_samplers_map.get(name, samplers[0])
    if convert_automatic and sampler.options.get("scheduler") == scheduler.name:
        scheduler = sd_schedulers.schedulers[0]
    return sampler.name, scheduler.label


def get_sampler_from_infotext(d: dict) -> str:
    return get_sampler_and_scheduler(d.get("Sampler"), d.get("Schedule type"))[0]


def get_scheduler_from_infotext(d: dict) -> str:
    return get_sampler_and_scheduler(d.get("Sampler"), d.get("Schedule type"))[1]


def get_hr_sampler_and_scheduler(d: dict) -> tuple[str, str]:
    """Those of the hires pass, or the texts that stand for "the same as in the first"."""
    same_sampler, same_scheduler = "Use same sampler", "Use same scheduler"
    sampler, scheduler = d.get("Hires sampler", same_sampler), d.get("Hires schedule type", same_scheduler)
    sampler, scheduler = get_sampler_and_scheduler(
        d.get("Sampler") if sampler == same_sampler else sampler,
        d.get("Schedule type") if scheduler == same_scheduler else scheduler)
    return (
        same_sampler if sampler == d.get("Sampler") else sampler,
        same_scheduler if scheduler == d.get("Schedule type") else scheduler,
    )


def get_hr_sampler_from_infotext(d: dict) -> str:
    return get_hr_sampler_and_scheduler(d)[0]


def get_hr_scheduler_from_infotext(d: dict) -> str:
    return get_hr_sampler_and_scheduler(d)[1]


def fix_p_invalid_sampler_and_scheduler(p) -> None:
    """Replace names in `p` that do not exist, and say so."""
    asked = p.sampler_name, p.scheduler
    p.sampler_name, p.scheduler = get_sampler_and_scheduler(*asked, convert_automatic=False)
    if any(name not in (None, taken) for name, taken in zip(asked, (p.sampler_name, p.scheduler), strict=True)):
        logging.warning("sampler and schedule %s are taken as %s", asked, (p.sampler_name, p.scheduler))


set_samplers()
