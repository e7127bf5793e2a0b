"""Samplers that add fresh noise in every step. Arguments and order of callbacks as in `sampling.ode`."""

from __future__ import annotations

import torch

from modules.sampling.ode import derivative, evaluate, report


def ancestral_step(sigma, sigma_next, eta: float = 1.0):
    """Split a step: go down without noise to `sigma_down`, then add noise of level `sigma_up` to be at `sigma_next`."""
    if not eta:
        return sigma_next, 0.0
    sigma_up = min(sigma_next, eta * (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2) ** 0.5)
    return (sigma_next**2 - sigma_up**2) ** 0.5, sigma_up


def _between(denoised, x, share):
    """The point that keeps `share` of the noise of `x`."""
    return denoised + (x - denoised) * share


def _add_noise(x, sigma, sigma_next, level, noise_sampler, s_noise):
    return x + noise_sampler(sigma, sigma_next) * s_noise * level if sigma_next > 0 else x


@torch.no_grad()
def sample_euler_ancestral(
    model, x, sigmas, extra_args=None, callback=None, noise_sampler=None, eta=1.0, s_noise=1.0
):
    """Euler's method with ancestral sampling, which is DDPM's (Ho et al. 2020) in terms of sigma."""
    for i in range(len(sigmas) - 1):
        denoised = evaluate(model, x, sigmas[i], extra_args)
        sigma_down, sigma_up = ancestral_step(sigmas[i], sigmas[i + 1], eta)
        report(callback, i, x, sigmas[i], denoised)
        x = x + derivative(x, sigmas[i], denoised) * (sigma_down - sigmas[i])
        x = _add_noise(x, sigmas[i], sigmas[i + 1], sigma_up, noise_sampler, s_noise)
    return x


@torch.no_grad()
def sample_dpm_2_ancestral(
    model, x, sigmas, extra_args=None, callback=None, noise_sampler=None, eta=1.0, s_noise=1.0
):
    """DPM-Solver-2's midpoint (Lu et al. 2022, arXiv:2206.00927) with ancestral sampling."""
    for i in range(len(sigmas) - 1):
        denoised = evaluate(model, x, sigmas[i], extra_args)
        sigma_down, sigma_up = ancestral_step(sigmas[i], sigmas[i + 1], eta)
        report(callback, i, x, sigmas[i], denoised)
        slope = derivative(x, sigmas[i], denoised)
        if sigma_down > 0:
            sigma_mid = (sigmas[i] * sigma_down).sqrt()
            x_mid = x + slope * (sigma_mid - sigmas[i])
            slope = derivative(x_mid, sigma_mid, evaluate(model, x_mid, sigma_mid, extra_args))
        x = x + slope * (sigma_down - sigmas[i])
        x = _add_noise(x, sigmas[i], sigmas[i + 1], sigma_up, noise_sampler, s_noise)
    return x


@torch.no_grad()
def sample_dpmpp_2s_ancestral(
    model, x, sigmas, extra_args=None, callback=None, noise_sampler=None, eta=1.0, s_noise=1.0
):
    """DPM-Solver++(2S): Lu et al. (2022), arXiv:2211.01095, Algorithm 1, with ancestral sampling."""
    for i in range(len(sigmas) - 1):
        sigma = sigmas[i]
        denoised = evaluate(model, x, sigma, extra_args)
        sigma_down, sigma_up = ancestral_step(sigma, sigmas[i + 1], eta)
        report(callback, i, x, sigma, denoised)
        if sigma_down > 0:
            sigma_mid = (sigma * sigma_down).sqrt()
            x_mid = _between(denoised, x, sigma_mid / sigma)
            denoised = evaluate(model, x_mid, sigma_mid, extra_args)
        x = _between(denoised, x, sigma_down / sigma)
        x = _add_noise(x, sigma, sigmas[i + 1], sigma_up, noise_sampler, s_noise)
    return x


