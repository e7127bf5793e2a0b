"""The solver's step of an evaluation, of samplers with the loops that those of the Forge family have.

Each sampler in `tests/data/forge_samplers.json` is made here as a function with its loop, and evaluates as often as the
real one did; :mod:`tests.host.test_forge_samplers` compares the same table with what the adapter tells in a real host.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lbw.hosts import solver_steps
from tests.host.forge_samplers import HOSTS

STEPS = 8
SECOND_ORDER = {"DPM++ SDE", "DPM++ 2S a", "Heun", "DPM2", "DPM2 a", "Restart"}
"""What a host marks as such, as far as it matters here."""


class Denoiser:
    """A host's denoiser, which asks before each evaluation for its step."""

    def __init__(self, name: str, func: Callable[..., Any]) -> None:
        config = SimpleNamespace(name=name, options={"second_order": True} if name in SECOND_ORDER else {})
        self.sampler, self.step, self.counter = SimpleNamespace(func=func, config=config), 0, 0
        self.told: list[int] = []

    def __call__(self, level: float) -> None:
        self.forward(torch.tensor([level]))

    def forward(self, sigma: Tensor) -> None:
        self.told.append(solver_steps.of(self, self.counter))
        self.step += 1

    def report(self, step: int) -> None:
        """What a sampler calls back, as a rule after its first evaluation of a step."""
        self.counter = step


def evaluating(*times: int, less: int = 0) -> Callable[..., None]:
    """A sampler that evaluates so often in its steps, of which there may be ``less``; the last number is of all further
    ones."""

    def sample(model: Denoiser, sigmas: Tensor) -> None:
        for i in range(len(sigmas) - 1 - less):
            for evaluation in range(times[min(i, len(times) - 1)]):
                model(float(sigmas[i]))
                if evaluation == 0:
                    model.report(i)

    return sample


TWICE, THRICE = evaluating(*[2] * 7, 1), evaluating(*[3] * 6, 2, 1)


def sample_with_solver(model: Denoiser, sigmas: Tensor) -> None:
    Solver(model).dpm_solver_fast([3, 3, 2])


class Solver:
    def __init__(self, model: Denoiser) -> None:
        self.model = model

    def dpm_solver_fast(self, orders: list[int]) -> None:
        for i in range(len(orders)):
            self.model(1.0)
            self.model.report(i)
            for _ in range(orders[i] - 1):
                self.dpm_solver_2_step()

    def dpm_solver_2_step(self) -> None:
        self.model(1.0)

    def dpm_solver_adaptive(self, attempts: int) -> None:
        info = {"steps": 0}
        for _ in range(attempts):
            for _ in range(3):
                self.model(1.0)
            info["steps"] += 1
            self.model.report(info["steps"] - 1)


def adaptive(model: Denoiser, sigmas: Tensor) -> None:
    Solver(model).dpm_solver_adaptive(4)


def delegating(model: Denoiser, sigmas: Tensor) -> None:
    sample_all(model, sigmas)


def sample_all(model: Denoiser, sigmas: Tensor) -> None:
    for i in range(len(sigmas) - 1):
        for _ in range(2 if i else 1):
            model(float(sigmas[i]))
            model.report(i)


def after_loop(model: Denoiser, sigmas: Tensor) -> None:
    sample_but_last(model, sigmas)


def sample_but_last(model: Denoiser, sigmas: Tensor) -> None:
    i = 0
    for i in range(len(sigmas) - 2):
        model(float(sigmas[i]))
        model(float(sigmas[i]))
        model.report(i)
    model(float(sigmas[i]))


def before_loop(model: Denoiser, sigmas: Tensor) -> None:
    model(float(sigmas[0]))
    model(float(sigmas[0]))
    sigmas = sigmas[1:]
    for i in range(len(sigmas) - 2):
        model(float(sigmas[i]))
        model.report(i)
        model(float(sigmas[i]))


def restarting(model: Denoiser, sigmas: Tensor) -> None:
    pairs = []
    for i in range(len(sigmas) - 1):
        pairs.append((sigmas[i], sigmas[i + 1]))
    for step, (start, end) in enumerate(pairs):
        model(float(start))
        model.report(step)
        if end > 0:
            model(float(end))


def first_twice(model: Denoiser, sigmas: Tensor) -> None:
    """Of seven steps; it reports at the end of each."""
    for i in range(len(sigmas) - 2):
        model(float(sigmas[i]))
        if i == 0:
            model(float(sigmas[1]))
        model.report(i)


def multistep(model: Denoiser, timesteps: Tensor) -> None:
    predict_and_correct(model, timesteps)


