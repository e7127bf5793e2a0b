"""Samplers over the model's own timesteps. `model(x, timestep)` predicts noise, and `timesteps` goes upwards."""

from __future__ import annotations

import math

import torch

from modules.sampling.ode import evaluate


def _report(callback, i, x, denoised):
    if callback is not None:
        callback({"x": x, "i": i, "sigma": 0, "sigma_hat": 0, "denoised": denoised})


def _alphas(model, timesteps):
    """alphas_cumprod at each timestep and at the one before it, which for the first is itself timestep 0's."""
    alphas_cumprod = model.inner_model.inner_model.alphas_cumprod
    previous = torch.cat([timesteps.new_zeros(1), timesteps[:-1]])
    return alphas_cumprod[timesteps].double(), alphas_cumprod[previous].double()


def _ddim_step(x, eps, alpha, alpha_prev, sigma=0.0):
    """Song et al. (2020), "Denoising Diffusion Implicit Models", equation 12, without its noise term."""
    pred_x0 = (x - math.sqrt(1 - alpha) * eps) / math.sqrt(alpha)
    return math.sqrt(alpha_prev) * pred_x0 + math.sqrt(max(1 - alpha_prev - sigma**2, 0.0)) * eps, pred_x0


@torch.no_grad()
def ddim(model, x, timesteps, extra_args=None, callback=None, noise_sampler=None, eta=0.0):
    """Song et al. (2020), "Denoising Diffusion Implicit Models"; eta 1 is DDPM."""
    alphas, alphas_prev = _alphas(model, timesteps)
    for i in range(len(timesteps) - 1):
        index = len(timesteps) - 1 - i
        a, a_prev = float(alphas[index]), float(alphas_prev[index])
        eps = evaluate(model, x, float(timesteps[index]), extra_args)
        sigma = eta * math.sqrt((1 - a_prev) / (1 - a) * (1 - a / a_prev))
        x, pred_x0 = _ddim_step(x, eps, a, a_prev, sigma)
        x = x + sigma * noise_sampler(a, a_prev)
        _report(callback, i, x, pred_x0)
    return x


# Adams-Bashforth coefficients for even steps, newest first.
_ADAMS = {2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}


@torch.no_grad()
def plms(model, x, timesteps, extra_args=None, callback=None):
    """Liu et al. (2022), "Pseudo Numerical Methods for Diffusion Models on Manifolds"; the first step looks ahead."""
    alphas, alphas_prev = _alphas(model, timesteps)
    history: list = []
    for i in range(len(timesteps) - 1):
        index = len(timesteps) - 1 - i
        a, a_prev = float(alphas[index]), float(alphas_prev[index])
        eps = evaluate(model, x, float(timesteps[index]), extra_args)
        history = [eps, *history[:3]]
        if len(history) == 1:
            x_ahead, _ = _ddim_step(x, eps, a, a_prev)
            eps_ahead = evaluate(model, x_ahead, float(timesteps[max(index - 1, 0)]), extra_args)
            combined = (eps + eps_ahead) / 2
        else:
            combined = sum(c * e for c, e in zip(_ADAMS[len(history)], history, strict=True))
        x, pred_x0 = _ddim_step(x, combined, a, a_prev)
        _report(callback, i, x, pred_x0)
    return x


class _VPSchedule:
    """The variance preserving process x_t = alpha_t x_0 + sigma_t noise in continuous time, 0 < t <= 1."""

    def __init__(self, alphas_cumprod: torch.Tensor):
        self.log_alphas = 0.5 * alphas_cumprod.double().log().cpu()
        self.count = len(alphas_cumprod)

    def log_alpha(self, t: float) -> float:
        """Linear between the training times 1/N, 2/N, ..., 1."""
        position = t * self.count - 1
        low = min(max(int(position), 0), self.count - 2)
        below, above = float(self.log_alphas[low]), float(self.log_alphas[low + 1])
        return below + (above - below) * (position - low)

    def alpha(self, t: float) -> float:
        return math.exp(self.log_alpha(t))

    def sigma(self, t: float) -> float:
        return math.sqrt(-math.expm1(2 * self.log_alpha(t)))

    def log_snr(self, t: float) -> float:
        return self.log_alpha(t) - math.log(self.sigma(t))


