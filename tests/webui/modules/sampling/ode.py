"""Solvers of the probability flow ODE dx/dsigma = (x - D(x, sigma)) / sigma, some with noise put in between.

Each takes the denoiser `model`, the start `x` and the levels `sigmas`. `callback({"i": step, ...})` comes after the
first model evaluation of a step, so the second evaluation of a step is seen with the same counter as the first of
the next: hosts rely on this order. `noise_sampler(sigma, sigma_next)` gives standard normal noise like `x`.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch

from modules.sampling.schedules import karras

SQRT2_MINUS_1 = 2**0.5 - 1


def derivative(x, sigma, denoised):
    return (x - denoised) / sigma


def evaluate(model, x, sigma, extra_args):
    """D(x, sigma) with the same level for all images."""
    return model(x, sigma * x.new_ones(x.shape[0]), **(extra_args or {}))


def report(callback, i, x, sigma, denoised, sigma_hat=None):
    if callback is not None:
        sigma_hat = sigma if sigma_hat is None else sigma_hat
        callback({"x": x, "i": i, "sigma": sigma, "sigma_hat": sigma_hat, "denoised": denoised})


def churn(x, sigma, steps, noise_sampler, s_churn, s_tmin, s_tmax, s_noise):
    """Karras et al. (2022), Algorithm 2, lines 4 to 6: go back up to `sigma_hat` by adding noise."""
    if s_churn <= 0 or not s_tmin <= sigma <= s_tmax:
        return x, sigma
    sigma_hat = sigma * (1 + min(s_churn / steps, SQRT2_MINUS_1))
    return x + noise_sampler(sigma, sigma_hat) * s_noise * (sigma_hat**2 - sigma**2) ** 0.5, sigma_hat


@torch.no_grad()
def sample_euler(
    model, x, sigmas, extra_args=None, callback=None, noise_sampler=None,
    s_churn=0.0, s_tmin=0.0, s_tmax=float("inf"), s_noise=1.0,
):
    """Karras et al. (2022), Algorithm 2 without the second order correction."""
    steps = len(sigmas) - 1
    for i in range(steps):
        x, sigma_hat = churn(x, sigmas[i], steps, noise_sampler, s_churn, s_tmin, s_tmax, s_noise)
        denoised = evaluate(model, x, sigma_hat, extra_args)
        report(callback, i, x, sigmas[i], denoised, sigma_hat)
        x = x + derivative(x, sigma_hat, denoised) * (sigmas[i + 1] - sigma_hat)
    return x


def heun_step(model, x, sigma, sigma_next, extra_args, on_first):
    """One step of Heun's method; Euler's where it ends at zero. `on_first(denoised)` follows the first evaluation."""
    denoised = evaluate(model, x, sigma, extra_args)
    on_first(denoised)
    slope, dt = derivative(x, sigma, denoised), sigma_next - sigma
    if sigma_next == 0:
        return x + slope * dt
    x_euler = x + slope * dt
    slope_next = derivative(x_euler, sigma_next, evaluate(model, x_euler, sigma_next, extra_args))
    return x + (slope + slope_next) / 2 * dt


@torch.no_grad()
def sample_heun(
    model, x, sigmas, extra_args=None, callback=None, noise_sampler=None,
    s_churn=0.0, s_tmin=0.0, s_tmax=float("inf"), s_noise=1.0,
):
    """Karras et al. (2022), Algorithm 2."""
    steps = len(sigmas) - 1
    for i in range(steps):
        x, sigma_hat = churn(x, sigmas[i], steps, noise_sampler, s_churn, s_tmin, s_tmax, s_noise)

        def on_first(denoised, i=i, x=x, sigma_hat=sigma_hat):
            report(callback, i, x, sigmas[i], denoised, sigma_hat)

        x = heun_step(model, x, sigma_hat, sigmas[i + 1], extra_args, on_first)
    return x


@torch.no_grad()
def sample_dpm_2(
    model, x, sigmas, extra_args=None, callback=None, noise_sampler=None,
    s_churn=0.0, s_tmin=0.0, s_tmax=float("inf"), s_noise=1.0,
):
    """Karras et al. (2022), Algorithm 2 with DPM-Solver-2's midpoint, in log sigma, in place of Heun's end point."""
    steps = len(sigmas) - 1
    for i in range(steps):
        x, sigma_hat = churn(x, sigmas[i], steps, noise_sampler, s_churn, s_tmin, s_tmax, s_noise)
        denoised = evaluate(model, x, sigma_hat, extra_args)
        report(callback, i, x, sigmas[i], denoised, sigma_hat)
        slope = derivative(x, sigma_hat, denoised)
        if sigmas[i + 1] == 0:
            x = x + slope * (sigmas[i + 1] - sigma_hat)
            continue
        sigma_mid = (sigma_hat * sigmas[i + 1]).sqrt()
        x_mid = x + slope * (sigma_mid - sigma_hat)
        slope_mid = derivative(x_mid, sigma_mid, evaluate(model, x_mid, sigma_mid, extra_args))
        x = x + slope_mid * (sigmas[i + 1] - sigma_hat)
    return x


def adams_bashforth_weights(sigmas, i: int, order: int) -> list[float]:
    """Integrals over step i of the Lagrange polynomials through the levels of the last `order` slopes."""
    nodes = [float(sigmas[i - j]) for j in range(order)]
    weights = []
    for j, node in enumerate(nodes):
        polynomial = np.polynomial.Polynomial([1.0])
        for k, other in enumerate(nodes):
            if k != j:
                polynomial = polynomial * np.polynomial.Polynomial([-other, 1.0]) / (node - other)
        integral = polynomial.integ()
        weights.append(float(integral(float(sigmas[i + 1])) - integral(nodes[0])))
    return weights


@torch.no_grad()
def sample_lms(model, x, sigmas, extra_args=None, callback=None, order=4):
    """Linear multistep method (Adams-Bashforth with uneven steps), as Liu et al. (2022) use for diffusion."""
    slopes: list = []
    for i in range(len(sigmas) - 1):
        denoised = evaluate(model, x, sigmas[i], extra_args)
        slopes = [derivative(x, sigmas[i], denoised), *slopes[: order - 1]]
        report(callback, i, x, sigmas[i], denoised)
        weights = adams_bashforth_weights(sigmas, i, len(slopes))
        x = x + sum(weight * slope for weight, slope in zip(weights, slopes, strict=True))
    return x


@torch.no_grad()
def sample_dpmpp_2m(model, x, sigmas, extra_args=None, callback=None):
    """DPM-Solver++(2M): Lu et al. (2022), arXiv:2211.01095, Algorithm 2."""
    old_denoised = h_last = None
    for i in range(len(sigmas) - 1):
        denoised = evaluate(model, x, sigmas[i], extra_args)
        report(callback, i, x, sigmas[i], denoised)
        sigma_next = sigmas[i + 1]
        h = (sigmas[i] / sigma_next).log()  # infinite in the last step, which therefore returns `denoised`
        data = denoised
        if old_denoised is not None and sigma_next > 0:
            r = h_last / h
            data = denoised + (denoised - old_denoised) / (2 * r)
        x = sigma_next / sigmas[i] * x - (-h).expm1() * data
        old_denoised, h_last = denoised, h
    return x


def _restart_steps(sigmas, restart_list):
    """The (from, to) pairs of the main way down, with those of each restart put in where it begins."""
    at = {int((sigmas - level).abs().argmin()): plan for level, plan in restart_list.items()}
    pairs = []
    for i in range(len(sigmas) - 1):
        pairs.append((sigmas[i], sigmas[i + 1]))
        if i + 1 not in at:
            continue
        steps, times, sigma_top = at[i + 1]
        top = int((sigmas - sigma_top).abs().argmin())
        if top < i + 1:
            again = karras(steps, float(sigmas[i + 1]), float(sigmas[top]), device=sigmas.device)[:-1]
            pairs += list(itertools.pairwise(again)) * times
    return pairs


@torch.no_grad()
def sample_restart(
    model, x, sigmas, extra_args=None, callback=None, noise_sampler=None, s_noise=1.0, restart_list=None
):
    """Xu et al. (2023), "Restart Sampling for Improving Generative Processes", with Heun's method.

    `restart_list` is {lower level: (steps, times, upper level)}; if not given, restarts begin at 20 steps.
    """
    steps = len(sigmas) - 1
    if restart_list is None:
        restart_list = {}
        if steps >= 20:
            again, times = (steps // 4, 2) if steps >= 36 else (9, 1)
            sigmas = karras(steps - again * times, float(sigmas[-2]), float(sigmas[0]), device=sigmas.device)
            restart_list = {0.1: (again + 1, times, 2)}
    reached = None
    for i, (sigma, sigma_next) in enumerate(_restart_steps(sigmas, restart_list)):
        if reached is not None and reached < sigma:
            x = x + noise_sampler(reached, sigma) * s_noise * (sigma**2 - reached**2) ** 0.5

        def on_first(denoised, i=i, x=x, sigma=sigma):
            report(callback, i, x, sigma, denoised)

        x = heun_step(model, x, sigma, sigma_next, extra_args, on_first)
        reached = sigma_next
    return x
