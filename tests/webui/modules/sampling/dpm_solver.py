"""DPM-Solver with a fixed number of evaluations, and with adaptive steps: Lu et al. (2022), arXiv:2206.00927.

Works in t = -log sigma. In both, evaluations do not map to steps; `callback` counts solver steps.
"""

from __future__ import annotations

import math

import torch

from modules.sampling.ode import evaluate
from modules.sampling.sde import ancestral_step


def _sigma(t):
    return (-t).exp()


class _Step:
    """One step from `t` to `t_next`; its evaluations are kept, so that solvers of several orders can share them."""

    def __init__(self, model, x, t, t_next, extra_args):
        self.model, self.x, self.t, self.t_next, self.extra_args = model, x, t, t_next, extra_args
        self.h = t_next - t
        self.eps = self._eps(x, t)
        self.middle: dict[float, tuple] = {}

    def _eps(self, x, t):
        return (x - evaluate(self.model, x, _sigma(t), self.extra_args)) / _sigma(t)

    @property
    def denoised(self):
        return self.x - _sigma(self.t) * self.eps

    def _eps_change(self, r: float, correction=0.0):
        """How the noise at a fraction `r` of the step differs from that at its beginning."""
        if r not in self.middle:
            s = self.t + r * self.h
            u = self.x - _sigma(s) * (r * self.h).expm1() * self.eps - _sigma(s) * correction
            self.middle[r] = self._eps(u, s) - self.eps
        return self.middle[r]

    def first_order(self):
        return self.x - _sigma(self.t_next) * self.h.expm1() * self.eps

    def second_order(self, r1: float = 1 / 2):
        change = self._eps_change(r1)
        return self.first_order() - _sigma(self.t_next) / (2 * r1) * self.h.expm1() * change

    def third_order(self, r1: float = 1 / 3, r2: float = 2 / 3):
        change_1 = self._eps_change(r1)
        curvature = (r2 * self.h).expm1() / (r2 * self.h) - 1
        change_2 = self._eps_change(r2, correction=r2 / r1 * curvature * change_1)
        return self.first_order() - _sigma(self.t_next) / r2 * (self.h.expm1() / self.h - 1) * change_2


def _ancestral_target(t, t_next, t_end, eta: float):
    """Where to step to, and the noise to add there, so as to arrive at `t_next`."""
    if not eta:
        return t_next, 0.0
    sigma_down, _ = ancestral_step(_sigma(t), _sigma(t_next), eta)
    target = torch.minimum(t_end, -sigma_down.log())
    return target, (_sigma(t_next) ** 2 - _sigma(target) ** 2).sqrt()


def _report(callback, i, step):
    if callback is not None:
        callback({"x": step.x, "i": i, "sigma": _sigma(step.t), "sigma_hat": _sigma(step.t), "denoised": step.denoised})


def _limits(x, sigma_min, sigma_max):
    return [-torch.tensor(float(sigma), device=x.device).log() for sigma in (sigma_max, sigma_min)]


@torch.no_grad()
def sample_dpm_fast(
    model, x, sigma_min, sigma_max, n, extra_args=None, callback=None, noise_sampler=None, eta=0.0, s_noise=1.0
):
    """DPM-Solver-fast: third order steps, and the last one or two of lower order, so that there are `n` evaluations."""
    t_start, t_end = _limits(x, sigma_min, sigma_max)
    thirds, rest = divmod(n, 3)
    orders = [3] * thirds + [rest] if rest else [3] * (thirds - 1) + [2, 1]
    ts = torch.linspace(float(t_start), float(t_end), len(orders) + 1, device=x.device)
    return dpm_solver_fast(orders, ts, t_end, model, x, extra_args, callback, noise_sampler, eta, s_noise)


def dpm_solver_fast(orders, ts, t_end, model, x, extra_args, callback, noise_sampler, eta, s_noise):
    """All steps. On the hosts, too, the loop is not in the function that stands in the table of samplers."""
    for i, order in enumerate(orders):
        target, up = _ancestral_target(ts[i], ts[i + 1], t_end, eta)
        step = _Step(model, x, ts[i], target, extra_args)
        _report(callback, i, step)
        x = (step.first_order, step.second_order, step.third_order)[order - 1]()
        x = x + noise_sampler(_sigma(ts[i]), _sigma(ts[i + 1])) * s_noise * up
    return x


class _StepSize:
    """Integral controller of the step length: `propose` says whether to keep a step, and sets the next length."""

    SAFETY = 0.81

    def __init__(self, h: float, order: float):
        self.h, self.order = h, order

    def propose(self, error: float) -> bool:
        factor = 1 + math.atan((1 / (error + 1e-8)) ** (1 / self.order) - 1)
        self.h *= factor
        return factor >= self.SAFETY


@torch.no_grad()
def sample_dpm_adaptive(
    model, x, sigma_min, sigma_max, extra_args=None, callback=None, noise_sampler=None,
    eta=0.0, s_noise=1.0, rtol=0.05, atol=0.0078, h_init=0.05,
):
    """DPM-Solver-23: steps of third order, as long as the embedded second order result agrees within tolerance."""
    limits = _limits(x, sigma_min, sigma_max)
    size = _StepSize(h_init, 1.5 if eta else 3)
    return dpm_solver_adaptive(limits, size, model, x, extra_args, callback, noise_sampler, eta, s_noise, rtol, atol)


def dpm_solver_adaptive(limits, size, model, x, extra_args, callback, noise_sampler, eta, s_noise, rtol, atol):
    """The loop, which on the host is not in the sampler's own function either, and counts its steps in ``info``."""
    t, t_end = limits
    x_low_last = x
    info = {"steps": 0}
    while t < t_end - 1e-5:
        t_next = torch.minimum(t_end, t + size.h)
        target, up = _ancestral_target(t, t_next, t_end, eta)
        step = _Step(model, x, t, target, extra_args)
        x_low, x_high = step.second_order(r1=1 / 3), step.third_order()
        tolerance = (rtol * torch.maximum(x_low.abs(), x_low_last.abs())).clamp(min=atol)
        error = float(torch.linalg.norm((x_low - x_high) / tolerance) / x.numel() ** 0.5)
        if size.propose(error):
            x_low_last = x_low
            x = x_high + noise_sampler(_sigma(t), _sigma(t_next)) * s_noise * up
            t = t_next
        _report(callback, info["steps"], step)
        info["steps"] += 1
    return x
