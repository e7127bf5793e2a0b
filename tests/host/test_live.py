"""A hand on the strengths while an image is made: in force from the next step on, for that generation alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.host.conftest import Bench


@contextmanager
def task(name: str) -> Iterator[str]:
    """The host is at a task with this id."""
    from modules import progress

    progress.start_task(name)
    try:
        yield name
    finally:
        progress.finish_task(name)


def backend() -> Any:
    from lbw.hosts.backend import Backend

    return Backend()


class Player:
    """Moves strengths before evaluations, {evaluation of the generation, from 0 on: {index of a tag: strength}}."""

    def __init__(self, bench: Bench, moves: dict[int, dict[int, float]], name: str = "task(mine)") -> None:
        self._bench, self._moves, self._name = bench, moves, name
        self._count = 0
        self.seen: list[Any] = []

    def __call__(self, _params: Any) -> None:
        job = backend().job(self._name)
        self.seen.append(job)
        moves = self._moves.get(self._count, {})
        if moves:
            assert backend().play(self._name, {job.faders[index].key: value for index, value in moves.items()})
        self._count += 1


def unet(recorded: Any, name: str) -> list[float]:
    """The strength in all blocks of the U-Net at each evaluation."""
    found = []
    for strengths in recorded.strengths:
        blocks = [pair for block, pair in strengths[name].items() if block.startswith(("IN", "M", "OUT"))]
        values = [value for pair in blocks for value in pair]
        assert max(values) - min(values) < 1e-2
        found.append(round(sum(values) / len(values), 2))
    return found


def play(bench: Bench, prompt: str, moves: dict[int, dict[int, float]], *names: str, **fields: Any) -> Any:
    """Generate while a hand plays; the result, the strengths at each evaluation, and what was shown after each."""
    player = Player(bench, moves)
    with task("task(mine)"), bench.webui.observing(player):
        result, record = bench.record(*names, prompt=prompt, **fields)
    return result, record, player


def test_a_move_is_in_force_from_the_next_step_on(bench: Bench):
    _, record, player = play(bench, "a cat <lora:t_lora:1>", {2: {0: 0.4}}, "t_lora", steps=6)
    assert unet(record, "t_lora") == [1, 1, 1, 0.4, 0.4, 0.4]
    assert [job.step for job in player.seen] == [*range(6)]
    assert [job.faders[0].strength for job in player.seen] == [1, 1, 1, 0.4, 0.4, 0.4]
    over = backend().job("task(mine)")
    assert not over.is_running
    assert over.faders[0].played_tag == "<lora:t_lora:te=1:unet=1@0,1@2,0.4@3>"