@torch.no_grad()
def sample_dpmpp_sde(
    model, x, sigmas, extra_args=None, callback=None, noise_sampler=None, eta=1.0, s_noise=1.0, r=0.5
):
    """DPM-Solver++ (stochastic), second order single step: Lu et al. (2022), arXiv:2211.01095, appendix."""
    for i in range(len(sigmas) - 1):
        sigma, sigma_next = sigmas[i], sigmas[i + 1]
        denoised = evaluate(model, x, sigma, extra_args)
        report(callback, i, x, sigma, denoised)
        if sigma_next == 0:
            x = denoised
            continue
        sigma_mid = sigma ** (1 - r) * sigma_next**r
        down, up = ancestral_step(sigma, sigma_mid, eta)
        x_mid = _between(denoised, x, down / sigma) + noise_sampler(sigma, sigma_mid) * s_noise * up
        denoised_mid = evaluate(model, x_mid, sigma_mid, extra_args)
        down, up = ancestral_step(sigma, sigma_next, eta)
        data = denoised + (denoised_mid - denoised) / (2 * r)
        x = _between(data, x, down / sigma) + noise_sampler(sigma, sigma_next) * s_noise * up
    return x


def _sde_noise(sigma_next, h, eta):
    """Level of the noise that the SDE adds in a step of length `h` in log sigma."""
    return sigma_next * (-(-2 * eta * h).expm1()).sqrt()


@torch.no_grad()
def sample_dpmpp_2m_sde(
    model, x, sigmas, extra_args=None, callback=None, noise_sampler=None, eta=1.0, s_noise=1.0, solver_type="midpoint"
):
    """SDE-DPM-Solver++(2M): Lu et al. (2022), arXiv:2211.01095, section 5; `solver_type` is midpoint or heun."""
    old_denoised = h_last = None
    for i in range(len(sigmas) - 1):
        sigma, sigma_next = sigmas[i], sigmas[i + 1]
        denoised = evaluate(model, x, sigma, extra_args)
        report(callback, i, x, sigma, denoised)
        if sigma_next == 0:
            x = denoised
            continue
        h = (sigma / sigma_next).log()
        decay = -(1 + eta) * h
        x = sigma_next / sigma * (-eta * h).exp() * x - decay.expm1() * denoised
        if old_denoised is not None:
            change = (denoised - old_denoised) * h / h_last
            second_order = decay.expm1() / -decay + 1 if solver_type == "heun" else -0.5 * decay.expm1()
            x = x + second_order * change
        if eta:
            x = x + noise_sampler(sigma, sigma_next) * s_noise * _sde_noise(sigma_next, h, eta)
        old_denoised, h_last = denoised, h
    return x


@torch.no_grad()
def sample_dpmpp_3m_sde(
    model, x, sigmas, extra_args=None, callback=None, noise_sampler=None, eta=1.0, s_noise=1.0
):
    """SDE-DPM-Solver++(2M) of Lu et al. (2022) carried to third order by one more divided difference."""
    history: list = []  # (denoised, step length) of the last two steps, newest first
    for i in range(len(sigmas) - 1):
        sigma, sigma_next = sigmas[i], sigmas[i + 1]
        denoised = evaluate(model, x, sigma, extra_args)
        report(callback, i, x, sigma, denoised)
        if sigma_next == 0:
            x = denoised
            continue
        h = (sigma / sigma_next).log()
        decay = (1 + eta) * h
        x = (-decay).exp() * x - (-decay).expm1() * denoised
        phi_2 = (-decay).expm1() / decay + 1
        if history:
            r0 = history[0][1] / h
            first = second = (denoised - history[0][0]) / r0
            if len(history) == 2:
                r1 = history[1][1] / h
                older = (history[0][0] - history[1][0]) / r1
                second = (first - older) / (r0 + r1)
                first = first + second * r0
                x = x - (phi_2 / decay - 0.5) * second
            x = x + phi_2 * first
        if eta:
            x = x + noise_sampler(sigma, sigma_next) * s_noise * _sde_noise(sigma_next, h, eta)
        history = [(denoised, h), *history[:1]]
    return x


@torch.no_grad()
def sample_lcm(model, x, sigmas, extra_args=None, callback=None, noise_sampler=None):
    """Luo et al. (2023), "Latent Consistency Models", multistep sampling: denoise fully, add noise, again."""
    for i in range(len(sigmas) - 1):
        denoised = evaluate(model, x, sigmas[i], extra_args)
        report(callback, i, x, sigmas[i], denoised)
        x = _add_noise(denoised, sigmas[i], sigmas[i + 1], sigmas[i + 1], noise_sampler, s_noise=1.0)
    return x
