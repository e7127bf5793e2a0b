"""Classifier-free guidance: one call is one evaluation that a sampler asks for, with its hooks in the host's order."""

from __future__ import annotations

import torch

from modules import family, prompt_parser, scripts, sd_samplers_common, shared
from modules.script_callbacks import (
    AfterCFGCallbackParams,
    CFGDenoisedParams,
    CFGDenoiserParams,
    cfg_after_cfg_callback,
    cfg_denoised_callback,
    cfg_denoiser_callback,
)
from modules.shared import opts, state


def catenate_conds(conds: list):
    """Join conditionings, tensors or dicts of tensors, along the batch."""
    if isinstance(conds[0], dict):
        return {key: torch.cat([cond[key] for cond in conds]) for key in conds[0]}
    return torch.cat(conds)


def subscript_cond(cond, a: int, b: int):
    if isinstance(cond, dict):
        return {key: vec[a:b] for key, vec in cond.items()}
    return cond[a:b]


def pad_cond(cond, repeats: int, empty: torch.Tensor):
    """Append the encoding of an empty prompt `repeats` times."""
    if isinstance(cond, dict):
        cond["crossattn"] = pad_cond(cond["crossattn"], repeats, empty)
        return cond
    return torch.cat([cond, empty.repeat((cond.shape[0], repeats, 1))], dim=1)