def _unipc_coefficients(rks: list[float], h: float, variant: str) -> tuple[torch.Tensor, torch.Tensor, float]:
    """R, b and B(h) of UniPC, for data prediction, where h turns to -h."""
    hh = -h
    b_h = hh if variant == "bh1" else math.expm1(hh)
    nodes = torch.tensor(rks, dtype=torch.float64)
    rows, right, phi = [], [], math.expm1(hh) / hh - 1
    for k in range(1, len(rks) + 1):
        rows.append(nodes ** (k - 1))
        right.append(phi * math.factorial(k) / b_h)
        phi = phi / hh - 1 / math.factorial(k + 1)
    return torch.stack(rows), torch.tensor(right, dtype=torch.float64), b_h


def _unipc_update(schedule, x, history, t, order, variant, evaluate_at):
    """One step of UniP and, unless `evaluate_at` is None, of UniC. `history` is (time, prediction), newest first.

    Returns:
        The new x, and the prediction at `t` or None.
    """
    (t0, m0), older = history[0], history[1:order]
    h = schedule.log_snr(t) - schedule.log_snr(t0)
    rks = [(schedule.log_snr(time) - schedule.log_snr(t0)) / h for time, _ in older]
    changes = [(m - m0) / r for (_, m), r in zip(older, rks, strict=True)]
    alpha = schedule.alpha(t)
    base = schedule.sigma(t) / schedule.sigma(t0) * x - alpha * math.expm1(-h) * m0
    matrix, right, b_h = _unipc_coefficients([*rks, 1.0], h, variant)

    def combined(weights, terms):
        return sum(float(w) * term for w, term in zip(weights, terms, strict=True)) if terms else 0.0

    predictor = torch.linalg.solve(matrix[:-1, :-1], right[:-1]) if len(older) > 1 else [0.5] * len(older)
    x_new = base - alpha * b_h * combined(predictor, changes)
    if evaluate_at is None:
        return x_new, None
    m_new = evaluate_at(x_new, t)
    corrector = torch.linalg.solve(matrix, right) if older else [0.5]
    return base - alpha * b_h * combined(corrector, [*changes, m_new - m0]), m_new


@torch.no_grad()
def unipc(
    model, x, timesteps, extra_args=None, callback=None, is_img2img=False, order=3, variant="bh1",
    lower_order_final=True,
):
    """Zhao et al. (2023), "UniPC: A Unified Predictor-Corrector Framework", multistep with data prediction."""
    schedule = _VPSchedule(model.inner_model.inner_model.alphas_cumprod)
    steps = len(timesteps)
    t_start = float(timesteps[-1]) / 1000 + 1 / 1000 if is_img2img else 1.0
    times = torch.linspace(t_start, 1 / schedule.count, steps + 1, dtype=torch.float64).tolist()

    def data_prediction(x, t):
        eps = evaluate(model, x, (t - 1 / schedule.count) * 1000, extra_args)
        return (x - schedule.sigma(t) * eps) / schedule.alpha(t)

    return _unipc_steps(schedule, x, times, data_prediction, callback, order, variant, lower_order_final)


def _unipc_steps(schedule, x, times, data_prediction, callback, order, variant, lower_order_final):
    """On the hosts, too, the loop is not in the function that stands in the table of samplers."""
    steps = len(times) - 1
    history = [(times[0], data_prediction(x, times[0]))]
    for i in range(1, steps + 1):
        step_order = min(order, i, steps + 1 - i) if lower_order_final else min(order, i)
        look = data_prediction if i < steps else None
        x, prediction = _unipc_update(schedule, x, history, times[i], step_order, variant, look)
        _report(callback, i - 1, x, history[0][1] if prediction is None else prediction)
        history = [(times[i], prediction), *history[: order - 1]]
    return x