def predict_and_correct(model: Denoiser, timesteps: Tensor) -> None:
    """Whose loop over ``i`` is over orders."""
    model(float(timesteps[0]))
    for step in range(1, len(timesteps) - 1):
        for i in range(2):
            assert i < 2
        model(float(timesteps[step]))
        model.report(step - 1)


def multistep_by_index(model: Denoiser, sigmas: Tensor) -> None:
    for step_index in range(len(sigmas) - 1):
        correct(model, float(sigmas[step_index]))
        model.report(step_index)


def unipc_by_index(model: Denoiser, timesteps: Tensor) -> None:
    multistep_by_index(model, timesteps)


def correct(model: Denoiser, level: float) -> None:
    for i in range(1, 3):
        if i == 2:
            model(level)


def integrating(model: Denoiser, sigmas: Tensor) -> None:
    integrate(model)


def integrate(model: Denoiser) -> None:
    for i in range(2):  # images
        assert i < 2
        for level in (8.0, 7.0, 6.5, 7.0, 1.5, 0.25):
            model(level)


LOOPS: dict[str, Callable[..., None]] = {
    **dict.fromkeys(
        [
            "DPM++ 2S Ancestral CFG++", "DPM++ 2S Ancestral CFG++ Dyn", "DPM++ 2S Ancestral Comfy",
            "DPM++ 2S Ancestral Comfy RF", "DPM++ 2S a", "DPM++ 2s a RF", "DPM++ SDE", "DPM++ SDE CFG++",
            "DPM++ SDE Classic", "DPM++ SDE Comfy", "DPM2", "DPM2 a", "Heun", "Heun Comfy", "SEEDS 2 DP",
        ],
        TWICE,
    ),
    **dict.fromkeys(["Euler DY CFG++", "Euler Dy", "Euler Negative Dy"], evaluating(1, 1, 2, 2, 1)),
    **dict.fromkeys(["Euler SMEA DY CFG++", "Euler SMEA Dy"], evaluating(2, 2, 1)),
    **dict.fromkeys(["Kohaku LoNyu Yog", "Kohaku_LoNyu_Yog"], evaluating(3, 3, 3, 3, 3, 1)),
    **dict.fromkeys(["DDIM", "DDIM CFG++"], evaluating(1, less=1)),
    "HeunPP2": THRICE,
    "SEEDS 3 DP": evaluating(*[3] * 7, 1),
    "DPM fast": sample_with_solver,
    "SA-Solver-Pece": delegating,
    "RES Solver": after_loop,
    "DPM++ 2S Ancestral CFG++ Intern": before_loop,
    "Restart": restarting,
    "PLMS": first_twice,
}
"""{sampler: a function with its loop}, of all that do not evaluate once in each step."""

BY_INDEX = {"Forge Classic, 2025-10", "Forge Neo, 2026-02"}
"""The hosts whose UniPC has a loop over all steps."""


def told(name: str, func: Callable[..., None]) -> list[int]:
    denoiser = Denoiser(name, func)
    func(denoiser, torch.arange(STEPS, -1, -1, dtype=torch.float32))
    return denoiser.told


ROWS = [(host, sampler) for host, rows in HOSTS.items() for sampler in rows]


@pytest.mark.parametrize(("host", "sampler"), ROWS)
def test_each_evaluation_is_told_the_solvers_step(host: str, sampler: str):
    func = LOOPS.get(sampler, evaluating(1))
    if sampler == "UniPC":
        func = unipc_by_index if host in BY_INDEX else multistep
    assert told(sampler, func) == HOSTS[host][sampler]


@pytest.mark.parametrize("host", HOSTS)
def test_recorded_steps_go_up_one_by_one(host: str):
    for sampler, row in HOSTS[host].items():
        assert row[0] == 0, sampler
        assert all(after - before in (0, 1) for before, after in pairwise(row)), sampler


def test_a_solver_that_counts_its_attempts_is_asked_for_them():
    assert told("DPM adaptive", adaptive) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_a_solver_without_steps_is_in_the_step_of_its_schedule_that_has_the_noise():
    assert told("ODE", integrating) == [0, 1, 1, 1, 6, 7] * 2


@pytest.mark.parametrize(
    ("name", "wanted"), [("Heun", [0, 0, 1, 1]), ("another", [0, 1, 1, 1])], ids=["second order", "the host's count"]
)
def test_a_sampler_that_says_nothing_is_counted(name: str, wanted: list[int]):
    def silent(model: Denoiser, _levels: Tensor) -> None:
        for _ in range(4):
            model(1.0)

    assert told(name, silent) == wanted


def test_a_sampler_that_is_no_function_is_counted():
    denoiser = Denoiser("another", evaluating(1))
    del denoiser.sampler.func
    denoiser(1.0)
    denoiser(1.0)
    assert denoiser.told == [0, 1]