class CFGDenoiser(torch.nn.Module):
    """Calls the model for the prompts and the negative prompts, and combines the results.

    `step` counts evaluations of the running pass, `steps` is what the user asked for, and `total_steps` how many
    evaluations the sampler's table expects for that.
    """

    classic_ddim_eps_estimation = False
    """The sampler goes by timesteps and wants the noise, but model and callbacks are given noise levels."""

    def __init__(self, sampler):
        super().__init__()
        self.sampler = sampler
        self.p = self.model_wrap = None
        # How far the pass is.
        self.step = 0
        self.total_steps: int | None = None
        self.steps: int | None = None
        # Inpainting.
        self.init_latent = self.nmask = self.mask = None
        self.mask_before_denoising = False
        # Guidance.
        self.cond_scale_miltiplier = 1.0  # the host's spelling
        self.image_cfg_scale = self.last_noise_uncond = None
        self.need_last_noise_uncond = self.padded_cond_uncond_v0 = self.padded_cond_uncond = False

    @property
    def inner_model(self):
        """The model as this sampler wants it; made anew after a model switch."""
        if self.model_wrap is None:
            self.model_wrap = self.wrap_model(shared.sd_model)
        return self.model_wrap

    def wrap_model(self, sd_model):
        raise NotImplementedError

    def update_inner_model(self) -> None:
        """Forget the wrapped model and take the conditionings of the new one."""
        self.model_wrap = None
        cond, uncond = self.p.get_conds()
        self.sampler.sampler_extra_args["cond"] = cond
        self.sampler.sampler_extra_args["uncond"] = uncond

    def get_pred_x0(self, x_in, x_out, sigma):
        return x_out

    def combine_denoised(self, x_out, conds_list, uncond, cond_scale: float):
        """uncond + scale * sum over AND parts of weight * (cond - uncond)."""
        denoised_uncond = x_out[-uncond.shape[0]:]
        denoised = denoised_uncond.clone()
        for image, parts in enumerate(conds_list):
            for row, weight in parts:
                denoised[image] += (x_out[row] - denoised_uncond[image]) * (weight * cond_scale)
        return denoised

    @property
    def _edits(self) -> bool:
        """Whether the image to be edited has a guidance of its own, for which a third set of rows goes without it."""
        return shared.sd_model.cond_stage_key == "edit" and self.image_cfg_scale not in (None, 1.0)

    def combine_denoised_for_edit_model(self, x_out, cond_scale: float):
        with_both, with_image, with_none = x_out.chunk(3)
        return with_none + cond_scale * (with_both - with_image) + self.image_cfg_scale * (with_image - with_none)

    def pad_cond_uncond(self, cond, uncond):
        """Bring prompt and negative prompt to one length, by encodings of an empty prompt."""
        empty = shared.sd_model.cond_stage_model_empty_prompt
        missing = (cond.shape[1] - uncond.shape[1]) // empty.shape[1]
        if missing < 0:
            cond = pad_cond(cond, -missing, empty)
        elif missing > 0:
            uncond = pad_cond(uncond, missing, empty)
        self.padded_cond_uncond = self.padded_cond_uncond or missing != 0
        return cond, uncond

    def _blend(self, latent, sigma):
        """Put the original back where an inpainting mask keeps it."""
        mba = scripts.MaskBlendArgs(
            latent, self.nmask, self.init_latent, self.mask, latent * self.nmask + self.init_latent * self.mask,
            denoiser=self, sigma=sigma)
        if self.p.scripts is not None:
            self.p.scripts.on_mask_blend(self.p, mba)
        return mba.blended_latent

    def _skips_uncond(self, sigma, s_min_uncond: float) -> bool:
        """Whether the settings drop the negative prompt in this evaluation."""
        if opts.skip_early_cond != 0.0 and self.step / self.total_steps <= opts.skip_early_cond:
            self.p.extra_generation_params["Skip Early CFG"] = opts.skip_early_cond
            return True
        if (self.step % 2 or opts.s_min_uncond_all) and s_min_uncond > 0 and sigma[0] < s_min_uncond:
            self.p.extra_generation_params["NGMS"] = s_min_uncond
            return True
        return False

    def _call_model(self, x, sigma, cond, image_cond):
        """Call the model with a conditioning in the model's own form."""
        parts = cond if isinstance(cond, dict) else {"c_crossattn": [cond]}
        return family.current.evaluate(self.inner_model, x, sigma, {**parts, "c_concat": [image_cond]})

    def _at_noise_level(self, x, timestep):
        """What a sampler over timesteps gives the model, as one over noise levels would."""
        alpha = self.inner_model.inner_model.alphas_cumprod
        levels = ((1 - alpha) / alpha).sqrt()
        sigma = levels[timestep.round().long().clamp(0, len(levels) - 1)]
        return x * (sigma**2 + 1).sqrt()[:, None, None, None], sigma

    def _evaluate(self, x, sigma, cond, uncond, image_cond, batch_size: int):
        """All rows of one evaluation: in one call where the lengths agree, else prompts and negative prompts apart."""
        whole = uncond is None or cond.shape[1] == uncond.shape[1]
        if whole:
            rows = [cond] if uncond is None else [cond, *[uncond] * (1 + self._edits)]
            if opts.batch_cond_uncond:
                return self._call_model(x, sigma, catenate_conds(rows), image_cond)
            groups = [(catenate_conds(rows), x.shape[0])]
        else:
            groups = [(cond, cond.shape[0]), (uncond, uncond.shape[0])]
            batch_size = batch_size * 2 if opts.batch_cond_uncond else batch_size
        outputs, done = [], 0
        for group, count in groups:
            for a in range(0, count, batch_size):
                b = min(a + batch_size, count)
                rows = slice(done + a, done + b)
                outputs.append(self._call_model(x[rows], sigma[rows], subscript_cond(group, a, b), image_cond[rows]))
            done += count
        return torch.cat(outputs)

    def forward(self, x, sigma, uncond, cond, cond_scale, s_min_uncond, image_cond):
        if state.interrupted or state.skipped:
            raise sd_samplers_common.InterruptedException
        if self.classic_ddim_eps_estimation:
            x, sigma = self._at_noise_level(x, sigma)
        if sd_samplers_common.apply_refiner(self, sigma):
            cond, uncond = self.sampler.sampler_extra_args["cond"], self.sampler.sampler_extra_args["uncond"]
        conds_list, tensor = prompt_parser.reconstruct_multicond_batch(cond, self.step)
        uncond = prompt_parser.reconstruct_cond_batch(uncond, self.step)
        if self.mask_before_denoising and self.mask is not None:
            x = self._blend(x, sigma)

        # Rows: for each image its AND parts, then all images once more for their negative prompts.
        rows = [image for image, parts in enumerate(conds_list) for _ in parts] + list(range(len(conds_list)))
        image_conds = image_cond[rows]
        if self._edits:
            rows += range(len(conds_list))
            image_conds = torch.cat([image_conds, torch.zeros_like(self.init_latent)])
        seen = (x[rows], image_conds, sigma[rows]) if family.current.callbacks_see_rows else (x, image_cond, sigma)
        params = CFGDenoiserParams(
            *seen, state.sampling_step, state.sampling_steps, tensor, uncond, self)
        cfg_denoiser_callback(params)
        x_in, tensor, uncond = params.x, params.text_cond, params.text_uncond
        sigma_in, image_cond_in = params.sigma, params.image_cond
        if not family.current.callbacks_see_rows:
            x_in, image_cond_in, sigma_in = x_in[rows], image_cond_in[rows], sigma_in[rows]

        skip_uncond = self._skips_uncond(sigma, s_min_uncond)
        if skip_uncond:
            count = x_in.shape[0] - len(conds_list)
            x_in, sigma_in, image_cond_in = x_in[:count], sigma_in[:count], image_cond_in[:count]
        elif opts.pad_cond_uncond and tensor.shape[1] != uncond.shape[1]:
            tensor, uncond = self.pad_cond_uncond(tensor, uncond)
        x_out = self._evaluate(
            x_in, sigma_in, tensor, None if skip_uncond else uncond, image_cond_in, len(conds_list))
        first_rows = [parts[0][0] for parts in conds_list]
        if skip_uncond:
            x_out = torch.cat([x_out, x_out[first_rows]])
        if family.current.callbacks_see_rows:
            cfg_denoised_callback(
                CFGDenoisedParams(x_out, state.sampling_step, state.sampling_steps, self.inner_model))
        if self.need_last_noise_uncond:
            self.last_noise_uncond = x_out[-uncond.shape[0]:].clone()

        scale = 1.0 if skip_uncond else cond_scale * self.cond_scale_miltiplier
        if self._edits:
            denoised = self.combine_denoised_for_edit_model(x_out, scale)
        else:
            denoised = self.combine_denoised(x_out, conds_list, uncond, scale)
        if not self.mask_before_denoising and self.mask is not None:
            denoised = self._blend(denoised, sigma)
        self._store_previews(x_in, x_out, denoised, sigma, first_rows)

        after = AfterCFGCallbackParams(denoised, state.sampling_step, state.sampling_steps)
        cfg_after_cfg_callback(after)
        self.step += 1
        if self.classic_ddim_eps_estimation:
            return (x - after.x) / sigma[:, None, None, None]
        return after.x

    def _store_previews(self, x_in, x_out, denoised, sigma, first_rows: list[int]) -> None:
        """Note the clean image as it is now, for previews and for an interruption."""
        x = x_in[first_rows]
        self.sampler.last_latent = self.get_pred_x0(x, x_out[first_rows], sigma)
        if opts.live_preview_content == "Prompt":
            preview = self.sampler.last_latent
        elif opts.live_preview_content == "Negative prompt":
            preview = self.get_pred_x0(x, x_out[-len(first_rows):], sigma)
        else:
            preview = self.get_pred_x0(x, denoised, sigma)
        sd_samplers_common.store_latent(preview)
